"""Masks equal those of the readable twin token by token, and are as random as documented."""

from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.masking import mask_instance
from reference.statistics import chi_square_z, share_z
from tokkit.kernels.instances.mask_tokens import (
    Replacement,
    count_masked,
    find_special,
    mask_tokens,
    new_mask_memory,
    replacement_ids,
)
from tokkit.kernels.philox import MASK, chance_threshold, stream_of

MASK_ID = 4


@dataclass(frozen=True)
class Masked:
    ids: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    positions: npt.NDArray[np.uint16]
    labels: npt.NDArray[Any]
    masked_offsets: npt.NDArray[np.int64]


def mask(
    rows: list[list[int]],
    special: list[list[int]],
    *,
    dtype: Any = np.uint16,
    masked_lm_prob: float = 0.15,
    max_predictions: int = 1000,
    replacements: list[int] | None = None,
    shares: tuple[float, float] = (0.8, 0.1),
    seed: int = 0,
    epoch: int = 0,
    indices: list[int] | None = None,
) -> Masked:
    """Mask a ragged batch of rows."""
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    special_offsets = np.cumsum([0, *map(len, special)], dtype=np.int64)
    num_masked = count_masked(
        np.diff(offsets), np.diff(special_offsets), masked_lm_prob, max_predictions
    )
    masked_offsets = np.cumsum([0, *num_masked])
    ids = np.array([*chain.from_iterable(rows)], dtype)
    positions = np.empty(masked_offsets[-1], np.uint16)
    labels = np.empty(masked_offsets[-1], dtype)
    mask_tokens(
        ids,
        offsets,
        np.array([*chain.from_iterable(special)], np.int32),
        special_offsets,
        masked_offsets,
        np.array(range(len(rows)) if indices is None else indices, np.uint64),
        np.uint64(seed),
        stream_of(MASK, epoch),
        Replacement(MASK_ID, chance_threshold(shares[0]), chance_threshold(sum(shares))),
        np.array(replacements or [7, 8, 9], dtype),
        new_mask_memory(offsets, num_masked),
        positions,
        labels,
    )
    return Masked(ids, offsets, positions, labels, masked_offsets)


@st.composite
def batches(draw: st.DrawFn) -> tuple[list[list[int]], list[list[int]]]:
    """Rows of ids, and for each the positions that must not be chosen."""
    lengths = draw(st.lists(st.integers(1, 300), min_size=1, max_size=4))
    rows = [[draw(st.integers(10, 1 << 15)) + i for i in range(length)] for length in lengths]
    special = [
        sorted(draw(st.sets(st.integers(0, length - 1), max_size=min(length - 1, 5))))
        for length in lengths
    ]
    return rows, special


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@settings(max_examples=30)
@given(
    batch=batches(),
    options=st.fixed_dictionaries(
        {
            "masked_lm_prob": st.sampled_from([0.01, 0.15, 0.5, 1.0]),
            "max_predictions": st.sampled_from([1, 20, 1000]),
            "replacements": st.lists(st.integers(0, 60_000), min_size=1, max_size=9),
            "shares": st.sampled_from([(0.8, 0.1), (1.0, 0.0), (0.0, 1.0), (0.0, 0.0), (0.3, 0.6)]),
            "seed": st.integers(0, 2**64 - 1),
            "epoch": st.integers(0, 2**24 - 1),
        }
    ),
    first_index=st.integers(0, 2**63),
)
def test_masks_equal_those_of_the_twin(
    dtype: Any,
    batch: tuple[list[list[int]], list[list[int]]],
    options: dict[str, Any],
    first_index: int,
) -> None:
    rows, special = batch
    indices = [first_index + 3 * row for row in range(len(rows))]
    masked = mask(rows, special, dtype=dtype, indices=indices, **options)
    for row, ids in enumerate(rows):
        expected = mask_instance(ids, special[row], mask_id=MASK_ID, index=indices[row], **options)
        within = slice(masked.masked_offsets[row], masked.masked_offsets[row + 1])
        found = (
            masked.ids[masked.offsets[row] : masked.offsets[row + 1]].tolist(),
            masked.positions[within].tolist(),
            masked.labels[within].tolist(),
        )
        assert found == expected


@settings(max_examples=30)
@given(batches(), st.integers(0, 1000))
def test_masking_touches_only_what_it_reports_and_can_be_undone(
    batch: tuple[list[list[int]], list[list[int]]], seed: int
) -> None:
    rows, special = batch
    masked = mask(rows, special, seed=seed)
    for row, ids in enumerate(rows):
        within = slice(masked.masked_offsets[row], masked.masked_offsets[row + 1])
        positions = masked.positions[within].tolist()
        assert positions == sorted(set(positions))
        assert not set(positions) & set(special[row])
        restored = masked.ids[masked.offsets[row] : masked.offsets[row + 1]].copy()
        restored[positions] = masked.labels[within]
        assert restored.tolist() == ids


@pytest.mark.parametrize(
    ("length", "probability", "cap", "expected"),
    [
        (128, 0.15, 20, 19),  # round(19.2)
        (10, 0.15, 20, 2),  # a half is rounded to even
        (30, 0.15, 20, 4),  # 4.5 is rounded to even, too
        (4, 0.15, 20, 1),  # never none
        (512, 0.15, 20, 20),  # the cap
        (8, 1.0, 20, 5),  # three are special tokens
    ],
)
def test_masked_tokens_are_counted_as_google_does(
    length: int, probability: float, cap: int, expected: int
) -> None:
    counted = count_masked(np.array([length]), np.array([3]), probability, cap)
    assert counted.tolist() == [expected]


def test_replacements_are_the_vocabulary_without_what_is_excluded() -> None:
    assert replacement_ids(6, (0, 4), np.uint16).tolist() == [1, 2, 3, 5]
    assert replacement_ids(3, (), np.uint32).tolist() == [0, 1, 2]


LENGTH = 128
SPECIAL = [0, 60, 127]


@pytest.fixture(scope="module")
def million() -> Masked:
    """A million tokens, 8192 instances of 128, every token its own position."""
    rows = [[1000 + position for position in range(LENGTH)]] * 8192
    return mask(rows, [SPECIAL] * 8192, replacements=list(range(2000, 2500)), seed=11)


def test_each_position_is_masked_equally_often(million: Masked) -> None:
    counts = np.bincount(million.positions, minlength=LENGTH)
    assert not counts[SPECIAL].any()
    ordinary = np.delete(counts, SPECIAL)
    # Without replacement, a cell varies less than in a multinomial draw: by 1 - 19 / 125.
    assert abs(chi_square_z(ordinary, 8192 * 19 / 125)) < 4
    assert ordinary.sum() == 8192 * 19


def test_each_pair_of_positions_is_masked_together_equally_often(million: Masked) -> None:
    masks = np.zeros((8192, LENGTH), np.int64)
    masks[np.repeat(np.arange(8192), 19), million.positions] = 1
    together = np.delete(np.delete(masks.T @ masks, SPECIAL, 0), SPECIAL, 1)
    cells = together[np.triu_indices(125, 1)]
    probability = 19 * 18 / (125 * 124)
    z = (cells - 8192 * probability) / np.sqrt(8192 * probability * (1 - probability))
    # 7750 cells: the largest of as many normal numbers is above 5.2 once in a thousand seeds.
    assert np.abs(z).max() < 5.2
    assert abs(z.std() - 1) < 0.05


def test_replacements_split_80_10_10(million: Masked) -> None:
    at = np.repeat(million.offsets[:-1], 19) + million.positions
    found = million.ids[at]
    num_masked = len(found)
    num_mask = np.count_nonzero(found == MASK_ID)
    num_kept = np.count_nonzero(found == million.labels)
    assert abs(share_z(int(num_mask), num_masked, 0.8)) < 4
    assert abs(share_z(int(num_kept), num_masked, 0.1)) < 4
    random = found[(found != MASK_ID) & (found != million.labels)]
    assert len(random) == num_masked - num_mask - num_kept
    counts = np.bincount(random - 2000, minlength=500)
    assert abs(chi_square_z(counts, len(random) / 500)) < 4


def test_replacements_do_not_depend_on_the_position(million: Masked) -> None:
    at = np.repeat(million.offsets[:-1], 19) + million.positions
    is_mask = million.ids[at] == MASK_ID
    masked = np.delete(np.bincount(million.positions, minlength=LENGTH), SPECIAL)
    replaced = np.delete(np.bincount(million.positions[is_mask], minlength=LENGTH), SPECIAL)
    z = (replaced - 0.8 * masked) / np.sqrt(masked * 0.16)
    assert abs(((z**2).sum() - 125) / np.sqrt(250)) < 4


@pytest.mark.parametrize("other", [{"seed": 12}, {"epoch": 1}, {"indices": range(1, 1001)}])
def test_neighbouring_seeds_epochs_and_instances_have_unrelated_masks(
    other: dict[str, Any],
) -> None:
    rows, special = [list(range(1000, 1128))] * 1000, [SPECIAL] * 1000
    first, second = mask(rows, special, seed=11), mask(rows, special, **{"seed": 11, **other})
    # The overlap of two masks of 19 among 125 is hypergeometric: mean 2.888, variance 2.09.
    overlap = sum(
        len(set(first.positions[a : a + 19]) & set(second.positions[a : a + 19]))
        for a in range(0, 19_000, 19)
    )
    assert abs(overlap - 1000 * 19 * 19 / 125) < 4 * np.sqrt(1000 * 2.09)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32])
@given(
    rows=st.lists(
        st.lists(st.sampled_from([0, 2, 3, 60_000]), min_size=1, max_size=200),
        min_size=1,
        max_size=5,
    ),
    special=st.sets(st.sampled_from([2, 3, 60_000]), min_size=1),
)
def test_special_tokens_are_found_at_any_position(
    dtype: Any, rows: list[list[int]], special: set[int]
) -> None:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    ids = np.array([*chain.from_iterable(rows)], dtype)
    positions, found = np.empty(len(ids), np.int32), np.empty(len(offsets), np.int64)
    find_special(ids, offsets, np.array([*special]), positions, found)
    expected = [[p for p, token in enumerate(row) if token in special] for row in rows]
    assert found.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
    assert positions[: found[-1]].tolist() == [*chain.from_iterable(expected)]


def test_ids_that_may_not_be_changed_are_not_masked() -> None:
    ids = np.full(8, 7, np.uint16)
    ids.flags.writeable = False
    with pytest.raises(ValueError, match="mask_tokens writes to an array that is read-only"):
        mask_tokens(ids)  # type: ignore[call-arg]  # looked at before the others
