"""Bits are counted and copied, and rows taken, as with Python's integers and lists."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokkit.kernels.jit import kernel
from tokkit.kernels.memory import count_ones, trailing_zeros
from tokkit.kernels.ragged import copy_bits, get_bit, take_bit_rows, take_rows

words = st.integers(0, 2**64 - 1)


@kernel
def copy(bits: np.ndarray, start: int, length: int, out_start: int, out_bits: np.ndarray) -> None:
    copy_bits(bits, start, length, out_start, out_bits)


@kernel
def count(word: np.uint64) -> tuple[int, int]:
    return count_ones(word), trailing_zeros(word)


@given(words)
def test_ones_and_trailing_zeros_are_counted(word: int) -> None:
    lowest = (word & -word).bit_length() - 1 if word else 64
    assert count(np.uint64(word)) == (word.bit_count(), lowest)


@given(st.lists(st.booleans(), min_size=1, max_size=300), st.data())
def test_a_range_of_bits_is_copied_and_nothing_else(bits: list[bool], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(bits)))
    length = data.draw(st.integers(0, len(bits) - start))
    before = data.draw(st.lists(st.booleans(), max_size=90))
    out = np.packbits([*before, *([False] * (length + 9))], bitorder="little")
    copy(np.packbits(bits, bitorder="little"), start, length, len(before), out)
    found = [get_bit(out, position) for position in range(len(before) + length + 9)]
    assert found == [*before, *bits[start : start + length], *([False] * 9)]


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.int32])
@given(
    rows=st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=9), data=st.data()
)
def test_rows_are_taken_in_the_order_asked_for(
    dtype: Any, rows: list[list[int]], data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9))
    expected = [value for row in chosen for value in rows[row]]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    values = np.array([value for row in rows for value in row], dtype)
    out = np.full(len(expected) + 5, 77, dtype)
    assert take_rows(np.array(chosen, np.int64), values, offsets, 2, out) == len(expected) + 2
    assert out.tolist() == [77, 77, *expected, 77, 77, 77]


@given(
    rows=st.lists(st.lists(st.booleans(), max_size=20), min_size=1, max_size=9),
    first_bit=st.integers(0, 9),
    out_start=st.integers(0, 9),
    data=st.data(),
)
def test_bit_rows_are_taken_in_the_order_asked_for(
    rows: list[list[bool]], first_bit: int, out_start: int, data: st.DataObject
) -> None:
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=9))
    expected = [bit for row in chosen for bit in rows[row]]
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    bits = np.packbits([*[True] * first_bit, *chain.from_iterable(rows), True], bitorder="little")
    out = np.zeros(40, np.uint8)
    end = take_bit_rows(np.array(chosen, np.int64), bits, first_bit, offsets, out_start, out)
    assert end == out_start + len(expected)
    found = np.unpackbits(out, bitorder="little").astype(bool).tolist()
    assert found == [*[False] * out_start, *expected, *[False] * (320 - end)]
