"""A token folder that changes while instances are built from it ends the build with one line."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenfolders import write_token_folder

from tokkit.errors import TokkitError
from tokkit.instances.document_reader import DocumentReader, Split
from tokkit.shards.reader import ShardFolder

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
