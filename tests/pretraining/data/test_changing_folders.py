"""A folder that changes under a loader or a build ends it with one line; a used loader is copied."""

import math
import os
import pickle
import shutil
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import forkserver
import numpy as np
import pytest
import torch
from instancefolders import write_instance_folder
from torch.utils.data import DataLoader

from tokkit.errors import TokkitError
from tokkit.pretraining.data.instance_loader import InstanceLoader
from tokkit.pretraining.data.instance_reader import InstanceReader
from tokkit.shards.reader import ShardFolder

SHARD = "train-0000001.arrow"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_instance_folder(tmp_path / "instances", static=True)


def replace(shard: Path) -> None:
    copy = shard.with_suffix(".copy")
    shutil.copyfile(shard, copy)
    copy.replace(shard)


def cut(shard: Path) -> None:
    os.truncate(shard, 0)


def cut_and_fill(shard: Path) -> None:
    size = shard.stat().st_size
    os.truncate(shard, 0)
    os.truncate(shard, size)


def overwrite(shard: Path) -> None:
    with shard.open("r+b") as file:
        file.seek(shard.stat().st_size // 2)
        file.write(b"\xff" * 64)


def remove(shard: Path) -> None:
    shard.unlink()


CHANGES: list[tuple[Callable[[Path], None], str]] = [
    (replace, "has changed while it was read"),
    (cut, "has changed while it was read"),
    (cut_and_fill, "has changed while it was read"),
    (overwrite, "has changed while it was read"),
    (remove, "no such file"),
]


@pytest.mark.parametrize(("change", "fault"), CHANGES, ids=[c.__name__ for c, _ in CHANGES])
@pytest.mark.parametrize("used", [False, True], ids=["before the first batch", "after it"])
def test_a_shard_that_changes_under_a_loader_is_one_line(
    folder: Path, change: Callable[[Path], None], fault: str, *, used: bool
) -> None:
    loader = InstanceLoader(folder, batch_size=64, seed=1)
    if used:
        loader.batch(0)
    time.sleep(0.02)
    change(folder / SHARD)
    with pytest.raises(TokkitError, match=fault) as caught:
        loader.batch(1)
    assert SHARD in str(caught.value)


@pytest.mark.parametrize("length", [-1, 1000])
def test_a_length_that_changes_between_checks_of_the_file_is_refused(
    folder: Path, length: int
) -> None:
    reader = InstanceReader(ShardFolder.open(folder, "instances"), "train-")
    numbers = np.arange(len(reader), dtype=np.uint64)
    reader.gather(numbers)
    reader._next_check = math.inf
    lengths = reader._columns[-1]["segment_length"].tobytes()
    shard = folder / reader._refs[-1].shard
    place = shard.read_bytes().index(lengths)
    with shard.open("r+b") as file:
        file.seek(place)
        file.write(np.int32(length).tobytes())
    with pytest.raises(TokkitError, match="has changed while it was read"):
        reader.gather(numbers)


def equal(first: dict[str, object], second: dict[str, object]) -> bool:
    return first.keys() == second.keys() and all(
        torch.equal(torch.as_tensor(first[name]), torch.as_tensor(second[name])) for name in first
    )


def test_a_used_loader_that_is_pickled_gives_the_same_batches(folder: Path) -> None:
    loader = InstanceLoader(folder, batch_size=8, seed=1)
    expected = [loader.batch(step) for step in range(4)]
    copy = pickle.loads(pickle.dumps(loader))  # noqa: S301  our own
    assert all(equal(copy.batch(step), expected[step]) for step in range(4))
    reader = pickle.loads(pickle.dumps(loader._loader._training[0]))  # noqa: S301
    assert not reader._table["input_ids"].any()


def test_processes_that_are_spawned_share_a_used_loader(folder: Path) -> None:
    loader = InstanceLoader(folder, batch_size=8, seed=1, num_steps=6)
    expected = [loader.batch(step) for step in range(6)]
    workers = DataLoader(loader, batch_size=None, num_workers=2, multiprocessing_context="spawn")
    assert all(equal(*pair) for pair in zip(workers, expected, strict=True))


def test_threads_that_share_a_loader_get_the_right_batches(folder: Path) -> None:
    alone = InstanceLoader(folder, batch_size=16, seed=1)
    expected = [alone.batch(step) for step in range(8)]
    for _ in range(5):
        shared = InstanceLoader(folder, batch_size=16, seed=1)
        found: dict[int, dict[str, object]] = {}

        def read(step: int, loader: InstanceLoader, found: dict[int, dict[str, object]]) -> None:
            found[step] = loader.batch(step)

        threads = [threading.Thread(target=read, args=(s, shared, found)) for s in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert all(equal(found[step], expected[step]) for step in range(8))


HAMMER = """
import os, sys, threading, time
from pathlib import Path
from tokkit.errors import TokkitError
from tokkit.pretraining.data.instance_loader import InstanceLoader
from tokkit.pretraining.data.instance_reader import InstanceReader
from tokkit.shards.reader import ShardFolder

loader = InstanceLoader(sys.argv[1], batch_size=64, seed=1)
loader.batch(0)
shards = sorted(Path(sys.argv[1]).glob("train-*.arrow"))

def change():
    time.sleep(0.05)
    for shard in shards:
        {change}

threading.Thread(target=change).start()
try:
    for step in range(1_000_000):
        loader._loader.training_instances(step)
except TokkitError as error:
    print(error, flush=True)
    os._exit(7)
"""


@pytest.mark.parametrize(
    "change", ["os.truncate(shard, 0)", "shard.write_bytes(os.urandom(shard.stat().st_size))"]
)
def test_a_shard_that_changes_in_the_middle_of_a_batch_ends_no_process(
    folder: Path, change: str
) -> None:
    done = forkserver.run(
        [sys.executable, "-c", HAMMER.format(change=change), str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (7, "")
    assert done.stdout.startswith(str(folder))
