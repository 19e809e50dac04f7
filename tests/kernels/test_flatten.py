"""Batches equal those of the readable twin, one or several at once."""

from dataclasses import astuple
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference.flattening import Flat, Row, flatten
from tokkit.kernels.instances.flatten import flatten_batches

PAD_ID = 1


@st.composite
def instances(draw: st.DrawFn) -> Row:
    ids = draw(st.lists(st.integers(0, 60_000), min_size=1, max_size=70))
    places = sorted(draw(st.sets(st.integers(0, len(ids) - 1), max_size=5)))
    return Row(
        ids=ids,
        segment_length=draw(st.integers(0, len(ids))),
        pair_label=draw(st.sampled_from([0, 1, -100])),
        masked=[(place, draw(st.integers(0, 60_000))) for place in places],
    )


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[Row]], list[dict[str, int]], bool]:
    """Rows of each batch, and its sizes, which have room for them and for some more."""
    causal = draw(st.booleans())
    rows = draw(st.lists(st.lists(instances(), min_size=1, max_size=4), min_size=1, max_size=3))
    sizes = []
    for batch in rows:
        padding, longest = draw(st.integers(0, 50)), draw(st.integers(1, 40))
        num_padding = -(-padding // longest)
        predictions = sum(len(row.ids) - 1 if causal else len(row.masked) for row in batch)
        sizes.append(
            {
                "num_tokens": sum(len(row.ids) for row in batch) + padding,
                "num_sequences": len(batch) + num_padding + draw(st.integers(0, 3)),
                "num_predictions": predictions + draw(st.integers(0, 3)),
                "longest": longest,
            }
        )
    return rows, sizes, causal


def run(rows: list[list[Row]], sizes: list[dict[str, int]], dtype: Any, *, causal: bool) -> Any:
    """The kernel on all batches: its outputs cut into batches, and how many pairs it counted."""
    every = [row for batch in rows for row in batch]
    names = ("num_tokens", "num_sequences", "num_predictions")
    bounds = np.zeros((4, len(rows) + 1), np.int64)
    bounds[0, 1:] = np.cumsum(list(map(len, rows)))
    bounds[1:, 1:] = np.cumsum([[size[name] for size in sizes] for name in names], axis=1)
    _, tokens, sequences, predictions = bounds[:, -1].tolist()
    lengths = [tokens] * 4 + [sequences + len(rows)] + [predictions] * 2 + [sequences]
    outs = [
        np.full(length, 99, np.int32 if i == 4 else np.int64) for i, length in enumerate(lengths)
    ]
    num_pairs = np.empty(len(rows), np.int64)
    masked = [pair for row in every for pair in row.masked]
    flatten_batches(
        np.array([token for row in every for token in row.ids], dtype),
        np.cumsum([0, *(len(row.ids) for row in every)]),
        np.array([row.segment_length for row in every]),
        np.array([row.pair_label for row in every]),
        np.array([place for place, _ in masked], np.uint16),
        np.array([label for _, label in masked], dtype),
        np.cumsum([0, *(len(row.masked) for row in every)]),
        bounds,
        np.array([size["longest"] for size in sizes]),
        PAD_ID,
        causal,
        *(*outs, num_pairs),
    )
    kinds = [1] * 4 + [2] + [3] * 2 + [2]
    found = []
    for number, (start, stop) in enumerate(pairwise(bounds.T)):
        spread = [(number, number + 1) if i == 4 else (0, 0) for i in range(8)]
        found.append(
            Flat(
                *(
                    out[start[kind] + before : stop[kind] + after].tolist()
                    for out, kind, (before, after) in zip(outs, kinds, spread, strict=True)
                )
            )
        )
    return found, num_pairs.tolist()


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@given(batches())
def test_batches_are_those_of_the_twin(
    dtype: Any, drawn: tuple[list[list[Row]], list[dict[str, int]], bool]
) -> None:
    rows, sizes, causal = drawn
    found, num_pairs = run(rows, sizes, dtype, causal=causal)
    for flat, batch, size in zip(found, rows, sizes, strict=True):
        assert flat == flatten(batch, **size, pad_id=PAD_ID, causal=causal)
    assert num_pairs == [sum(row.pair_label >= 0 for row in batch) for batch in rows]


def test_the_table_in_the_docstring_is_right() -> None:
    rows = [
        Row([2, 9, 3], segment_length=3, pair_label=0, masked=[(1, 7)]),
        Row([2, 4, 3, 5, 3], segment_length=3, pair_label=1, masked=[(3, 8)]),
    ]
    size = {"num_tokens": 10, "num_sequences": 4, "num_predictions": 3, "longest": 8}
    (flat,), num_pairs = run([rows], [size], np.uint16, causal=False)
    assert astuple(flat) == (
        [2, 9, 3, 2, 4, 3, 5, 3, 1, 1],
        [0, 0, 0, 0, 0, 0, 1, 1, 1, 1],
        [0, 1, 2, 0, 1, 2, 3, 4, 0, 1],
        [0, 0, 0, 1, 1, 1, 1, 1, 2, 2],
        [0, 3, 8, 10, 10],
        [1, 6, 0],
        [7, 8, -100],
        [0, 1, -100, -100],
    )
    assert num_pairs == [2]
