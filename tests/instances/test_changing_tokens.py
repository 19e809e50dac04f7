"""A token folder that changes while instances are built from it ends the build with one line."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from tokenfolders import write_token_folder

from tokkit.errors import TokkitError
from tokkit.instances.document_reader import DocumentReader, Split
from tokkit.shards.reader import BatchRef, ShardFolder

SPLIT = Split(held_out=False, eval_fraction=0.0, seed=np.uint64(1))
DOCUMENTS = [[[10 + i % 5] * 5, [20] * 4] for i in range(12)]


def open_reader(folder: Path) -> DocumentReader:
    opened = ShardFolder.open(folder, "tokens")
    return DocumentReader(opened, opened.batch_refs())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_token_folder(tmp_path / "tokens", DOCUMENTS, shards=[[3, 3], [3, 3]])


def replace(shard: Path) -> None:
    shutil.copyfile(shard, shard.with_suffix(".copy"))
    shard.with_suffix(".copy").replace(shard)


def cut(shard: Path) -> None:
    os.truncate(shard, 100)


def overwrite(shard: Path) -> None:
    shard.write_bytes(bytes(shard.stat().st_size))


@pytest.mark.parametrize("change", [replace, cut, overwrite])
@pytest.mark.parametrize("used", [False, True], ids=["before it is read", "after"])
def test_a_shard_that_changes_is_refused(
    folder: Path, change: Callable[[Path], None], *, used: bool
) -> None:
    reader = open_reader(folder)
    if used:
        reader.read(0, 4, SPLIT)
    change(folder / "shard-0000001.arrow")
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301  as worker processes get it
    for each in (reader, copy):
        with pytest.raises(
            TokkitError, match=r"shard-0000001\.arrow: has changed while it was read"
        ):
            each.read(0, 4, SPLIT)


@pytest.mark.parametrize("change", [replace, cut, overwrite])
def test_a_shard_that_changes_while_its_documents_are_used_is_refused(
    folder: Path, change: Callable[[Path], None]
) -> None:
    reader = open_reader(folder)

    def use_documents() -> None:
        with reader.map_documents(3) as documents:
            change(folder / "shard-0000001.arrow")
            documents.ids.sum()  # of a file that was cut, without a signal

    with pytest.raises(TokkitError, match="has changed while it was read"):
        use_documents()


@pytest.mark.parametrize(
    "values",
    [
        np.array([0, 9, 18, 27], np.int64),
        np.array([0, 2, 4, 6], np.int64),
        np.array([5, 4, 5, 4, 5, 4], np.int32),
    ],
    ids=["tokens", "sentences", "lengths"],
)
def test_what_changes_after_it_was_checked_reaches_no_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch, values: npt.NDArray[np.integer[Any]]
) -> None:
    reader = open_reader(folder)
    shard = folder / "shard-0000001.arrow"
    place = shard.read_bytes().index(values.tobytes()) + 2 * values.itemsize
    read_batch = ShardFolder.read_batch

    def read(self: ShardFolder, ref: BatchRef, **options: bool) -> pa.RecordBatch:
        batch = read_batch(self, ref, **options)
        with shard.open("r+b") as file:
            file.seek(place)
            file.write(b"\xff\xff\xff\x7f"[: values.itemsize])
        return batch

    monkeypatch.setattr(ShardFolder, "read_batch", read)
    reached = []

    def use_documents() -> None:
        with reader.map_documents(2) as documents:
            reached.append(documents)

    with pytest.raises(TokkitError, match="while it was read"):
        use_documents()
    assert not reached
