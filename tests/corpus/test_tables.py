"""Parquet and Arrow files."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpusfiles import read_corpus

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.readers import digest_unit, read_documents
from tokkit.corpus.units import plan_units
from tokkit.errors import TokkitError

TEXTS = ["one", None, "zwei\r\nlines\r", "", "三" * 50, " \n", "six"] * 30
CLEAN = ["one", "zwei\r\nlines\r", "三" * 50, "six"] * 30
FORMATS = ["parquet", "arrow", "stream.arrow"]


def write(path: Path, columns: dict[str, Any], rows: int = 20) -> Path:
    """Write a table in groups or batches of some rows."""
    table = pa.table(columns)
    if path.suffix == ".parquet":
        pq.write_table(table, path, row_group_size=rows)
    elif path.name.startswith("stream"):
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    else:
        with pa.ipc.new_file(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=rows)
    return path


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "stream.arrow", "a.feather"])
@pytest.mark.parametrize("batch_bytes", [1, 100, 1 << 20])
def test_rows_become_documents(tmp_path: Path, name: str, batch_bytes: int) -> None:
    path = write(tmp_path / name, {"n": range(len(TEXTS)), "text": TEXTS})

    corpus = read_corpus(path, batch_bytes=batch_bytes)

    assert corpus.texts == CLEAN
    assert corpus.dropped == {"null text": 30, "empty": 60}
    assert corpus.bytes_read == path.stat().st_size
    assert len(set(corpus.names)) == len(corpus.names)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_units_are_runs_of_row_groups_or_batches(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, {"text": TEXTS})
    config = CorpusConfig(inputs=(str(path),))
    units = plan_units(config, unit_bytes=2000)

    cut = read_corpus(path, unit_bytes=2000)
    whole = read_corpus(path)

    assert len(units) > 2
    assert (cut.texts, cut.names) == (whole.texts, whole.names)
    assert sum(unit.size for unit in units) == cut.bytes_read == path.stat().st_size
    part = "row groups" if name == "a.parquet" else "record batches"
    assert units[0].name == f"{path}, {part} 0 to {units[0].stop}"


def test_rows_are_named_by_number_or_their_own_id(tmp_path: Path) -> None:
    texts = ["a", None, "b", "c"]
    parquet = write(tmp_path / "a.parquet", {"text": texts, "id": [7, 8, None, 10]}, rows=2)
    assert read_corpus(parquet).names == ["7", f"{parquet}:2", "10"]
    assert read_corpus(parquet, id_field="x").names == [f"{parquet}:{row}" for row in (0, 2, 3)]
    arrow = write(tmp_path / "a.arrow", {"text": texts, "id": ["i", "", "", None]}, rows=2)
    assert read_corpus(arrow).names == ["i", f"{arrow}:1:0", f"{arrow}:1:1"]
    lists = write(tmp_path / "b.arrow", {"text": texts, "id": [[1]] * 4})
    assert read_corpus(lists).names[0] == f"{lists}:0:0"


@pytest.mark.parametrize(
    "column_type",
    [
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int32(), pa.string()),
        pa.dictionary(pa.int8(), pa.large_string()),
        pa.binary(),
        pa.large_binary(),
        pa.binary_view(),
        pa.dictionary(pa.int16(), pa.binary()),
    ],
    ids=str,
)
@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_every_layout_of_strings_is_read(
    tmp_path: Path, column_type: pa.DataType, file_format: str
) -> None:
    texts = pa.array(TEXTS)
    if pa.types.is_dictionary(column_type):
        texts = texts.cast(column_type.value_type).dictionary_encode()
    columns = {"text": texts.cast(column_type), "lang": texts.cast(column_type)}
    path = write(tmp_path / f"a.{file_format}", columns)
    corpus = read_corpus(path, language_field="lang")
    assert corpus.texts == CLEAN
    assert corpus.languages == [text for text in TEXTS if text is not None and text.strip()]


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_missing_column_is_reported_with_the_existing_ones(
    tmp_path: Path, file_format: str
) -> None:
    path = write(tmp_path / f"stream.{file_format}", {"body": ["a"], "n": [1]})
    with pytest.raises(TokkitError, match=r"no column 'text'; --text-field must name .*: body, n$"):
        plan_units(CorpusConfig(inputs=(str(path),)))
    with pytest.raises(TokkitError, match="column 'n' holds int64, not strings"):
        plan_units(CorpusConfig(inputs=(str(path),), text_field=("n",)))
    with pytest.raises(TokkitError, match="no column 'lang'; --language-field must name"):
        read_corpus(path, text_field="body", language_field="lang")


def test_a_duplicate_column_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    with pa.ipc.new_file(tmp_path / "a.arrow", table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(TokkitError, match="2 columns 'text'"):
        read_corpus(tmp_path)


def with_invalid_text() -> pa.Array:
    data = b"goodb\xffdfine"
    offsets = np.array([0, 4, 7, 11], dtype=np.int32)
    return pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(data))


@pytest.mark.parametrize("file_format", FORMATS)
def test_invalid_utf8_in_a_column_of_strings(tmp_path: Path, file_format: str) -> None:
    path = write(tmp_path / f"stream.{file_format}", {"text": with_invalid_text()})
    with pytest.raises(TokkitError, match="row 1: invalid UTF-8 at byte 1 of the text"):
        read_corpus(path)
    replaced = read_corpus(path, errors="replace")
    assert replaced.texts == ["good", "b\ufffdd", "fine"]
    assert replaced.replaced == 1
    skipped = read_corpus(path, errors="skip")
    assert skipped.texts == ["good", "fine"]
    assert skipped.dropped == {"invalid UTF-8": 1}


def test_bounds_that_run_backwards_are_refused(tmp_path: Path) -> None:
    offsets = np.array([0, 9, 2, 11], dtype=np.int32)
    texts = pa.StringArray.from_buffers(3, pa.py_buffer(offsets), pa.py_buffer(b"x" * 11))
    path = write(tmp_path / "a.arrow", {"text": texts})
    with pytest.raises(TokkitError, match="invalid Arrow data"):
        read_corpus(path)


@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("size", [0, 5, 100, -1, -8, -100])
def test_a_truncated_table_is_refused(tmp_path: Path, file_format: str, size: int) -> None:
    path = write(tmp_path / f"stream.{file_format}", {"text": TEXTS * 10})
    data = path.read_bytes()
    path.write_bytes(data[:size])
    with pytest.raises(TokkitError, match=r"invalid (Arrow|Parquet) data") as caught:
        read_corpus(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_text_under_the_name_of_a_table_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("plain text\n" * 1000)
    with pytest.raises(TokkitError, match=f"{name}: invalid .* or not what its name says"):
        read_corpus(tmp_path)


def test_the_first_feather_version_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.feather").write_bytes(b"FEA1" + bytes(100) + b"FEA1")
    with pytest.raises(TokkitError, match="Feather version 1"):
        read_corpus(tmp_path)


@pytest.mark.parametrize("file_format", FORMATS)
def test_a_table_without_rows_counts_as_empty(tmp_path: Path, file_format: str) -> None:
    path = write(tmp_path / f"stream.{file_format}", {"text": pa.array([], pa.string())})
    corpus = read_corpus(path, language_field="text")
    assert corpus.dropped == {"empty": 1}
    assert corpus.bytes_read == path.stat().st_size


@pytest.mark.parametrize("file_format", FORMATS)
def test_the_digest_depends_on_text_and_not_on_batches(tmp_path: Path, file_format: str) -> None:
    path = tmp_path / f"stream.{file_format}"
    config = CorpusConfig(inputs=(str(path),))
    digests = []
    for texts in (["ab", "c"], ["a", "bc"], ["ab", "c"]):
        write(path, {"text": texts * 100})
        (unit,) = plan_units(config)
        digest = hashlib.sha256()
        for _ in read_documents(unit, config, digest=digest, batch_bytes=10):
            pass
        assert digest.hexdigest() == digest_unit(unit, config)
        digests.append(digest.hexdigest())
    assert digests[0] == digests[2] != digests[1]


def test_a_table_that_changes_is_refused(tmp_path: Path) -> None:
    for file_format in FORMATS:
        path = write(tmp_path / f"stream.{file_format}", {"text": TEXTS})
        config = CorpusConfig(inputs=(str(path),))
        (unit,) = plan_units(config)
        write(path, {"text": TEXTS[:9]})
        with pytest.raises(TokkitError, match="changed while it was read"):
            list(read_documents(unit, config))


def test_pages_and_repeated_values_are_bounded_before_they_are_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.corpus.table_rows.MAX_PIECE_BYTES", 10_000)
    table = pa.table({"other": ["b" * 30_000] * 500, "text": ["a" * 4000] * 500})
    reads: list[int] = []
    get = pq.ParquetFile.iter_batches

    def read(file: pq.ParquetFile, rows: int, **options: Any) -> Any:
        reads.append(rows)
        return get(file, rows, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", read)
    for number, options in enumerate(
        ({}, {"use_dictionary": False, "column_encoding": {"text": "DELTA_BYTE_ARRAY"}})
    ):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table.slice(0, 500), path, **options)
        corpus = read_corpus(path, max_document_bytes=4000)
        assert corpus.texts == ["a" * 4000] * 500
    assert max(reads) <= 2  # rows, of which the file of some kilobytes has 500

    plain = tmp_path / "plain.parquet"
    pq.write_table(table, plain, use_dictionary=False)
    with pytest.raises(TokkitError, match=r"group 0, a page: 2,0.*--max-document-bytes 20"):
        read_corpus(plain, max_document_bytes=4000)
    pq.write_table(table, plain, use_dictionary=False, data_page_size=1, write_batch_size=2)
    assert read_corpus(plain, max_document_bytes=4000).texts == ["a" * 4000] * 500


def test_a_page_whose_header_claims_endless_values_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": TEXTS})
    data = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(0).column(0).data_page_offset
    # A list, of more than 14 values that are true, in number 2^60.
    header = bytes([0x19, 0xF1, *[0x80] * 8, 0x10])
    data[start : start + len(header)] = header
    path.write_bytes(data)
    with pytest.raises(TokkitError, match="invalid Parquet data"):
        read_corpus(path)


def test_large_groups_are_read_a_few_megabytes_at_a_time(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["x" * 1_000_000] * 40}, rows=40)
    config = CorpusConfig(inputs=(str(path),))
    (unit,) = plan_units(config)
    sizes = [len(batch.texts) for batch in read_documents(unit, config)]
    assert sum(sizes) == 40
    assert max(sizes) <= 9


LISTS = [["One.", "Two\nlines."], None, [], ["x", None], [" "]]


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
@pytest.mark.parametrize(
    "column_type",
    [pa.list_(pa.string()), pa.large_list(pa.large_string()), pa.list_(pa.binary())],
    ids=str,
)
def test_a_list_of_strings_is_a_text_with_a_line_for_each(
    tmp_path: Path, file_format: str, column_type: pa.DataType
) -> None:
    lists = pa.array(LISTS * 3, pa.list_(pa.string())).slice(1).cast(column_type)
    corpus = read_corpus(write(tmp_path / f"a.{file_format}", {"text": lists}, rows=4))
    assert corpus.texts == ["x\n", *["One.\nTwo lines.", "x\n"] * 2]
    assert corpus.dropped == {"null text": 3, "empty": 6}


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_a_field_of_a_struct_is_a_column(tmp_path: Path, file_format: str) -> None:
    rows = [{"text": "a", "deep": {"id": "i"}}, None, {"text": None, "deep": None}, {"text": "b"}]
    path = write(tmp_path / f"a.{file_format}", {"meta": pa.array([*rows, *rows]).slice(1)}, rows=3)
    corpus = read_corpus(path, text_field="meta.text", id_field="meta.deep.id")
    assert corpus.texts == ["b", "a", "b"]
    assert corpus.names[1] == "i"
    assert corpus.dropped == {"null text": 4}
    with pytest.raises(
        TokkitError, match=r"no column 'meta.no'; --text-field must name one of: meta"
    ):
        read_corpus(path, text_field="meta.no")
    with pytest.raises(TokkitError, match=r"column 'meta' holds struct.*, not strings"):
        read_corpus(path, text_field="meta")
    literal = {"meta.text": ["literal"], "meta": pa.array([{"text": "inner"}])}
    write(path, literal)
    assert read_corpus(path, text_field="meta.text").texts == ["literal"]


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_several_columns_are_joined_by_a_blank_line(tmp_path: Path, file_format: str) -> None:
    columns = {
        "title": ["T", None, "", None, "X", " "],
        "body": pa.array([["a", "b"], ["B"], ["C"], None, [" "], [""]]),
    }
    path = write(tmp_path / f"a.{file_format}", columns)
    corpus = read_corpus(path, text_field=("title", "body"))
    assert corpus.texts == ["T\n\na\nb", "B", "C", "X"]
    assert corpus.dropped == {"null text": 1, "empty": 1}
    with pytest.raises(TokkitError, match="no column 'no'"):
        read_corpus(path, text_field=("title", "no"))


@pytest.mark.parametrize("file_format", ["parquet", "arrow"])
def test_columns_of_nulls_are_columns_of_strings(tmp_path: Path, file_format: str) -> None:
    path = write(tmp_path / f"a.{file_format}", {"text": ["a", "b"], "lang": pa.nulls(2)})
    assert read_corpus(path, language_field="lang").languages == [None, None]
    assert read_corpus(path, text_field="lang").dropped == {"null text": 2}


def test_what_polars_writes_is_read(tmp_path: Path) -> None:
    frame = pl.DataFrame({"text": ["a", "b"]}, schema={"text": pl.Categorical})
    frame.write_ipc(tmp_path / "a.arrow")
    frame.write_parquet(tmp_path / "b.parquet")
    frame.write_csv(tmp_path / "c.csv")
    assert read_corpus(tmp_path).texts == ["a", "b"] * 3
