"""Instances gathered from record batches equal those in lists."""

from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokkit.kernels.instances.flatten import TABLE_DTYPE, find_rows, gather_rows

Array = npt.NDArray[Any]

VALUES = {"segment_length": np.int32, "document": np.uint64, "label": np.int8, "weight": np.float64}
VALUE_SIZES = np.array([np.dtype(kind).itemsize for kind in VALUES.values()])


def offsets_of(rows: list[list[int]]) -> Array:
    return np.cumsum([0, *map(len, rows)], dtype=np.int64)


def join(rows: list[list[int]], dtype: Any) -> Array:
    return np.array([*chain.from_iterable(rows)], dtype)


def make_rows(random: np.random.Generator, num_rows: int, largest: int) -> list[dict[str, Any]]:
    rows = []
    for _ in range(num_rows):
        length, num_masked = int(random.integers(1, 90)), int(random.integers(0, 4))
        rows.append(
            {
                "ids": random.integers(0, largest, length).tolist(),
                "segment_length": int(random.integers(0, length + 1)),
                "document": int(random.integers(0, 1 << 63)) * 2,
                "label": int(random.choice([0, 1, -100])),
                "weight": random.normal(),
                "positions": random.integers(0, length, num_masked).tolist(),
                "labels": random.integers(0, largest, num_masked).tolist(),
                "words": random.integers(0, 2, length).tolist(),
            }
        )
    return rows


def lay_out(
    rows: list[dict[str, Any]], dtype: Any, first_bit: int
) -> tuple[list[Array], Array, Array]:
    """One record batch: its columns, its row of the table, and the addresses of its values."""
    bits = [0] * first_bit + [bit for row in rows for bit in row["words"]]
    columns = [
        join([row["ids"] for row in rows], dtype),
        offsets_of([row["ids"] for row in rows]),
        join([row["positions"] for row in rows], np.uint16),
        join([row["labels"] for row in rows], dtype),
        offsets_of([row["positions"] for row in rows]),
        np.packbits(np.array(bits, np.uint8), bitorder="little"),
    ]
    sizes = len(columns[0]), len(columns[2])
    addresses = (*(column.ctypes.data for column in columns), first_bit, *sizes)
    values = [np.array([row[name] for row in rows], kind) for name, kind in VALUES.items()]
    value_addresses = np.array([[column.ctypes.data for column in values]])
    return [*columns, *values], np.array([addresses], TABLE_DTYPE), value_addresses


@pytest.mark.parametrize("with_words", [False, True])
@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@given(data=st.data())
def test_instances_are_copied_from_their_record_batches(
    dtype: Any, data: st.DataObject, *, with_words: bool
) -> None:
    random = np.random.default_rng(data.draw(st.integers(0, 999)))
    sizes = data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    batches = [make_rows(random, size, np.iinfo(dtype).max + 1) for size in sizes]
    laid_out = [lay_out(batch, dtype, data.draw(st.integers(0, 9))) for batch in batches]
    table = np.concatenate([row for _, row, _ in laid_out])
    addresses = np.concatenate([row for _, _, row in laid_out])
    every = [row for batch in batches for row in batch]
    starts = np.cumsum([0, *sizes], dtype=np.int64)
    chosen = data.draw(st.lists(st.integers(0, len(every) - 1), min_size=1, max_size=9))
    rows = [every[number] for number in chosen]

    numbers = np.array(chosen, np.uint64)
    found = np.empty(len(numbers), np.int64)
    assert find_rows(numbers, starts, table, found) == 0
    assert found.tolist() == [
        next(n for n, stop in enumerate(starts[1:]) if number < stop) for number in chosen
    ]
    num_rows, room = len(rows), 90 * len(rows)
    ids, masked_labels = np.empty((2, room), dtype)
    offsets, masked_offsets = np.empty((2, num_rows + 1), np.int64)
    values = np.empty((len(VALUES), num_rows), np.int64)
    positions = np.empty(room, np.uint16)
    words = np.zeros(room // 8 + 1 if with_words else 0, np.uint8)
    largest = gather_rows(
        numbers,
        starts,
        table,
        addresses,
        VALUE_SIZES,
        found,
        ids,
        offsets,
        values,
        positions,
        masked_labels,
        masked_offsets,
        words,
    )
    assert offsets.tolist() == offsets_of([row["ids"] for row in rows]).tolist()
    assert masked_offsets.tolist() == offsets_of([row["labels"] for row in rows]).tolist()
    num_tokens, num_masked = offsets[-1], masked_offsets[-1]
    for array, number, name in (
        (ids, num_tokens, "ids"),
        (positions, num_masked, "positions"),
        (masked_labels, num_masked, "labels"),
    ):
        assert array[:number].tolist() == [value for row in rows for value in row[name]]
    for (name, kind), gathered in zip(VALUES.items(), values, strict=True):
        column = gathered.view(kind) if np.dtype(kind).itemsize == 8 else gathered
        assert column.tolist() == [row[name] for row in rows]
    assert largest == max(max(row["ids"] + row["labels"]) for row in rows)
    if with_words:
        bits = np.unpackbits(words, bitorder="little")
        assert bits[:num_tokens].tolist() == [bit for row in rows for bit in row["words"]]
        assert not bits[num_tokens:].any()


def test_instances_in_unmapped_record_batches_are_counted() -> None:
    table = np.zeros(3, TABLE_DTYPE)
    table["input_ids"] = [64, 0, 64]
    starts, numbers = np.array([0, 2, 5, 6]), np.array([4, 0, 2, 5, 4], np.uint64)
    found = np.empty(5, np.int64)
    assert find_rows(numbers, starts, table, found) == 3
    assert found.tolist() == [1, 0, 1, 2, 1]


DAMAGED = {
    "negative": (1, 1, -1),
    "beyond the ids": (1, 3, 1 << 62),
    "backwards": (1, 2, 0),
    "masks beyond": (4, 3, 1 << 40),
    "masks backwards": (4, 2, -5),
    "a position beyond": (2, 0, 90),
}


@pytest.mark.parametrize(("column", "place", "value"), DAMAGED.values(), ids=DAMAGED)
def test_columns_that_changed_since_they_were_checked_are_not_followed(
    column: int, place: int, value: int
) -> None:
    rows = make_rows(np.random.default_rng(0), 3, 100)
    for row in rows:
        row["positions"], row["labels"] = [0], [1]
    columns, table, addresses = lay_out(rows, np.uint16, 0)
    columns[column][place] = value
    numbers = np.arange(3, dtype=np.uint64)
    ids, labels = np.empty((2, 270), np.uint16)
    offsets, masked_offsets = np.empty((2, 4), np.int64)
    values, positions = np.empty((len(VALUES), 3), np.int64), np.empty(3, np.uint16)
    words = np.zeros(270 // 8 + 1, np.uint8)
    batches, starts = np.zeros(3, np.int64), np.array([0, 3])
    inputs = (numbers, starts, table, addresses, VALUE_SIZES, batches)
    outputs = (ids, offsets, values, positions, labels, masked_offsets)
    assert gather_rows(*inputs, *outputs, words) == -1
