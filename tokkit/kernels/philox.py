"""Random draws: pure functions of a seed and a counter, so that no generator keeps state.

Philox4x32-10 turns a key and a counter into 128 random bits (Salmon et al., "Parallel random
numbers: as easy as 1, 2, 3", SC 2011):

    key     = seed, low and high half
    counter = draw number | purpose << 24 + epoch | index low | index high

so instance 7 of epoch 3 gets the same bits on any machine, in any order, with any number of
workers, and no two purposes share a draw. Two of a block's four 32-bit lanes make a uniform
integer, one makes a yes-or-no draw:

    stream = stream_of(PAIR, epoch)
    lanes = philox(seed, stream, np.uint64(5), np.uint64(0))   # block 0 of document 5
    die = uniform_below(join(lanes[0], lanes[1]), np.uint64(6))
    happens = lanes[2] < threshold                             # chance_threshold(0.1)

Everything is ``uint64``: Numba makes a float of ``uint64`` and ``int64`` together, and the product
of two lanes needs 64 bits.

``permute_range`` computes the shuffled order of an epoch position by position, without storing it,
by a Feistel network on a grid. For 10 instances the grid has 4 rows and 3 columns, and instance 7
is at row 7 // 3, column 7 % 3. One round moves the row by a draw that depends on the column, the
next moves the column by a draw that depends on the row:

    row    = (row    + draw(column)) % 4
    column = (column + draw(row))    % 3

Each round can be undone, so together they permute the 12 cells. Cells 10 and 11 are no instances:
an instance that lands there goes through the network again until it lands elsewhere (cycle
walking), so the result is a permutation of 0 to 9. The grid is nearly square and has few such
cells: a second walk is needed once in sqrt(size) / 2 times, where a network on the halves of the
bits walks up to four times. (Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA
2002.)

``sample_names`` draws documents by a hash of their names (FNV-1a, then the finalizer of
MurmurHash3), so that the draw does not depend on how the corpus is cut into work units. Folders
are left out of the hash: a corpus may move. Draws for two purposes have different salts.
"""

import math

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int32, UInt64
from tokkit.kernels.jit import kernel, splice

# Purposes of draws. The number is part of every counter, so it must never change.
HOLD_OUT = 1  # whether a document is held out for evaluation; index: document
PAIR = 2  # one pass over a document: short or not, cuts, labels, negatives; index: document
FRONT_OF_A = 3  # tokens truncated from the front of segment A; index: document, instance
FRONT_OF_B = 4  # tokens truncated from the front of segment B; index: document, instance
MASK = 5  # which tokens are masked and how; index: instance
SHUFFLE = 6  # the order of an epoch; index: row or column of the Feistel network
MASK_UNIT = 7  # which words, spans or n-grams are masked; index: instance
SOURCE_RANGES = 8  # record batches that a unit's random segments are from; index: unit
NOISE = 16  # T5's spans; index: instance
PERMUTATION = 17  # XLNet's targets and their order; index: instance

_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)
_MULTIPLIER_0 = np.uint64(0xD251_1F53)
_MULTIPLIER_1 = np.uint64(0xCD9E_8D57)
_WEYL_0 = np.uint64(0x9E37_79B9)
_WEYL_1 = np.uint64(0xBB67_AE85)

# Four rounds pass for random on a large grid (Luby and Rackoff). A grid of a few cells needs more:
# the orders of five instances are equally frequent from 16 rounds on (chi-square tells them apart
# in 40,000 seeds with 8 rounds, and just so with 12). A position costs 0.3 us, as much as masking
# 128 tokens.
_ROUNDS = 16

_FNV_BASIS = np.uint64(0xCBF2_9CE4_8422_2325)
_FNV_PRIME = np.uint64(0x0000_0100_0000_01B3)
_MIX_1 = np.uint64(0xFF51_AFD7_ED55_8CCD)
_MIX_2 = np.uint64(0xC4CE_B9FE_1A85_EC53)
_MIX_SHIFT = np.uint64(33)
_SLASH = 0x2F


def stream_of(purpose: int, epoch: int) -> np.uint64:
    """Return the counter's second word; ``epoch`` (or pass) counts modulo 2^24."""
    return np.uint64(purpose << 24 | (epoch & 0xFF_FFFF))


def chance_threshold(probability: float) -> np.uint64:
    """Return the number that a lane is below with ``probability``, to within 2^-33."""
    return np.uint64(round(probability * 2**32))


@splice
def philox(
    seed: np.uint64, stream: np.uint64, index: np.uint64, number: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Draw one block of four lanes of 32 bits.

    Args:
        seed: the key, 64 bits.
        stream: 32 bits, see ``stream_of``.
        index: 64 bits, number of the document, instance, …
        number: 32 bits, number of the block among those of ``index``.
    """
    lane_0, lane_1 = number, stream
    lane_2, lane_3 = index & _LOW, index >> _HALF
    key_0, key_1 = seed & _LOW, seed >> _HALF
    for _ in range(10):
        product_0 = _MULTIPLIER_0 * lane_0
        product_1 = _MULTIPLIER_1 * lane_2
        lane_0 = (product_1 >> _HALF) ^ lane_1 ^ key_0
        lane_1 = product_1 & _LOW
        lane_2 = (product_0 >> _HALF) ^ lane_3 ^ key_1
        lane_3 = product_0 & _LOW
        key_0 = (key_0 + _WEYL_0) & _LOW
        key_1 = (key_1 + _WEYL_1) & _LOW
    return lane_0, lane_1, lane_2, lane_3


@splice
def join(low: np.uint64, high: np.uint64) -> np.uint64:
    """Join two lanes to a word of 64 random bits."""
    return high << _HALF | low


@splice
def uniform_below(word: np.uint64, bound: np.uint64) -> np.uint64:
    """Return a uniform integer in [0, bound): the high half of the product of 64 bits and ``bound``.

    No integer is more likely than another by more than ``bound`` / 2^64; ``bound`` is at most
    2^32, so by less than 2^-32. The low half of the product, ``word * bound``, is a fraction in
    2^-64 that is uniform whatever the integer is, to the same precision, and can be spent on
    another draw.
    """
    low = (word & _LOW) * bound
    return ((word >> _HALF) * bound + (low >> _HALF)) >> _HALF


@splice
def _shift(
    coordinate: np.uint64,
    size: np.uint64,
    other: np.uint64,
    number: int,
    seed: np.uint64,
    stream: np.uint64,
) -> np.uint64:
    """Move ``coordinate`` within [0, size) by a draw that depends on ``other``."""
    lanes = philox(seed, stream, other, np.uint64(number))
    shifted = coordinate + uniform_below(join(lanes[0], lanes[1]), size)
    return shifted - size if shifted >= size else shifted


@kernel
def permute_range(
    start: int, size: int, seed: np.uint64, stream: np.uint64, out_instances: UInt64
) -> None:
    """Write the instances at consecutive positions of the shuffled order.

    Args:
        start: the first position; ``start + len(out_instances)`` is at most ``size``.
        size: number of instances, at least 1, below 2^62.
        seed: of the order.
        stream: ``stream_of(SHUFFLE, epoch)``.
        out_instances: uint64, the instance at each position.
    """
    end = np.uint64(size)
    # An even number of rows, so that a round may be an odd permutation. An odd-by-odd grid has only
    # even ones, which shows after cycle walking: of six instances on 3 by 3 cells, odd orders came
    # 2.4 times as often as even ones.
    num_rows = np.uint64((np.int64(math.sqrt(size)) | 1) + 1)
    num_columns = end // num_rows + np.uint64(1)
    for number in range(len(out_instances)):
        cell = np.uint64(start + number)
        while True:
            row = cell // num_columns
            column = cell % num_columns
            for step in range(0, _ROUNDS, 2):
                row = _shift(row, num_rows, column, step, seed, stream)
                column = _shift(column, num_columns, row, step + 1, seed, stream)
            cell = row * num_columns + column
            if cell < end:
                break
        out_instances[number] = cell


@kernel
def sample_names(
    values: Bytes, offsets: Int32, threshold: np.uint64, salt: np.uint64, out_drawn: Bools
) -> None:
    """Draw the names whose hash is below a threshold.

    Args:
        values: uint8, the names.
        offsets: int32 ``[num_names + 1]``, into ``values``.
        threshold: 2^64 times the share to draw.
        salt: of the hash; draws with different salts are independent.
        out_drawn: bool ``[num_names]``, whether each name is drawn.
    """
    for name in range(out_drawn.size):
        mixed = _FNV_BASIS
        for index in range(offsets[name], offsets[name + 1]):
            mixed = (mixed ^ np.uint64(values[index])) * _FNV_PRIME
            if values[index] == _SLASH:
                mixed = _FNV_BASIS
        mixed ^= salt
        mixed = (mixed ^ (mixed >> _MIX_SHIFT)) * _MIX_1
        mixed = (mixed ^ (mixed >> _MIX_SHIFT)) * _MIX_2
        out_drawn[name] = (mixed ^ (mixed >> _MIX_SHIFT)) < threshold
