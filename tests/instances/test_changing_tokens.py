"""A token folder that changes while instances are built from it ends the build with one line."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from tokenfolders import write_token_folder

from tokkit.errors import TokkitError
from tokkit.instances.document_reader import DocumentReader, Split
from tokkit.kernels.instances.assemble_pairs import borrow_segments
from tokkit.kernels.instances.pair_sentences import PAIR_DTYPE
from tokkit.shards.arrow import read_only
from tokkit.shards.reader import Shard, ShardFolder

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
    change(folder / "shard-00001.arrow")
    copy = pickle.loads(pickle.dumps(reader))  # noqa: S301  as worker processes get it
    for each in (reader, copy):
        with pytest.raises(TokkitError, match=r"shard-00001\.arrow: has changed while it was read"):
            each.read(0, 4, SPLIT)


@pytest.mark.parametrize("change", [replace, cut, overwrite])
def test_a_shard_that_changes_while_its_documents_are_used_is_refused(
    folder: Path, change: Callable[[Path], None]
) -> None:
    reader = open_reader(folder)

    def use_documents() -> None:
        with reader.map_documents(3) as documents:
            change(folder / "shard-00001.arrow")
            documents.ids.sum()  # of a file that was cut, without a signal

    with pytest.raises(TokkitError, match="has changed while it was read"):
        use_documents()


def spoil(shard: Path, values: npt.NDArray[Any], wrong: int) -> None:
    """Replace the second value in place, wherever the file has this array."""
    changed = values.copy()
    changed[1] = wrong
    data = shard.read_bytes()
    assert values.tobytes() in data
    shard.write_bytes(data.replace(values.tobytes(), changed.tobytes()))


ARRAYS = {
    "offsets beyond the end": (np.array([0, 9, 18, 27]), 1 << 40),
    "offsets that run backwards": (np.array([0, 9, 18, 27]), -8),
    "other offsets": (np.array([0, 9, 18, 27]), 8),
    "long sentences": (np.array([5, 4, 5, 4, 5, 4], np.int32), 1 << 30),
    "sentences without tokens": (np.array([5, 4, 5, 4, 5, 4], np.int32), 0),
}


@pytest.mark.parametrize(("values", "wrong"), ARRAYS.values(), ids=ARRAYS)
def test_values_that_change_after_they_were_checked_reach_no_kernel(
    folder: Path, monkeypatch: pytest.MonkeyPatch, values: npt.NDArray[Any], wrong: int
) -> None:
    reader = open_reader(folder)
    reader.read(0, 4, SPLIT)
    monkeypatch.setattr(Shard, "require_unchanged", lambda _: None)  # as if it came too early
    spoil(folder / "shard-00001.arrow", values, wrong)
    with pytest.raises(TokkitError, match="was damaged while it was read"):
        reader.read(0, 4, SPLIT)
    with pytest.raises(TokkitError, match="was damaged while it was read"):
        reader.read_lengths(3, SPLIT)


@pytest.mark.parametrize("wrong", [1 << 30, -(1 << 30), 0])
def test_a_segment_of_impossible_sentences_stays_within_its_document(wrong: int) -> None:
    ids = np.arange(27, dtype=np.uint16)
    lengths = np.full(6, wrong, np.int32)
    pairs = np.zeros(200, PAIR_DTYPE)
    pairs["a_length"], pairs["b_length"] = 5, 7
    pairs["source_draw"] = np.arange(200, dtype=np.uint64) << np.uint64(56)
    out_ids, out_bits = np.zeros(200 * 12, np.uint16), np.zeros(301, np.uint8)
    rows, key = np.arange(200), np.uint64(1)
    end = borrow_segments(
        rows,
        rows % 3,
        read_only(ids),
        read_only(np.array([0, 9, 18, 27])),
        read_only(lengths),
        read_only(np.array([0, 2, 4, 6])),
        read_only(np.zeros(4, np.uint8)),
        0,
        12,
        key,
        key,
        0,
        pairs,
        out_ids,
        out_bits,
    )
    assert end == pairs["b_length"].sum()
    assert pairs["b_length"].max() <= 9
    for pair, row in zip(pairs, rows % 3, strict=True):
        copied = out_ids[pair["b_start"] : pair["b_start"] + pair["b_length"]]
        assert set(copied.tolist()) <= set(range(9 * row, 9 * row + 9))
