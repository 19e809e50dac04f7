from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from instancefolders import CLS, MASK, PAD, SEP, write_instance_folder

from tokkit.errors import TokkitError
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.data.instance_loader import TensorBatch, padded_batch
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader, split_epochs
from tokkit.pretraining.data.loader_config import LoaderConfig


class Batches:
    """The padded batches of a loader."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def training_batch(self, step: int) -> TensorBatch:
        return padded_batch(self._loader.training_instances(step), PAD)

    def evaluation_batches(self) -> Iterator[TensorBatch]:
        for instances in self._loader.held_out_instances(8):
            yield padded_batch(instances, PAD)


def open_loader(folder: Path, **options: Any) -> Batches:
    config = LoaderConfig(instances=(folder,), **{"batch_size": 8, "seed": 3, **options})
    return Batches(Loader(open_sources(config), config))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_instance_folder(tmp_path / "instances", num_training=45, num_held_out=19)


def restore(batch: TensorBatch) -> list[tuple[int, ...]]:
    """The batch's instances as they were before they were masked."""
    ids_BT = batch["labels"].where(is_masked(batch), batch["input_ids"])
    return [tuple(number for number in row if number != PAD) for row in ids_BT.tolist()]


def is_masked(batch: TensorBatch) -> torch.Tensor:
    """Bool [instances, longest]."""
    labels: torch.Tensor = batch["labels"]
    return labels != NO_LABEL


def same(one: TensorBatch, other: TensorBatch) -> bool:
    return all(torch.equal(one[name], other[name]) for name in ("input_ids", "labels"))


@given(st.integers(0, 100), st.integers(1, 50), st.integers(1, 20))
def test_positions_are_cut_where_epochs_end(start: int, size: int, num_instances: int) -> None:
    parts = split_epochs(start, size, (num_instances,))
    places = [
        part.epoch * num_instances + part.start + row
        for part in parts
        for row in range(len(part.rows))
    ]
    assert places == list(range(start, start + size))
    assert [row for part in parts for row in part.rows] == list(range(size))
    for part in parts:
        assert part.start + len(part.rows) <= num_instances


def test_each_epoch_visits_each_instance_once_in_an_order_of_its_own(folder: Path) -> None:
    loader = open_loader(folder, batch_size=1)
    everything = restore_all(open_loader(folder, batch_size=45))
    orders = []
    for epoch in range(3):
        order = [restore(loader.training_batch(45 * epoch + i))[0] for i in range(45)]
        assert Counter(order) == everything
        orders.append(order)
    assert orders[0] != orders[1] != orders[2] != orders[0]


def restore_all(loader: Batches) -> Counter[tuple[int, ...]]:
    return Counter(restore(loader.training_batch(0)))


def test_batches_run_on_across_epochs(folder: Path) -> None:
    one, eight = open_loader(folder, batch_size=1), open_loader(folder, batch_size=8)
    single = [row for step in range(120) for row in restore(one.training_batch(step))]
    whole = [row for step in range(15) for row in restore(eight.training_batch(step))]
    assert single == whole


def test_masks_do_not_depend_on_the_batch_that_an_instance_is_in(folder: Path) -> None:
    one, eight = open_loader(folder, batch_size=1), open_loader(folder, batch_size=8)
    for step in (0, 5, 6):
        batch = eight.training_batch(step)
        for row in range(8):
            single = one.training_batch(8 * step + row)
            length = int(single["attention_mask"].sum())
            assert torch.equal(single["input_ids"][0, :length], batch["input_ids"][row, :length])


def test_a_batch_is_found_without_those_before_it(folder: Path) -> None:
    loader, fresh = open_loader(folder), open_loader(folder)
    batches = [loader.training_batch(step) for step in range(12)]
    for step in (11, 3, 7):
        assert same(fresh.training_batch(step), batches[step])
    assert fresh.training_batch(10**12)["input_ids"].shape[0] == 8


def test_another_seed_gives_another_order_and_other_masks(folder: Path) -> None:
    one, other = open_loader(folder, seed=3), open_loader(folder, seed=4)
    assert restore(one.training_batch(0)) != restore(other.training_batch(0))


def test_each_epoch_masks_afresh(folder: Path) -> None:
    loader = open_loader(folder, batch_size=45)
    first, second = (
        {
            row: tuple(ids)
            for row, ids in zip(restore(batch), batch["input_ids"].tolist(), strict=True)
        }
        for batch in (loader.training_batch(0), loader.training_batch(1))
    )
    assert first.keys() == second.keys()
    assert sum(first[row] != second[row] for row in first) > 40


def test_control_tokens_and_padding_are_never_masked_nor_put_in(folder: Path) -> None:
    loader = open_loader(folder, masked_lm_prob=1.0, max_predictions_per_seq=100)
    for step in range(20):
        batch = loader.training_batch(step)
        assert not set(batch["labels"][is_masked(batch)].tolist()) & {PAD, CLS, SEP, MASK}
        found = batch["input_ids"][is_masked(batch)]
        assert not set(found.tolist()) & {PAD, CLS, SEP}
        # All but [CLS] and two [SEP] of each instance are predicted.
        assert is_masked(batch).sum() == batch["attention_mask"].sum() - 3 * 8


def test_as_many_are_masked_as_the_options_say(folder: Path) -> None:
    loader = open_loader(folder, masked_lm_prob=0.3, max_predictions_per_seq=5)
    batch = loader.training_batch(0)
    lengths = (batch["input_ids"] != PAD).sum(dim=1)
    expected = [min(5, max(1, round(0.3 * length))) for length in lengths.tolist()]
    assert is_masked(batch).sum(dim=1).tolist() == expected


def test_evaluation_sees_what_is_held_out_the_same_way_every_time(folder: Path) -> None:
    first = list(open_loader(folder).evaluation_batches())
    again = list(open_loader(folder).evaluation_batches())
    assert [len(batch["input_ids"]) for batch in first] == [8, 8, 3]
    assert all(map(same, first, again))
    held_out = {row for batch in first for row in restore(batch)}
    training = restore_all(open_loader(folder, batch_size=45))
    assert len(held_out) == 19
    assert not held_out & training.keys()


def test_static_masks_are_taken_as_they_are(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", static=True)
    loader = open_loader(folder)
    for batch in (loader.training_batch(0), next(loader.evaluation_batches())):
        assert is_masked(batch).sum() == 3 * 8
        assert set(batch["input_ids"][is_masked(batch)].tolist()) == {MASK}
        for row in restore(batch):
            assert not set(row) & {MASK}


def test_instances_in_other_shards_make_the_same_batches(tmp_path: Path) -> None:
    one = write_instance_folder(tmp_path / "one")
    zipped = write_instance_folder(tmp_path / "zipped", compression="zstd")
    for step in range(3):
        assert same(open_loader(one).training_batch(step), open_loader(zipped).training_batch(step))


def test_a_folder_without_training_instances_is_refused(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", num_training=0)
    with pytest.raises(TokkitError, match="holds no training instance; build it from more text"):
        open_loader(folder)
    open_loader(write_instance_folder(tmp_path / "more", num_training=20))


def test_replaced_tokens_come_from_the_whole_vocabulary_where_that_was_asked(
    tmp_path: Path,
) -> None:
    folder = write_instance_folder(tmp_path / "instances", num_training=400)
    options = {"masked_lm_prob": 1.0, "max_predictions_per_seq": 99, "random_tokens": "all"}
    loader = open_loader(folder, batch_size=400, **options)
    batch = loader.training_batch(0)
    found = batch["input_ids"][is_masked(batch)].numpy()
    assert {PAD, CLS, SEP} < set(np.unique(found))
