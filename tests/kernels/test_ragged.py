"""Rows are taken as lists would be."""

from itertools import chain
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokkit.kernels.ragged import take_bit_rows, take_rows


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
def test_bit_rows_are_taken_likewise(
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
