"""The prefetcher gives the same batches to any number of ranks, whatever it prepared before."""

from itertools import pairwise
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from instancefolders import PAD, make_batch, write_instance_folder, write_shard

from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError
from tokkit.pretraining.data.batches import Batch, lay_out
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.pretraining.data.prefetcher import Prefetcher
from tokkit.shards.reader import ShardFolder

Rows = list[tuple[Any, ...]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prefetcher") / "instances"
    return write_instance_folder(folder, num_training=45, num_held_out=19)


def open_loader(folder: Path, rank: int = 0, world_size: int = 1, **options: Any) -> Loader:
    config = LoaderConfig(instances=(folder,), **{"batch_size": 8, "seed": 3, **options})
    return Loader(open_sources(config), config, rank=rank, world_size=world_size)


def open_prefetcher(*loaders: Loader, micro_batch_tokens: int = 96, **options: Any) -> Prefetcher:
    return Prefetcher(loaders, micro_batch_tokens=micro_batch_tokens, **options)


def rows_of(*batches: Batch) -> Rows:
    """What the model sees of each instance, and what it is to predict there."""
    rows = []
    for batch in batches:
        inputs = batch.inputs
        labels = torch.full_like(inputs.input_ids_N, -100)
        predicted = slice(batch.num_predicted)
        labels[inputs.predicted_positions_M[predicted]] = inputs.labels_M[predicted]
        for row, (start, stop) in enumerate(pairwise(inputs.cu_seqlens.tolist())):
            if start < min(stop, batch.num_tokens):
                columns = (inputs.input_ids_N, inputs.token_type_ids_N, inputs.position_ids_N)
                shown = (tuple(column[start:stop].tolist()) for column in (*columns, labels))
                rows.append((*shown, int(inputs.pair_labels_S[row])))
    return rows


def expected_rows(loader: Loader, step: int) -> Rows:
    return rows_of(lay_out(loader.training_instances(step), PAD))


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("micro_batch_tokens", [1, 64, 100, 10**6])
def test_ranks_and_micro_batches_together_are_the_batch(
    folder: Path, world_size: int, micro_batch_tokens: int, *, static: bool
) -> None:
    whole = open_loader(folder)
    ranks = [open_loader(folder, rank, world_size) for rank in range(world_size)]
    for step in (0, 4, 5, 1000):
        found, numbers = [], set()
        for loader in ranks:
            with open_prefetcher(
                loader, micro_batch_tokens=micro_batch_tokens, static=static
            ) as prefetcher:
                batches = prefetcher.next_batches(0, step)
            found += rows_of(*batches)
            numbers.add(len(batches))
            assert all(
                batch.num_tokens <= micro_batch_tokens or len(rows_of(batch)) == 1
                for batch in batches
            )
        assert found == expected_rows(whole, step)
        assert len(numbers) == 1


def test_whatever_is_asked_for_next_is_given(folder: Path) -> None:
    loader = open_loader(folder)
    with open_prefetcher(loader) as prefetcher:
        for step in (0, 1, 2, 7, 7, 3, 4, 0, 11, 12):
            assert rows_of(*prefetcher.next_batches(0, step)) == expected_rows(loader, step)


@pytest.mark.parametrize("steps", [(0, 1, 2, 3, 4, 5), (0, 7, 3, 11, 2, 30)])
def test_batches_hold_until_the_second_call_after_theirs(
    folder: Path, steps: tuple[int, ...]
) -> None:
    """Also where what was prepared meanwhile is not what is asked for, and is there already."""
    loader = open_loader(folder)
    with open_prefetcher(loader, static=True) as prefetcher:
        before = prefetcher.next_batches(0, 40)
        expected = expected_rows(loader, 40)
        for step in steps:
            batches = prefetcher.next_batches(0, step)
            prefetcher._executor.submit(int).result()  # after what is prepared
            assert rows_of(*before) == expected
            before, expected = batches, expected_rows(loader, step)


def test_memory_is_allocated_once(folder: Path) -> None:
    with open_prefetcher(open_loader(folder), static=True) as prefetcher:
        found = {
            prefetcher.next_batches(0, step)[0].inputs.input_ids_N.data_ptr() for step in range(20)
        }
    assert len(found) == 3


def test_buffers_are_not_written_before_they_were_copied_from(folder: Path) -> None:
    """A GPU that has not come to the copies of step 0 yet keeps step 3 from being prepared."""

    class Copies:
        def __init__(self) -> None:
            self.done, self.recorded = Event(), 0
            self.done.set()

        def record(self) -> None:
            self.recorded += 1
            self.done.clear()

        def synchronize(self) -> None:
            self.done.wait()

    loader = open_loader(folder)
    with open_prefetcher(loader) as prefetcher:
        for buffers in prefetcher._sets:
            buffers.copied = Copies()  # type: ignore[assignment]  # in place of CUDA's events
        first = prefetcher.next_batches(0, 0)
        prefetcher.mark_copied()
        (copies,) = [b.copied for b in prefetcher._sets if b.copied.recorded]  # type: ignore[union-attr]
        prefetcher.next_batches(0, 1)
        prefetcher.next_batches(0, 2)
        assert prefetcher._next is not None
        prepared = prefetcher._next[2]
        with pytest.raises(TimeoutError):
            prepared.result(timeout=0.3)
        assert rows_of(*first) == expected_rows(loader, 0)
        copies.done.set()  # type: ignore[union-attr]
        assert rows_of(*prefetcher.next_batches(0, 3)) == expected_rows(loader, 3)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_gpu_gets_the_batches_however_far_behind_it_is(folder: Path) -> None:
    loader, device = open_loader(folder), torch.device("cuda")
    copied = []
    with open_prefetcher(loader, static=True, pin=True) as prefetcher:
        for step in range(12):
            batches = prefetcher.next_batches(0, step)
            assert all(batch.inputs.input_ids_N.is_pinned() for batch in batches)
            torch.cuda._sleep(20_000_000)  # type: ignore[no-untyped-call]  # cycles before the copies
            copied.append([batch.to(device) for batch in batches])
            prefetcher.mark_copied()
    for step, copies in enumerate(copied):
        found = rows_of(*(batch.to(torch.device("cpu")) for batch in copies))
        assert found == expected_rows(loader, step)


def test_what_is_held_out_is_the_same_for_every_rank(folder: Path) -> None:
    with open_prefetcher(open_loader(folder)) as prefetcher:
        expected = list(prefetcher.held_out(0))
        assert [len(rows_of(batch)) for batch in expected] == [3, 3, 3, 3, 3, 3, 1]
    for rank in range(4):
        with open_prefetcher(open_loader(folder, rank, 4)) as prefetcher:
            prefetcher.next_batches(0, 3)
            found = list(prefetcher.held_out(0))
            assert list(map(rows_of, found)) == list(map(rows_of, expected))


def test_a_compiled_model_meets_hardly_any_padding(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", num_training=400)
    shapes, sizes = set(), []
    with open_prefetcher(
        open_loader(folder, batch_size=64), micro_batch_tokens=1024, static=True
    ) as prefetcher:
        for step in range(100):
            for batch in prefetcher.next_batches(0, step):
                inputs = batch.inputs
                shape = tuple(len(part) for part in inputs if isinstance(part, torch.Tensor))
                shapes.add((len(inputs.cu_seqlens), inputs.max_seqlen))
                assert (shape[0] % 64, shape[5] % 8) == (0, 0)
                sizes.append((batch.num_tokens, len(inputs.input_ids_N)))
    assert len({tokens for tokens, _ in sizes}) > 50
    assert len(shapes) == 1
    assert all(tokens <= padded < tokens + 64 for tokens, padded in sizes)


def test_phases_have_loaders_of_their_own(folder: Path, tmp_path: Path) -> None:
    longer = write_instance_folder(tmp_path / "longer", max_seq_length=64, seed=5)
    loaders = open_loader(folder), open_loader(longer)
    with open_prefetcher(*loaders, micro_batch_tokens=128) as prefetcher:
        for phase, step in ((0, 0), (0, 1), (1, 2), (1, 3), (0, 4)):
            batches = prefetcher.next_batches(phase, step)
            assert rows_of(*batches) == expected_rows(loaders[phase], step)
            assert len(batches) == (4 if phase else 2)


def test_damage_that_the_thread_finds_is_raised_where_batches_are_asked_for(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", num_training=7)
    opened = ShardFolder.open(folder, "instances")
    batch = make_batch(np.random.default_rng(0), opened.header, 7, static=False, labels=True)
    ids = batch.column("input_ids").values.to_numpy().copy()
    ids[-2] = opened.header.vocab_size
    wrong = pa.LargeListArray.from_arrays(batch.column("input_ids").offsets, pa.array(ids))
    batch = batch.set_column(0, batch.schema.field("input_ids"), wrong)
    manifest = Manifest.read(folder)
    manifest.shards[0].update(write_shard(folder / "train-0000000.arrow", [batch], "none"))
    manifest.write(folder)
    loader = open_loader(folder, batch_size=1)
    with open_prefetcher(loader) as prefetcher, pytest.raises(TokkitError, match="holds id 48"):
        list(map(prefetcher.next_batches, [0] * 7, range(7)))


def test_causal_instances_are_fed_without_masks(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", objective="clm", labels=False)
    loader = open_loader(folder)
    with open_prefetcher(loader) as prefetcher:
        for step in (0, 1, 9):
            for ids, _, _, labels, pair_label in rows_of(*prefetcher.next_batches(0, step)):
                assert labels == (*ids[1:], -100)
                assert pair_label == -100
