"""All cuts of noise are equally likely, and so are all places and orders of targets.

Seeds are fixed, and 4 standard deviations are allowed; see ``chi_square_z``.
"""

from collections import Counter
from itertools import permutations
from math import comb
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from reference.statistics import chi_square_z, share_z
from tokkit.kernels.instances.noise import corrupt_spans, order_targets
from tokkit.kernels.philox import NOISE, PERMUTATION, stream_of

SENTINEL = 1000
END = 999


def noise_masks(
    num_blocks: int,
    block_tokens: int,
    num_noise: int,
    num_spans: int,
    *,
    seed: int = 7,
    epoch: int = 0,
) -> npt.NDArray[np.bool_]:
    """Which tokens are noise, ``[num_blocks, block_tokens]``."""
    ids = np.tile(np.arange(block_tokens, dtype=np.uint16), num_blocks)
    inputs_length = block_tokens - num_noise + num_spans + 1
    out_ids = np.empty(num_blocks * inputs_length, np.uint16)
    out_targets = np.empty(num_blocks * (num_noise + num_spans + 1), np.uint16)
    corrupt_spans(
        ids,
        np.zeros(len(ids) // 8 + 1, np.uint8),
        np.arange(num_blocks, dtype=np.uint64),
        num_noise,
        num_spans,
        np.arange(SENTINEL, SENTINEL + num_spans, dtype=np.uint16),
        END,
        np.uint64(seed),
        stream_of(NOISE, epoch),
        np.empty(num_spans, np.int64),
        np.empty(num_spans, np.int64),
        out_ids,
        np.zeros(len(out_ids) // 8 + 1, np.uint8),
        out_targets,
    )
    targets = out_targets.reshape(num_blocks, -1)
    masks = np.zeros((num_blocks, block_tokens), np.bool_)
    rows, columns = np.nonzero(targets < END)
    masks[rows, targets[rows, columns]] = True
    return masks


def targets_of(
    num_rows: int, length: int, predict_every: int, *, special: tuple[int, ...] = (), seed: int = 7
) -> list[npt.NDArray[np.uint16]]:
    """The targets of instances whose ids are their positions."""
    ids = np.tile(np.arange(length, dtype=np.uint16), num_rows)
    positions = np.empty(len(ids), np.uint16)
    offsets = np.empty(num_rows + 1, np.int64)
    order_targets(
        ids,
        np.arange(num_rows + 1, dtype=np.int64) * length,
        np.arange(num_rows, dtype=np.uint64),
        np.array(special, np.uint16),
        predict_every,
        np.uint64(seed),
        stream_of(PERMUTATION, 0),
        positions,
        offsets,
    )
    return np.split(positions[: offsets[-1]], offsets[1:-1])


def test_all_cuts_of_noise_and_rest_are_equally_likely() -> None:
    """5 noise tokens and 6 others in 3 spans each: 6 times 10 ways, 100,000 blocks, 1.1 million tokens."""
    masks = noise_masks(100_000, 11, 5, 3)
    weights = 1 << np.arange(11)
    ways = Counter((masks @ weights).tolist())
    assert len(ways) == comb(4, 2) * comb(5, 2)
    assert abs(chi_square_z([*ways.values()], 100_000 / 60)) < 4


def test_blocks_have_the_amount_of_noise_and_spans_of_t5() -> None:
    masks = noise_masks(2000, 568, 85, 28)
    assert (masks.sum(axis=1) == 85).all()
    begins = masks[:, 1:] & ~masks[:, :-1]
    assert not masks[:, 0].any()
    assert masks[:, -1].all()
    assert (begins.sum(axis=1) == 28).all()


def test_span_lengths_are_those_of_a_uniform_cut() -> None:
    """A cut of 85 into 28 has lengths k with probability C(84 - k, 26) / C(84, 27)."""
    masks = noise_masks(3000, 568, 85, 28)
    edges = np.flatnonzero(np.diff(np.pad(masks, ((0, 0), (1, 1))).astype(np.int8).ravel()))
    lengths = np.diff(edges)[::2]
    assert len(lengths) == 3000 * 28
    longest = 12
    chances = np.array([comb(84 - k, 26) / comb(84, 27) for k in range(1, longest)])
    expected = np.append(chances, 1 - chances.sum()) * len(lengths)
    counts = np.bincount(np.minimum(lengths, longest), minlength=longest + 1)[1:]
    # Lengths of one cut add up, so they vary a little less than independent ones: no lower bound.
    assert chi_square_z(counts, expected) < 4


@pytest.mark.parametrize(("seed", "epoch"), [(8, 0), (7, 1)])
def test_neighbouring_seeds_and_passes_are_uncorrelated(seed: int, epoch: int) -> None:
    first = noise_masks(4000, 568, 85, 28)
    second = noise_masks(4000, 568, 85, 28, seed=seed, epoch=epoch)
    # One position of each block: those of one block depend on each other.
    both = int(np.count_nonzero(first[:, 300] & second[:, 300]))
    chance = first[:, 300].mean() * second[:, 300].mean()
    assert abs(share_z(both, 4000, chance)) < 4


def test_one_token_in_k_is_predicted_at_any_position() -> None:
    rows = targets_of(4000, 500, 6)
    counts = np.bincount(np.concatenate(rows), minlength=500)
    # Positions 25 apart are in different spans. Contexts begin at 0, so the first have a pattern.
    apart = counts[100:400:25]
    assert abs(chi_square_z(apart, 4000 / 6)) < 4
    assert abs(counts[100:400].sum() / (4000 * 300) - 1 / 6) < 0.002


def test_all_orders_of_targets_are_equally_likely() -> None:
    rows = targets_of(24_000, 4, 1)
    orders = Counter(tuple(row.tolist()) for row in rows)
    assert set(orders) == {*permutations(range(4))}
    assert abs(chi_square_z([*orders.values()], 1000)) < 4


def test_special_tokens_are_never_predicted() -> None:
    special = (0, 7, 48, 49)
    rows: list[Any] = targets_of(2000, 50, 2, special=special)
    found = np.bincount(np.concatenate(rows), minlength=50)
    assert not found[[*special]].any()
    assert (np.delete(found, special) > 0).all()
    assert all(len(set(row.tolist())) == len(row) for row in rows)
