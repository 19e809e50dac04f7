"""The feed gives the same batches to any number of ranks, whatever it prepared before."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from instancefolders import PAD, write_instance_folder

from tokkit.pretraining.batch import Batch, lay_out
from tokkit.pretraining.config import LoaderConfig
from tokkit.pretraining.feed import Feed
from tokkit.pretraining.loader import Loader
from tokkit.pretraining.sources import open_sources


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("feed") / "instances"
    return write_instance_folder(folder, num_training=45, num_held_out=19)


def open_loader(folder: Path, rank: int = 0, world_size: int = 1, **options: Any) -> Loader:
    config = LoaderConfig(instances=(folder,), **{"batch_size": 8, "seed": 3, **options})
    return Loader(open_sources(config), config, rank=rank, world_size=world_size)


def open_feed(*loaders: Loader, micro_batch_tokens: int = 96, **options: Any) -> Feed:
    return Feed(loaders, PAD, micro_batch_tokens=micro_batch_tokens, **options)


def rows_of(batches: tuple[Batch, ...]) -> list[tuple[Any, ...]]:
    """What the model sees of each sequence, and what it is to predict there."""
    rows = []
    for batch in batches:
        inputs = batch.inputs
        labels = torch.full_like(inputs.input_ids_N, -100)
        has_label = inputs.labels_M >= 0
        labels[inputs.predicted_positions_M[has_label]] = inputs.labels_M[has_label]
        bounds = inputs.cu_seqlens.tolist()
        for row, (start, stop) in enumerate(itertools.pairwise(bounds)):
            if start < min(stop, batch.num_tokens):
                fields = (inputs.input_ids_N, inputs.token_type_ids_N, inputs.position_ids_N)
                shown = (tuple(field[start:stop].tolist()) for field in (*fields, labels))
                rows.append((*shown, int(inputs.pair_labels_S[row])))
    return rows


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_tokens", [1, 64, 100, 10**6])
def test_ranks_and_micro_batches_together_are_the_batch(
    folder: Path, world_size: int, micro_batch_tokens: int, *, static: bool
) -> None:
    whole = open_loader(folder)
    ranks = [open_loader(folder, rank, world_size) for rank in range(world_size)]
    for step in (0, 4, 5, 1000):
        found = []
        for loader in ranks:
            with open_feed(loader, micro_batch_tokens=micro_batch_tokens, static=static) as feed:
                found += rows_of(feed.take(0, step))
        assert found == rows_of((lay_out(whole.training_instances(step), PAD),))
