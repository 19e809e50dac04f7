"""Bits: counting them, and ranges of them in Arrow's layout of booleans, eight to a byte.

Bit ``i`` of an array is ``bits[i // 8] >> (i % 8) & 1``. Arrays of booleans stay packed like
this from the shard they are read from to the shard they are written to.
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import splice

Integer = int | np.int64  # to a kernel they are the same

_ONE = np.uint64(1)
_PAIRS = np.uint64(0x5555_5555_5555_5555)
_NIBBLES = np.uint64(0x3333_3333_3333_3333)
_BYTES = np.uint64(0x0F0F_0F0F_0F0F_0F0F)
_SUM = np.uint64(0x0101_0101_0101_0101)


@splice
def count_ones(word: np.uint64) -> np.uint64:
    """How many of the 64 bits are set.

    Sums pairs, nibbles, bytes (Warren, "Hacker's Delight", 5-1), a form that LLVM recognizes and
    turns into the processor's own instruction.
    """
    word = word - ((word >> _ONE) & _PAIRS)
    word = (word & _NIBBLES) + ((word >> np.uint64(2)) & _NIBBLES)
    word = (word + (word >> np.uint64(4))) & _BYTES
    return (word * _SUM) >> np.uint64(56)


@splice
def lowest_one(word: np.uint64) -> np.uint64:
    """Which bit is the lowest that is set, from 0; 64 where none is."""
    return count_ones(~word & (word - _ONE))


@splice
def get_bit(bits: NDArray[np.uint8], position: Integer) -> bool:
    """Whether a bit is set."""
    return bool(bits[position >> 3] >> (position & 7) & 1)


@splice
def copy_bits(
    bits: NDArray[np.uint8],
    start: Integer,
    length: Integer,
    out_start: Integer,
    out_bits: NDArray[np.uint8],
) -> None:
    """Copy ``length`` bits to ``out_start``, where ``out_bits`` must be zero as yet."""
    for done in range(0, length, 8):
        num_bits = min(8, length - done)
        position = start + done
        shift = position & 7
        byte = np.int64(bits[position >> 3]) >> shift
        if shift + num_bits > 8:
            byte |= np.int64(bits[(position >> 3) + 1]) << (8 - shift)
        byte &= (1 << num_bits) - 1
        position = out_start + done
        shift = position & 7
        out_bits[position >> 3] |= np.uint8(byte << shift & 0xFF)
        if shift + num_bits > 8:
            out_bits[(position >> 3) + 1] |= np.uint8(byte >> (8 - shift))
