"""The order of an epoch: a permutation that is computed, position by position, never stored.

A Feistel network on a grid. For 10 instances the grid has 4 rows and 3 columns, and instance 7
is row 7 // 3, column 7 % 3. One round moves the row by a draw that depends on the column, the
next moves the column by a draw that depends on the row, both modulo the grid's size:

    row    = (row    + draw(column)) % 4
    column = (column + draw(row))    % 3

Each round can be undone, so together they permute the 12 cells. The draws are Philox's, keyed by
seed, epoch and round. Cells 10 and 11 are no instances: who lands there goes through the network
again until it lands on one (cycle walking), so what remains is a permutation of 0 to 9. The grid
is nearly square and leaves few such cells: a second walk is needed once in sqrt(size) / 2 times,
where a network on bit halves walks up to four times.

Source: Black and Rogaway, "Ciphers with arbitrary finite domains", CT-RSA 2002.

Philox4x32-10: the one source of randomness, a pure function from a counter to 128 random bits.

Nothing here keeps state. A draw is named, and its name is the counter (Salmon et al., "Parallel
random numbers: as easy as 1, 2, 3", SC 2011):

    key     = seed, low and high half
    counter = draw number | purpose << 24 + epoch | index low | index high

so instance 7 of epoch 3 gets the same bits on any machine, in any order, by any number of
workers, and no two purposes ever share a draw. Of a block's four 32-bit lanes two make a uniform
integer and one makes a chance:

    stream = stream_of(PAIR, epoch)
    lanes = philox(seed, stream, np.uint64(5), np.uint64(0))   # block 0 of document 5
    die = uniform_below(join(lanes[0], lanes[1]), np.uint64(6))
    tenth = lanes[2] < threshold                               # chance_threshold(0.1)

Everything is held in ``uint64``: Numba makes a float of ``uint64`` and ``int64`` together, and
a product of two lanes needs the room.

Drawing documents by their names, so that the draw does not depend on how work is cut.

A name is hashed (FNV-1a, then the finalizer of MurmurHash3) from behind its last slash on: a
corpus may move to another folder. A document is drawn if its hash is below a threshold.
"""

import math

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import Bytes

# Who draws. The number is part of every counter: one that is in use never changes its meaning.
HOLD_OUT = 1  # whether a document is held out for evaluation; index: document
PAIR = 2  # a document's visit: short or not, cuts, labels, negatives; index: document
FRONT_OF_A = 3  # how much truncation takes from the front of segment A; index: document, instance
FRONT_OF_B = 4  # likewise of segment B
MASK = 5  # which tokens are masked and how; index: instance
SHUFFLE = 6  # the order of an epoch; index: half of the Feistel network
MASK_UNIT = 7  # which words, spans or n-grams are masked; index: instance
NOISE = 16  # T5's spans; index: instance
PERMUTATION = 17  # XLNet's targets and their order; index: instance

_LOW = np.uint64(0xFFFF_FFFF)
_HALF = np.uint64(32)
_MULTIPLIER_0 = np.uint64(0xD251_1F53)
_MULTIPLIER_1 = np.uint64(0xCD9E_8D57)
_WEYL_0 = np.uint64(0x9E37_79B9)
_WEYL_1 = np.uint64(0xBB67_AE85)


def stream_of(purpose: int, epoch: int) -> np.uint64:
    """The counter's second word; ``epoch`` (or pass) counts modulo 2^24."""
    return np.uint64(purpose << 24 | (epoch & 0xFF_FFFF))


def chance_threshold(probability: float) -> np.uint64:
    """What a lane is compared with: it is below this with ``probability``, to 2^-33."""
    return np.uint64(round(probability * 2**32))


@splice
def philox(
    seed: np.uint64, stream: np.uint64, index: np.uint64, number: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Draw one block.

    Args:
        seed: the key, 64 bits.
        stream: 32 bits, see ``stream_of``.
        index: 64 bits, which document, instance, …
        number: 32 bits, which block of that index.

    Returns:
        Four lanes of 32 bits each.
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
    """Two lanes as one word of 64 random bits."""
    return high << _HALF | low


@splice
def uniform_below(word: np.uint64, bound: np.uint64) -> np.uint64:
    """A uniform integer in [0, bound) from 64 random bits: the high half of their product.

    No integer is more likely than another by more than ``bound`` / 2^64; ``bound`` is at most
    2^32, so by less than 2^-32. The low half of the product, ``word * bound``, is what is left
    of the randomness: a fraction in 2^-64 that is uniform whatever the integer was, to the same
    precision, and may be spent on another draw.
    """
    low = (word & _LOW) * bound
    return ((word >> _HALF) * bound + (low >> _HALF)) >> _HALF


_BASIS = np.uint64(0xCBF2_9CE4_8422_2325)
_PRIME = np.uint64(0x0000_0100_0000_01B3)
_MIX_1 = np.uint64(0xFF51_AFD7_ED55_8CCD)
_MIX_2 = np.uint64(0xC4CE_B9FE_1A85_EC53)
_SHIFT = np.uint64(33)
_SLASH = 0x2F


@kernel
def draw_names(
    values: Bytes, offsets: NDArray[np.int32], threshold: np.uint64, out_drawn: NDArray[np.bool_]
) -> None:
    """Draw names whose hash is below a threshold.

    Args:
        values: uint8, the names.
        offsets: int32 ``[num_names + 1]``, into ``values``.
        threshold: 2^64 times the share that is drawn.
        out_drawn: bool ``[num_names]``.
    """
    for name in range(out_drawn.size):
        mixed = _BASIS
        for index in range(offsets[name], offsets[name + 1]):
            mixed = (mixed ^ np.uint64(values[index])) * _PRIME
            if values[index] == _SLASH:
                mixed = _BASIS
        mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX_1
        mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX_2
        out_drawn[name] = (mixed ^ (mixed >> _SHIFT)) < threshold


# Four rounds pass for random where a grid is large (Luby and Rackoff). A grid of a few cells wants
# more: the orders of five instances are equally frequent from 16 on (at 8 chi-square tells them
# apart in 40,000 seeds, at 12 just so). A position costs 0.3 us, as much as masking 128 tokens.
_ROUNDS = 16


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
    start: int, size: int, seed: np.uint64, stream: np.uint64, out_instances: NDArray[np.uint64]
) -> None:
    """Say which instances stand at consecutive positions of the shuffled order.

    Args:
        start: the first position; ``start + len(out_instances)`` is at most ``size``.
        size: number of instances, at least 1, below 2^62.
        seed: of the order.
        stream: ``stream_of(SHUFFLE, epoch)``.
        out_instances: uint64, filled with the instance at each position.
    """
    end = np.uint64(size)
    # An even number of rows, so that a round may be an odd permutation. A grid odd by odd gives
    # even ones only, which shows after cycle walking: of six instances on 3 by 3 cells, odd
    # orders came 2.4 times as often as even ones.
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
