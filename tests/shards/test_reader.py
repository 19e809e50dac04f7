"""What a shard says survives the disk; what would lead a kernel astray is refused."""

import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import hash_file, write_atomically
from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError
from tokkit.shards.arrow import large_list, ragged
from tokkit.shards.objectives import TARGET_COLUMNS
from tokkit.shards.reader import BatchRef, ShardFolder
from tokkit.shards.schema import Header, check_batch, instances_schema, tokens_schema
from tokkit.shards.shard import header_of
from tokkit.shards.shard_file import open_shard, open_writer

HEADER = Header(
    kind="tokens", tokenizer_fingerprint="f" * 64, vocab_size=100, special_ids={"cls": 2, "sep": 3}
)
INSTANCES = Header(
    kind="instances",
    tokenizer_fingerprint="f" * 64,
    vocab_size=100,
    special_ids={"cls": 2, "sep": 3},
    max_seq_length=8,
)


def column(rows: list[list[Any]], dtype: Any) -> pa.LargeListArray:
    offsets = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return large_list(np.array([x for row in rows for x in row], dtype), offsets)


def documents(
    ids: list[list[int]], sentences: list[list[int]], starts: list[list[bool]] | None = None
) -> pa.RecordBatch:
    starts = starts or [[True] * len(row) for row in ids]
    columns = [
        pa.array([f"document {i}" for i in range(len(ids))]),
        column(ids, np.uint16),
        column(sentences, np.int32),
        column(starts, np.bool_),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=tokens_schema(HEADER))


def write_folder(folder: Path, batches: list[pa.RecordBatch], compression: str = "none") -> None:
    folder.mkdir()
    with (
        write_atomically(folder / "shard-0000000.arrow") as sink,
        open_writer(sink, batches[0].schema, compression) as writer,
    ):
        for batch in batches:
            writer.write(batch)
    row: FileRow = {
        "name": "shard-0000000.arrow",
        "bytes": sink.size,
        "sha256": sink.sha256,
        "rows": sum(map(len, batches)),
        "tokens": sum(len(ragged(batch.column("input_ids"))[0]) for batch in batches),
    }
    assert hash_file(folder / "shard-0000000.arrow") == row["sha256"]
    Manifest(
        kind="tokens",
        key="k",
        options={},
        seed=None,
        tokenizer_fingerprint=HEADER.tokenizer_fingerprint,
        inputs=[],
        shards=[row],
        accounts=Accounts().as_dict(),
    ).write(folder)


@pytest.mark.parametrize("compression", ["none", "zstd", "lz4"])
def test_what_is_written_is_read(tmp_path: Path, compression: str) -> None:
    first = documents([[5, 6, 7], [8]], [[2, 1], [1]])
    second = documents([[99]], [[1]])
    write_folder(tmp_path / "tokens", [first, second], compression)
    folder = ShardFolder.open(tmp_path / "tokens", "tokens")
    refs = folder.batch_refs()
    assert [(ref.rows, ref.tokens) for ref in refs] == [(2, 4), (1, 1)]
    assert folder.header == HEADER
    assert folder.read_batch(refs[0]).equals(first)
    assert folder.read_batch(refs[1]).equals(second)
    assert folder.batch_refs("train-") == []


def test_uncompressed_ids_are_not_copied(tmp_path: Path) -> None:
    write_folder(tmp_path / "tokens", [documents([[5, 6, 7]], [[3]])])
    folder = ShardFolder.open(tmp_path / "tokens", "tokens")
    before = pa.total_allocated_bytes()
    values, _ = ragged(folder.read_batch(folder.batch_refs()[0]).column("input_ids"))
    assert pa.total_allocated_bytes() == before
    assert not values.flags.owndata


def test_copies_keep_what_a_file_held_before_it_was_overwritten(tmp_path: Path) -> None:
    write_folder(tmp_path / "tokens", [documents([[7, 8], [9]], [[2], [1]])])
    folder = ShardFolder.open(tmp_path / "tokens", "tokens")
    batch = folder.read_batch(*folder.batch_refs(), copied=True)
    before = batch.to_pylist()
    (path,) = (tmp_path / "tokens").glob("*.arrow")
    path.write_bytes(b"\xff" * path.stat().st_size)  # the same file, and the same size
    assert batch.to_pylist() == before


@given(st.lists(st.lists(st.booleans(), max_size=9), max_size=9), st.data())
def test_ragged_reads_slices_too(rows: list[list[bool]], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(rows)))
    length = data.draw(st.integers(0, len(rows) - start))
    values, offsets = ragged(column(rows, np.bool_).slice(start, length))
    found = [values[a:b].tolist() for a, b in pairwise(offsets)]
    assert found == rows[start : start + length]
    assert offsets[0] == 0


@pytest.mark.parametrize(
    ("batch", "fault"),
    [
        (documents([[5, 100]], [[2]]), "holds id 100, but the vocabulary has 100 tokens"),
        (documents([[5, 6]], [[1]]), "do not add up"),
        (documents([[5, 6]], [[2, 0]]), "sentence without tokens"),
        (documents([[]], [[]]), "without sentences"),
        (documents([[5, 6]], [[2]], [[True]]), "word_starts and input_ids differ"),
    ],
)
def test_contents_that_contradict_themselves_are_refused(batch: pa.RecordBatch, fault: str) -> None:
    with pytest.raises(TokkitError, match=fault):
        check_batch(batch, HEADER, "shard", check_ids=True)


@pytest.mark.parametrize("offsets", [[0, 3, 2], [0, 2, 9], [-1, 1, 3], [0, 1 << 62, 3]])
def test_offsets_that_run_backwards_or_out_of_bounds_are_refused(
    tmp_path: Path, offsets: list[int]
) -> None:
    write_folder(tmp_path / "tokens", [documents([[5, 6], [7]], [[2], [1]])])
    shard = tmp_path / "tokens" / "shard-0000000.arrow"
    good, bad = (np.array(row, np.int64).tobytes() for row in ([0, 2, 3], offsets))
    assert shard.read_bytes().count(good) == 2  # of input_ids and of word_starts
    shard.write_bytes(shard.read_bytes().replace(good, bad, 1))
    folder = ShardFolder.open(tmp_path / "tokens", "tokens")
    with pytest.raises(
        TokkitError, match=r"run backwards or out of bounds|record batch 0: damaged"
    ):
        folder.read_batch(BatchRef(shard.name, 0, 2, 3))


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "tokens", [documents([[5]], [[1]])])
    shard = tmp_path / "tokens" / "shard-0000000.arrow"
    shard.write_bytes(shard.read_bytes().replace(b"document 0", b"document\xff0"))
    folder = ShardFolder.open(tmp_path / "tokens", "tokens")
    with pytest.raises(TokkitError, match="document holds damaged text"):
        folder.read_batch(folder.batch_refs()[0])


def instance(**changes: Any) -> pa.RecordBatch:
    columns = {
        "input_ids": column([[2, 5, 3, 6, 3]], np.uint16),
        "segment_length": pa.array([3], pa.int32()),
        "document": pa.array([0], pa.uint64()),
        "next_sentence_label": pa.array([1], pa.int8()),
        "word_starts": column([[False, True, False, True, False]], np.bool_),
        "masked_positions": column([[1]], np.uint16),
        "masked_labels": column([[9]], np.uint16),
        **changes,
    }
    schema = instances_schema(INSTANCES, static=True)
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=schema)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"masked_positions": column([[5]], np.uint16)}, "masked_positions is beyond"),
        ({"masked_labels": column([[9, 9]], np.uint16)}, "differ in length"),
        ({"masked_labels": column([[100]], np.uint16)}, "masked_labels holds id 100"),
        ({"segment_length": pa.array([6], pa.int32())}, "segment_length is beyond"),
        ({"segment_length": pa.array([None], pa.int32())}, "segment_length holds nulls"),
        (
            {
                "input_ids": column([[2] * 9], np.uint16),
                "word_starts": column([[False] * 9], np.bool_),
            },
            "longer than 8",
        ),
    ],
)
def test_instances_that_contradict_themselves_are_refused(
    changes: dict[str, Any], fault: str
) -> None:
    check_batch(instance(), INSTANCES, "shard", check_ids=True)
    with pytest.raises(TokkitError, match=fault):
        check_batch(instance(**changes), INSTANCES, "shard", check_ids=True)


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    write_folder(tmp_path / "good", [documents([[5, 6, 7]], [[3]])])
    shard = "shard-0000000.arrow"

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(tmp_path / "good", tmp_path / name))

    folder = damaged("truncated")
    (folder / shard).write_bytes((folder / shard).read_bytes()[:-100])
    with pytest.raises(TokkitError, match=r"bytes, the manifest says \d+"):
        ShardFolder.open(folder, "tokens")

    folder = damaged("missing")
    (folder / shard).unlink()
    with pytest.raises(TokkitError, match="no such file"):
        ShardFolder.open(folder, "tokens")

    folder = damaged("garbage")
    size = (folder / shard).stat().st_size
    (folder / shard).write_bytes(b"\0" * size)
    with pytest.raises(TokkitError, match="not a whole Arrow file"):
        ShardFolder.open(folder, "tokens")

    folder = damaged("unfinished")
    (folder / "manifest.json").unlink()
    with pytest.raises(TokkitError, match="unfinished"):
        ShardFolder.open(folder, "tokens")

    folder = damaged("other")
    text = (folder / "manifest.json").read_text().replace("f" * 64, "e" * 64)
    (folder / "manifest.json").write_text(text)
    with pytest.raises(TokkitError, match="another tokenizer"):
        ShardFolder.open(folder, "tokens")

    with pytest.raises(TokkitError, match="holds tokens, but instances are needed"):
        ShardFolder.open(tmp_path / "good", "instances")


def test_an_arrow_file_of_a_stranger_or_of_another_version_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"

    def write(metadata: dict[str, str] | None, columns: dict[str, list[int]]) -> None:
        table = pa.table(columns).replace_schema_metadata(metadata)
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)

    write(None, {"x": [1]})
    with pytest.raises(TokkitError, match="not a shard of tokkit"):
        header_of(open_shard(path).schema, path)
    write({**HEADER.to_metadata(), "tokkit.format_version": "9"}, {"x": [1]})
    with pytest.raises(TokkitError, match="format version 9 is not known"):
        header_of(open_shard(path).schema, path)
    write(HEADER.to_metadata(), {"x": [1]})
    with pytest.raises(TokkitError, match="its columns are not those of tokens"):
        header_of(open_shard(path).schema, path)
    write({"tokkit.format_version": "1"}, {"x": [1]})
    with pytest.raises(TokkitError, match="damaged metadata"):
        header_of(open_shard(path).schema, path)


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, np.uint16), (65_537, np.uint32)])
def test_ids_are_as_narrow_as_the_vocabulary_allows(vocab_size: int, dtype: Any) -> None:
    header = Header(kind="tokens", tokenizer_fingerprint="f", vocab_size=vocab_size, special_ids={})
    assert header.id_dtype is dtype
    assert Header.from_metadata(tokens_schema(header).metadata, "x") == header


def test_the_readme_describes_every_column() -> None:
    lines = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("| `")]
    described = {name for cell in cells for name in cell.split("`")[1::2]}
    instances = [instances_schema(INSTANCES, static=True, targets=name) for name in TARGET_COLUMNS]
    columns = {name for schema in (tokens_schema(HEADER), *instances) for name in schema.names}
    assert columns <= described
