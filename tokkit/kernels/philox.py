"""Philox4x32-10: the one source of randomness, a pure function from a counter to 128 random bits.

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
"""

import numpy as np

from tokkit.kernels.jit import splice

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
