"""Rows of ragged columns, of values or of packed bits, and bitmaps.

Bit ``i`` of packed bits is ``bits[i // 8] >> (i % 8) & 1``, Arrow's layout of booleans. Columns of
booleans stay packed from the shard that they are read from to the shard that they are written to.
A bitmap has 64 bits to an element.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.arrays import Int64, Integer, PackedBits, UInt64
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import copy_values, load_word, store_word, trailing_zeros

_ONE = np.uint64(1)
_LAST = np.uint64(63)


@splice
def get_bit(bits: PackedBits, position: Integer) -> bool:
    """Return whether a packed bit is set."""
    return bool(bits[position >> 3] >> (position & 7) & 1)


@splice
def copy_bits(
    bits: PackedBits, start: Integer, length: Integer, out_start: Integer, out_bits: PackedBits
) -> None:
    """Copy packed bits; ``out_bits`` must be zero from ``out_start`` on.

    Copies seven bytes at a time, which lie in a word of eight at whatever bit they begin, and one
    byte at a time near the end of either array.
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


@splice
def set_bit(bitmap: UInt64, position: Integer) -> None:
    """Set a bit of a bitmap."""
    bitmap[position >> 6] |= _ONE << (np.uint64(position) & _LAST)


@splice
def clear_bit(bitmap: UInt64, position: Integer) -> None:
    """Clear a bit of a bitmap."""
    bitmap[position >> 6] &= ~(_ONE << (np.uint64(position) & _LAST))


@splice
def has_bit(bitmap: UInt64, position: Integer) -> bool:
    """Return whether a bit of a bitmap is set."""
    return bool(bitmap[position >> 6] >> (np.uint64(position) & _LAST) & _ONE)


@splice
def next_bit(bitmap: UInt64, position: Integer) -> Integer:
    """Return the first set bit at or after ``position``; there must be one."""
    block = position >> 6
    rest = bitmap[block] >> (np.uint64(position) & _LAST) << (np.uint64(position) & _LAST)
    while not rest:
        block += 1
        rest = bitmap[block]
    first: Integer = (block << 6) + trailing_zeros(rest)
    return first


@kernel
def take_rows(
    rows: Int64, values: NDArray[Any], offsets: Int64, out_start: int, out_values: NDArray[Any]
) -> int:
    """Copy the values of some rows, one row after the other.

    Args:
        rows: int64, numbers of the rows.
        values: the values of all rows.
        offsets: int64 ``[num_rows + 1]``, into ``values``.
        out_start: where to write the first row.
        out_values: array of the same type as ``values``.

    Returns:
        Where the next row would go.
    """
    for place in range(len(rows)):
        row = rows[place]
        start, stop = offsets[row], offsets[row + 1]
        copy_values(values, start, out_values, out_start, stop - start)
        out_start += stop - start
    return out_start


@kernel
def take_bit_rows(
    rows: Int64,
    bits: PackedBits,
    first_bit: int,
    offsets: Int64,
    out_start: int,
    out_bits: PackedBits,
) -> int:
    """Copy the packed bits of some rows, one row after the other.

    Args:
        rows: int64, numbers of the rows.
        bits: the bits of all rows.
        first_bit: where the first row begins in ``bits``.
        offsets: int64 ``[num_rows + 1]``, counted from ``first_bit``.
        out_start: where to write the first row.
        out_bits: zero from ``out_start`` on.

    Returns:
        Where the next row would go.
    """
    for place in range(len(rows)):
        row = rows[place]
        start, stop = offsets[row], offsets[row + 1]
        copy_bits(bits, first_bit + start, stop - start, out_start, out_bits)
        out_start += stop - start
    return out_start
