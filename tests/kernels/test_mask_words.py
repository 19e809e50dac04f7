"""Masks of words, spans and n-grams equal those of the readable twin, and are as random as documented."""

from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.masking import mask_instance_by_words
from reference.philox import below, blocks, word
from reference.statistics import chi_square_z, share_z
from tokkit.kernels.instances.mask_tokens import Replacement, count_masked, new_mask_memory
from tokkit.kernels.instances.mask_words import (
    length_shares,
    length_thresholds,
    mask_words,
    new_word_memory,
)
from tokkit.kernels.philox import MASK, MASK_UNIT, chance_threshold, stream_of

MASK_ID = 4
UNITS = ["word", "span", "ngram"]


@dataclass(frozen=True)
class Masked:
    ids: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    masked_offsets: npt.NDArray[np.int64]
    positions: npt.NDArray[np.uint16]
    labels: npt.NDArray[Any]

    def row(self, row: int) -> tuple[list[int], list[int], list[int]]:
        within = slice(self.masked_offsets[row], self.masked_offsets[row + 1])
        ids = self.ids[self.offsets[row] : self.offsets[row + 1]]
        return ids.tolist(), self.positions[within].tolist(), self.labels[within].tolist()


def mask(
    rows: list[list[int]],
    starts: list[list[bool]],
    special: list[list[int]],
    *,
    unit: str,
    draw_per_unit: bool = False,
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
    budgets = count_masked(
        np.diff(offsets), np.diff(special_offsets), masked_lm_prob, max_predictions
    )
    masked = Masked(
        ids=np.array([*chain.from_iterable(rows)], dtype),
        offsets=offsets,
        masked_offsets=np.empty(len(rows) + 1, np.int64),
        positions=np.empty(budgets.sum(), np.uint16),
        labels=np.empty(budgets.sum(), dtype),
    )
    mask_words(
        masked.ids,
        offsets,
        np.packbits(np.array([*chain.from_iterable(starts)], np.bool_), bitorder="little"),
        np.array([*chain.from_iterable(special)], np.int32),
        special_offsets,
        budgets,
        np.array(range(len(rows)) if indices is None else indices, np.uint64),
        np.uint64(seed),
        stream_of(MASK_UNIT, epoch),
        stream_of(MASK, epoch),
        Replacement(MASK_ID, chance_threshold(shares[0]), chance_threshold(sum(shares))),
        np.array(replacements or [7, 8, 9], dtype),
        length_thresholds(unit),
        draw_per_unit,
        new_mask_memory(offsets, budgets),
        new_word_memory(offsets),
        masked.masked_offsets,
        masked.positions,
        masked.labels,
    )
    return masked


@st.composite
def batches(
    draw: st.DrawFn,
) -> tuple[list[list[int]], list[list[bool]], list[list[int]]]:
    """Rows of ids, where words start in each, and the positions that must not be chosen."""
    lengths = draw(st.lists(st.integers(1, 200), min_size=1, max_size=4))
    rows, starts, special = [], [], []
    for length in lengths:
        first, share = draw(st.integers(10, 1 << 15)), draw(st.sampled_from([0.0, 0.3, 0.8, 1.0]))
        rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
        rows.append([first + position for position in range(length)])
        starts.append((rng.random(length) < share).tolist())
        special.append(
            sorted(draw(st.sets(st.integers(0, length - 1), max_size=min(length - 1, 5))))
        )
    return rows, starts, special


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=40)
@given(
    batch=batches(),
    options=st.fixed_dictionaries(
        {
            "draw_per_unit": st.booleans(),
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
    unit: str,
    batch: tuple[list[list[int]], list[list[bool]], list[list[int]]],
    options: dict[str, Any],
    first_index: int,
) -> None:
    rows, starts, special = batch
    indices = [first_index + 3 * row for row in range(len(rows))]
    masked = mask(rows, starts, special, unit=unit, indices=indices, **options)
    for row, ids in enumerate(rows):
        expected = mask_instance_by_words(
            ids,
            starts[row],
            special[row],
            length_shares=length_shares(unit).tolist(),
            mask_id=MASK_ID,
            index=indices[row],
            **options,
        )
        assert masked.row(row) == expected


@pytest.mark.parametrize("unit", UNITS)
@settings(max_examples=40)
@given(batches(), st.integers(0, 1000), st.sampled_from([0.15, 0.6]))
def test_words_are_masked_whole_and_as_many_as_fit(
    unit: str,
    batch: tuple[list[list[int]], list[list[bool]], list[list[int]]],
    seed: int,
    probability: float,
) -> None:
    rows, starts, special = batch
    masked = mask(rows, starts, special, unit=unit, seed=seed, masked_lm_prob=probability)
    for row, ids in enumerate(rows):
        bounds = {0, len(ids), *(p for p in range(len(ids)) if starts[row][p])}
        bounds |= {p + i for p in special[row] for i in (0, 1)}
        words = [set(range(*ends)) for ends in pairwise(sorted(bounds))]
        words = [word for word in words if not word & set(special[row])]
        _, positions, labels = masked.row(row)
        assert labels == [ids[position] for position in positions]
        assert not set(positions) & set(special[row])
        left = [word for word in words if not word & set(positions)]
        whole = [word for word in words if word <= set(positions)]
        assert len(left) + len(whole) == len(words)
        budget = min(max(1, round(len(ids) * probability)), len(ids) - len(special[row]))
        assert len(positions) <= budget
        assert all(len(word) > budget - len(positions) for word in left)


LENGTH = 128
SPECIAL = [0, 60, 127]
NUM_ROWS = 8192
LATER = tuple(p for p in range(1, LENGTH) if p % 4 == 2)  # continue the word before them


def mask_a_million(**options: Any) -> Masked:
    """A million tokens, 8192 instances of 128, every token its own position."""
    rows = [[1000 + position for position in range(LENGTH)]] * NUM_ROWS
    starts = [[position not in LATER for position in range(LENGTH)]] * NUM_ROWS
    options = {"replacements": list(range(2000, 2500)), "seed": 11, **options}
    return mask(rows, starts, [SPECIAL] * NUM_ROWS, **options)


@pytest.fixture(scope="module")
def by_word() -> Masked:
    return mask_a_million(unit="word")


def test_each_word_of_one_length_is_masked_equally_often(by_word: Masked) -> None:
    counts = np.bincount(by_word.positions, minlength=LENGTH)
    assert not counts[SPECIAL].any()
    assert (counts[[p - 1 for p in LATER]] == counts[list(LATER)]).all()
    alone = [p for p in range(LENGTH) if p not in SPECIAL and p % 4 in {0, 3}]
    for positions in (alone, list(LATER)):
        # Without replacement a cell varies less than in a multinomial draw: by 1 - its share.
        mean = counts[positions].mean()
        z = chi_square_z(counts[positions], mean)
        assert abs(z) < 4
        assert 0.13 < mean / NUM_ROWS < 0.17


@pytest.mark.parametrize("draw_per_unit", [False, True])
def test_replacements_split_80_10_10(draw_per_unit: bool) -> None:
    masked = mask_a_million(unit="word", draw_per_unit=draw_per_unit)
    at = np.repeat(masked.offsets[:-1], np.diff(masked.masked_offsets)) + masked.positions
    found = masked.ids[at]
    is_mask, is_kept = found == MASK_ID, found == masked.labels
    # Words of one token are independent draws in either way.
    alone = ~np.isin(masked.positions, [*LATER, *(p - 1 for p in LATER)])
    num_alone = int(alone.sum())
    assert abs(share_z(int((is_mask & alone).sum()), num_alone, 0.8)) < 4
    assert abs(share_z(int((is_kept & alone).sum()), num_alone, 0.1)) < 4
    random = found[~is_mask & ~is_kept]
    assert abs(chi_square_z(np.bincount(random - 2000, minlength=500), len(random) / 500)) < 4
    # Both tokens of a word become [MASK]: 0.8 of the words if drawn for all, else 0.64.
    second = np.flatnonzero(np.isin(masked.positions, LATER))
    both = int((is_mask[second] & is_mask[second - 1]).sum())
    assert abs(share_z(both, len(second), 0.8 if draw_per_unit else 0.64)) < 4


@pytest.mark.parametrize("unit", ["span", "ngram"])
def test_lengths_are_drawn_as_the_papers_say(unit: str) -> None:
    """The first span of each instance, which nothing cuts but the instance's end."""
    num_rows, num_words, shares = 3000, 60, length_shares(unit)
    rows, starts = [list(range(1000, 1060))] * num_rows, [[True] * num_words] * num_rows
    masked = mask(rows, starts, [[]] * num_rows, unit=unit, masked_lm_prob=0.2, seed=5)
    lengths = np.zeros(len(shares), np.int64)
    for row in range(num_rows):
        lanes = next(blocks(5, MASK_UNIT, 0, row))
        first = below(word(*lanes[:2]), num_words)
        positions = set(masked.row(row)[1])
        length = 1 + int((lanes[2] / 2**32 >= np.cumsum(shares)[:-1]).sum())
        assert set(range(first, min(num_words, first + length))) <= positions
        lengths[length - 1] += 1
    assert abs(chi_square_z(lengths, num_rows * shares)) < 4


def test_a_span_has_the_mean_length_of_the_paper() -> None:
    lengths = np.arange(1, 11)
    assert (length_shares("span") * lengths).sum() == pytest.approx(3.8, abs=0.01)
    assert length_shares("ngram") * 11 == pytest.approx([6, 3, 2])


@pytest.mark.parametrize("other", [{"seed": 12}, {"epoch": 1}, {"indices": range(1, NUM_ROWS + 1)}])
@pytest.mark.parametrize("unit", UNITS)
def test_neighbouring_seeds_epochs_and_instances_have_unrelated_masks(
    unit: str, other: dict[str, Any]
) -> None:
    first, second = (to_bits(mask_a_million(unit=unit, **more)) for more in ({}, other))
    together = (first & second).sum(1)
    # Which positions are likely does not depend on the instance: what two draws share beyond the
    # product of their shares is a correlation, and has mean 0.
    expected = (first.mean(0) * second.mean(0)).sum()
    assert abs(together.mean() - expected) < 4 * together.std() / np.sqrt(NUM_ROWS)


def to_bits(masked: Masked) -> npt.NDArray[np.bool_]:
    bits = np.zeros((NUM_ROWS, LENGTH), np.bool_)
    bits[np.repeat(np.arange(NUM_ROWS), np.diff(masked.masked_offsets)), masked.positions] = True
    return bits
