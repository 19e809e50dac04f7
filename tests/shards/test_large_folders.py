"""A folder of many shards is opened by its manifest, and each shard is compared when it is first read."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from tokenfolders import write_token_folder

from tokkit.engine.manifest import MANIFEST, Manifest
from tokkit.errors import TokkitError
from tokkit.inspection.verify import verify
from tokkit.shards import reader, shard
from tokkit.shards.reader import BatchRef, ShardFolder
from tokkit.shards.shard_file import open_shard

SHARDS = [[2, 3], [4], [1, 1]]
LAST = "shard-0000002.arrow"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with rows and tokens of each record batch in its manifest, of which one shard is opened."""
    folder = write_token_folder(tmp_path / "tokens", [[[10] * 5, [20] * 4]] * 11, shards=SHARDS)
    path = folder / MANIFEST
    manifest = json.loads(path.read_text())
    for row, sizes in zip(manifest["shards"], SHARDS, strict=True):
        row["batches"] = [(rows, 9 * rows) for rows in sizes]
    path.write_text(json.dumps(manifest))
    monkeypatch.setattr(reader, "MAX_OPENED", 1)
    return folder


def rewrite(folder: Path, metadata: dict[bytes, bytes]) -> None:
    """Write the last shard again, with other metadata, padded to its size."""
    path = folder / LAST
    table = open_shard(path).read_all()
    with pa.ipc.new_file(path, table.schema.with_metadata(metadata)) as writer:
        writer.write_table(table, max_chunksize=1)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"][-1]["bytes"] = path.stat().st_size
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_record_batches_are_known_without_opening_a_shard(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = ShardFolder.open(folder, "tokens")
    monkeypatch.setattr(shard, "open_shard", None)
    refs = opened.batch_refs()
    expected = [(n, rows) for n, sizes in enumerate(SHARDS) for rows in sizes]
    assert [(int(ref.shard[6:13]), ref.rows) for ref in refs] == expected
    assert [ref.tokens for ref in refs] == [9 * rows for _, rows in expected]
    monkeypatch.undo()
    assert [len(opened.read_batch(ref)) for ref in refs] == [rows for _, rows in expected]


def test_a_shard_of_another_tokenizer_is_refused_when_it_is_read(folder: Path) -> None:
    metadata = open_shard(folder / LAST).schema.metadata
    rewrite(folder, {**metadata, b"tokkit.tokenizer": b"0" * 64})
    opened = ShardFolder.open(folder, "tokens")
    *_, ref = opened.batch_refs()
    with pytest.raises(TokkitError, match=rf"{LAST}: its tokenizer_fingerprint is 000"):
        opened.read_batch(ref)


def test_a_shard_that_is_missing_or_of_another_size_is_refused_at_once(folder: Path) -> None:
    with (folder / LAST).open("ab") as file:
        file.write(b"x")
    with pytest.raises(TokkitError, match=rf"{LAST}: has \d+ bytes, the manifest says"):
        ShardFolder.open(folder, "tokens")
    (folder / LAST).unlink()
    with pytest.raises(TokkitError, match=rf"{LAST}: no such file"):
        ShardFolder.open(folder, "tokens")


@pytest.mark.parametrize("batches", [[[2, 18]], [[2, 9], [0, 9]], [[1, 9], [1, 9], [0, 0]]])
def test_record_batches_of_other_sizes_than_in_the_manifest_are_refused(
    folder: Path, batches: list[list[int]]
) -> None:
    assert not any("other sizes" in fault for fault in verify(folder).faults)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"][-1]["batches"] = batches
    (folder / MANIFEST).write_text(json.dumps(manifest))
    assert any("other sizes than the manifest says" in fault for fault in verify(folder).faults)
    opened = ShardFolder.open(folder, "tokens")
    refs = [ref for ref in opened.batch_refs() if ref.shard == LAST]
    with pytest.raises(TokkitError, match="has other rows or tokens than the manifest says"):
        list(map(opened.read_batch, refs))


def test_sizes_that_do_not_add_up_are_refused(folder: Path) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["shards"][1]["batches"] = [[4, 35]]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(TokkitError, match="has 35 tokens, but the manifest says 36"):
        ShardFolder.open(folder, "tokens").batch_refs()


def test_the_manifest_has_a_line_for_each_file(folder: Path) -> None:
    Manifest.read(folder).write(folder)
    lines = (folder / MANIFEST).read_text().splitlines()
    assert [json.loads(line.rstrip(","))["name"] for line in lines if line.startswith("    {")] == [
        f"shard-000000{number}.arrow" for number in range(3)
    ]
    assert isinstance(ShardFolder.open(folder, "tokens").batch_refs()[0], BatchRef)
