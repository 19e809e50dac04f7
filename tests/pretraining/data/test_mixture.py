"""Folders are mixed in exact shares, each in epochs of its own, and any rank finds its part."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from instancefolders import write_instance_folder

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader, interleave, split_epochs
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.shards.instances import Instances


def open_loader(*folders: Path, rank: int = 0, world_size: int = 1, **options: Any) -> Loader:
    config = LoaderConfig(instances=folders, **{"batch_size": 12, "seed": 3, **options})
    return Loader(open_sources(config), config, rank=rank, world_size=world_size)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    work = tmp_path_factory.mktemp("mixture")
    sizes = {"a": 45, "b": 20, "c": 7}
    one, two, three = (
        write_instance_folder(work / name, num_training=size, num_held_out=size // 2, seed=size)
        for name, size in sizes.items()
    )
    return one, two, three


def restore(instances: Instances) -> list[tuple[int, ...]]:
    """The instances as they were before they were masked."""
    ids = instances.input_ids.copy()
    rows = np.repeat(instances.offsets[:-1], np.diff(instances.predictions.offsets))
    ids[rows + instances.predictions.positions] = instances.predictions.labels
    return [tuple(row.tolist()) for row in np.split(ids, instances.offsets[1:-1])]


def masked(instances: Instances) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for row in np.split(instances.input_ids, instances.offsets[1:-1])]


weights = st.lists(st.integers(1, 9), min_size=1, max_size=4).map(
    lambda parts: tuple(part / sum(parts) for part in parts)
)


@given(st.integers(0, 10**15), st.integers(1, 200), weights)
def test_every_position_is_dealt_to_one_folder_and_shares_are_exact(
    start: int, size: int, weights: tuple[float, ...]
) -> None:
    dealt, later = interleave(start, size, weights), interleave(start + size, 1, weights)
    assert sorted(np.concatenate([rows for _, rows in dealt]).tolist()) == list(range(size))
    assert sum(before for before, _ in dealt) == start
    for (before, rows), (after, _), weight in zip(dealt, later, weights, strict=True):
        assert before + len(rows) == after
        # A weight is held to 2^-33, and rounded once a folder.
        assert abs(before - start * weight) <= len(weights) + start * 2**-31


def test_the_table_in_the_docstring_is_right() -> None:
    parts = split_epochs(0, 16, (100, 4), (0.7, 0.3))
    rows = {(part.folder, part.epoch): part.rows.tolist() for part in parts}
    assert rows[0, 0] == [0, 2, 3, 5, 6, 7, 9, 10, 12, 13, 15]
    assert rows[1, 0] == [1, 4, 8, 11]
    assert rows[1, 1] == [14]


def test_each_folder_is_visited_in_its_own_epochs(folders: tuple[Path, Path, Path]) -> None:
    shares = (0.5, 0.3, 0.2)
    loader = open_loader(*folders, weights=shares, batch_size=10)
    mixed = [row for step in range(30) for row in restore(loader.training_instances(step))]
    for folder, share, size in zip(folders, shares, (45, 20, 7), strict=True):
        everything = Counter(restore(open_loader(folder, batch_size=size).training_instances(0)))
        own = [row for row in mixed if row in everything]
        assert len(own) == round(300 * share)
        for start in range(0, len(own) - size + 1, size):
            assert Counter(own[start : start + size]) == everything


def test_two_folders_share_no_draws(tmp_path: Path) -> None:
    """Twins would come in the same order, masked alike, if they did."""
    one, two = (write_instance_folder(tmp_path / n, num_training=60, seed=5) for n in ("a", "b"))
    loader = open_loader(one, two, weights=(0.5, 0.5), batch_size=120)
    batch = loader.training_instances(0)
    rows, shown = restore(batch), masked(batch)
    assert Counter(rows[::2]) == Counter(rows[1::2])
    assert rows[::2] != rows[1::2]
    alike = dict(zip(rows[::2], shown[::2], strict=True))
    assert sum(alike[row] == seen for row, seen in zip(rows[1::2], shown[1::2], strict=True)) < 6


@pytest.mark.parametrize("unit", ["token", "word", "span", "ngram"])
@pytest.mark.parametrize("world_size", [2, 3, 12])
def test_ranks_together_see_the_batch(
    folders: tuple[Path, Path, Path], unit: str, world_size: int
) -> None:
    options: dict[str, Any] = {"weights": (0.6, 0.3, 0.1), "mask_unit": unit}
    whole = open_loader(*folders, **options)
    ranks = [
        open_loader(*folders, rank=rank, world_size=world_size, **options)
        for rank in range(world_size)
    ]
    for step in (0, 5, 1000):
        parts = [row for rank in ranks for row in masked(rank.training_instances(step))]
        assert parts == masked(whole.training_instances(step))


@pytest.mark.parametrize("unit", ["word", "span", "ngram"])
def test_units_are_masked_by_where_words_start(folders: tuple[Path, Path, Path], unit: str) -> None:
    """Every token of the counting language is a word; as many are masked as may be."""
    loader = open_loader(folders[0], mask_unit=unit, mask_ratios=(1.0, 0.0, 0.0))
    batch = loader.training_instances(3)
    lengths = np.diff(batch.offsets)
    expected = np.minimum(5, np.maximum(1, np.rint(lengths * 0.15)))
    assert np.diff(batch.predictions.offsets).tolist() == expected.tolist()
    assert len(batch.word_starts)


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    one = write_instance_folder(tmp_path / "one", num_held_out=0)
    other = write_instance_folder(tmp_path / "other", num_held_out=0, objective="mlm")
    foreign = write_instance_folder(
        tmp_path / "foreign", special=("[UNK]", "[PAD]", "[CLS]", "[SEP]", "[MASK]")
    )
    with pytest.raises(TokkitError, match=r"other: was built with --objective mlm, but .*one with"):
        open_loader(one, other, weights=(0.5, 0.5))
    with pytest.raises(TokkitError, match="foreign: was made with another tokenizer than"):
        open_loader(one, foreign, weights=(0.5, 0.5))
    for bad, message in (
        ((), "must be 2 shares"),
        ((0.5, 0.4), "add up to 1"),
        ((1.0, 0.0), "above 0"),
    ):
        with pytest.raises(UsageError, match=message):
            open_loader(one, one, weights=bad)
    with pytest.raises(UsageError, match="requires several"):
        open_loader(one, weights=(1.0,))
    with pytest.raises(UsageError, match="cannot be divided among 5 ranks"):
        open_loader(one, world_size=5)
