"""Bits are counted and copied as Python's integers and lists would."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tokkit.kernels.jit import kernel
from tokkit.kernels.memory import count_ones, trailing_zeros
from tokkit.kernels.ragged import copy_bits, get_bit

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
