"""Ragged rows: taking some of them, in order, into arrays that other rows are taken into too.

Bits: counting them, and ranges of them in Arrow's layout of booleans, eight to a byte.

Bit ``i`` of an array is ``bits[i // 8] >> (i % 8) & 1``. Arrays of booleans stay packed like
this from the shard they are read from to the shard they are written to.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import copy_values, load_word, store_word

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
    """Copy ``length`` bits to ``out_start``, where ``out_bits`` must be zero as yet.

    Seven bytes at a time, which lie in a word of eight at whatever bit they begin, and near the
    end of either array one.
    """
    done = np.int64(0)
    while done < length:
        place, shift = (start + done) >> 3, (start + done) & 7
        out_place, out_shift = (out_start + done) >> 3, (out_start + done) & 7
        if place + 8 <= bits.size and out_place + 8 <= out_bits.size:
            num_bits = min(np.int64(56), length - done)
            word = load_word(bits, place) >> np.uint64(shift)
            word &= (_ONE << np.uint64(num_bits)) - _ONE
            word = load_word(out_bits, out_place) | (word << np.uint64(out_shift))
            store_word(out_bits, out_place, word)
        else:
            num_bits = min(np.int64(8), length - done)
            byte = np.int64(bits[place]) >> shift
            if shift + num_bits > 8:
                byte |= np.int64(bits[place + 1]) << (8 - shift)
            byte &= (1 << num_bits) - 1
            out_bits[out_place] |= np.uint8(byte << out_shift & 0xFF)
            if out_shift + num_bits > 8:
                out_bits[out_place + 1] |= np.uint8(byte >> (8 - out_shift))
        done += num_bits


@kernel
def take_rows(
    rows: NDArray[np.int64],
    values: NDArray[Any],
    offsets: NDArray[np.int64],
    out_start: int,
    out_values: NDArray[Any],
) -> int:
    """Copy the values of some rows, one after the other.

    Args:
        rows: int64, which rows.
        values: of all rows.
        offsets: int64 [num_rows + 1], into ``values``.
        out_start: where the first goes.
        out_values: as ``values``.

    Returns:
        Where the next would go.
    """
    for row in rows:
        start, stop = offsets[row], offsets[row + 1]
        copy_values(values, start, out_values, out_start, stop - start)
        out_start += stop - start
    return out_start


@kernel
def take_bit_rows(
    rows: NDArray[np.int64],
    bits: NDArray[np.uint8],
    first_bit: int,
    offsets: NDArray[np.int64],
    out_start: int,
    out_bits: NDArray[np.uint8],
) -> int:
    """Copy the bits of some rows, one after the other.

    Args:
        rows: int64, which rows.
        bits: of all rows, packed.
        first_bit: where the first row begins.
        offsets: int64 [num_rows + 1], counted from ``first_bit``.
        out_start: the bit where the first goes.
        out_bits: zero from there on.

    Returns:
        Where the next would go.
    """
    for row in rows:
        start, stop = offsets[row], offsets[row + 1]
        copy_bits(bits, first_bit + start, stop - start, out_start, out_bits)
        out_start += stop - start
    return out_start
