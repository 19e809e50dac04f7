"""Errors about inputs advise what works: each row fails, does what the line says, and is read."""

import gzip
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from corpusfiles import read_corpus
from corpusremedies import PARQUET, RECORD, TABLE, Row, follow, read, saved

from tokkit.errors import TokkitError

ZIP = saved(lambda file: zipfile.ZipFile(file, "w").writestr("a.txt", "text"))
SEVERAL = pa.table({"a": [1], "body": ["from a table"]})
GERMAN = "Die Straße über Köln. " * 20
FEATHER_1 = b"FEA1" + bytes(9) + b"FEA1"
ARROW = saved(lambda file: pyarrow.feather.write_feather(TABLE, file, compression="uncompressed"))
SEVERAL_PARQUET = saved(lambda file: pq.write_table(SEVERAL, file))
NUMPY = saved(lambda file: np.save(file, np.arange(9)))
STATE = {"_data_files": [{"filename": "a.arrow"}]}
INDICES = {**STATE, "_indices_files": [{"filename": "b.arrow"}]}
PANDAS = pd.DataFrame({"text": ["x", "y"], "label": [1, 2]})

ROWS: list[Row] = [
    ({"a.zip": ZIP}, {}, "unpack it, and name the files in it", {"a.txt": b"text"}, {}),
    ({"a": b"%PDF-1.5"}, {}, "convert it to plain text first", {"a": b"text"}, {}),
    ({"a": b"<html><p>a"}, {}, "extract its text first, as ", {"a": b"a"}, {}),
    ({"a": b"<html><p>a"}, {}, "or pass --format text to read it", {}, {"format": "text"}),
    ({"a.npy": NUMPY}, {}, "convert it to JSON lines or Parquet first", {"a": RECORD}, {}),
    ({"a.npy": NUMPY}, {}, "convert it to JSON lines or Parquet first", {"a": PARQUET}, {}),
    (
        {"a": GERMAN.encode("utf-16")},
        {},
        "convert it first, as with iconv -f UTF-16 -t UTF-8",
        {"a": GERMAN.encode("utf-16").decode("utf-16").encode()},
        {},
    ),
    ({"a.br": b"\x1b\x0f\0\xf8"}, {}, "decompress it first", {"a.txt": b"text"}, {}),
    (
        {"a.parquet.gz": gzip.compress(PARQUET)},
        {},
        " cannot be read in parts; decompress it first",
        {"a.parquet": PARQUET},
        {},
    ),
    (
        {"a.txt": b"text", "a.png": b"\x89PNG\r\n\x1a\n"},
        {},
        "name the files of text, as in FOLDER/*.txt",
        {},
        {"inputs": "*.txt"},
    ),
    ({"a": b'<doc id="1">\ntext'}, {}, "run it again with --json", {"a": RECORD}, {}),
    ({"a.txt.gz": b"text"}, {}, "as its name says; rename or ", {"a.txt": b"text"}, {}),
    (
        {"a.txt.gz": b"text"},
        {},
        "or replace the file",
        {"a.txt.gz": gzip.compress(b"text")},
        {},
    ),
    ({"a.csv": RECORD}, {}, "; pass --format jsonl to read it", {}, {"format": "jsonl"}),
    ({"a.csv": b"text\nM\xfcll\n"}, {}, "convert it to UTF-8, or ", {"a.csv": b"text\nM"}, {}),
    ({"a.txt": b"M\xfcll\n"}, {}, "to substitute U+FFFD", {}, {"errors": "replace"}),
    ({"a.txt": b"b\n\nM\xfcll\n"}, {}, "--errors skip to drop such", {}, {"errors": "skip"}),
    (
        {"a.csv": b"text\n" + b"long " * 9},
        {"max_document_bytes": 20},
        "bytes; raise --max-document-bytes",
        {},
        {"max_document_bytes": 50},
    ),
    (
        {"a.txt": b"b\n\n" + b"long " * 9},
        {"max_document_bytes": 20},
        "or pass --errors skip to drop such documents",
        {},
        {"errors": "skip"},
    ),
    (
        {"a.csv": b'text,b\n"one\n,' + b"long " * 9},
        {"max_document_bytes": 40},
        "or see --no-quotes if a stray quote joins rows",
        {"a.csv": b'text,b\n"one,' + b"long " * 3},
        {"quotes": False},
    ),
    ({"a.csv": b"text,b\none\n"}, {}, "; correct the line, or", {"a.csv": b"text,b\none,2"}, {}),
    ({"a.tsv": b'text\tb\n"a\tb"\n'}, {}, ", or see --no-quotes", {}, {"quotes": False}),
    (
        {"a.csv": b'text\n"a "b" c"\n'},
        {},
        "write a quote within a quoted field twice",
        {"a.csv": b'text\n"a ""b"" c"\n'},
        {},
    ),
    ({"a.csv": b'text\n"a "b" c"\n'}, {}, "or pass --no-quotes", {}, {"quotes": False}),
    (
        {"a.tsv": b'text\tb\n"a\n\tc"\td\n'},
        {},
        "; pass --no-quotes if quotes are text like any other, else",
        {"a.tsv": b'text\tb\n"a\tc"\n'},
        {"quotes": False},
    ),
    (
        {"a.tsv": b'text\n"a\n\tc"\n'},
        {},
        "are text like any other, else --format csv",
        {},
        {"format": "csv"},
    ),
    ({"a.csv": b"a,b\nc,d\n"}, {}, "must name one of: ", {}, {"text_field": "a"}),
    ({"a.csv": b"a,b\nc,d\n"}, {}, "or pass --text-column 1 if the", {}, {"text_column": (1,)}),
    ({"a.parquet": SEVERAL_PARQUET}, {}, "; {} must name one of: {}", {}, {"text_field": "body"}),
    (
        {"a.parquet": SEVERAL_PARQUET},
        {"text_field": "a"},
        "not strings; name another with",
        {},
        {"text_field": "body"},
    ),
    ({"a.feather": FEATHER_1}, {}, "version 2, which is Arrow", {"a.feather": ARROW}, {}),
    (
        {"a.json": b'{"text": "x", "data": [{"text": "y"}]}'},
        {},
        "write it in one line, as jq -c does, and pass --format jsonl",
        {},
        {"format": "jsonl"},
    ),
    (
        {"a.json": b'{"data": [{"text": "x"}],\n"b": [{"text": "y"}]}'},
        {},
        "pipe the records of one in, as in jq -c '.data[]'",
        {"a.json": RECORD},
        {},
    ),
    (
        {"a.json": PANDAS.to_json().encode()},
        {},
        "save it by df.to_json(path, orient='records', lines=True)",
        {"a.json": PANDAS.to_json(orient="records", lines=True).encode()},
        {},
    ),
    (
        {"a.json": b'{"a": {"b c": [{"row": {"text": "x"}}]}}'},
        {},
        "pipe them in, as in jq -c '.a.\"b c\"[].row'",
        {"a.json": RECORD},
        {},
    ),
    (
        {"a.json": b'{"1": {"text": "x"}, "2": {"text": "y"}}'},
        {},
        "members are the records; pipe them in, as in jq -c '.[]'",
        {"a.json": RECORD},
        {},
    ),
    (
        {"a.json": b'{"texts": ["x", "y"]}'},
        {},
        "; pass --text-field if they are the sentences of a text, or",
        {},
        {"text_field": "texts"},
    ),
    (
        {"a.json": b'{"texts": ["x", "y"]}'},
        {},
        "or pipe them in, as in jq -c '.texts[] | {text: .}'",
        {"a.json": RECORD},
        {},
    ),
    (
        {"a": b'[\n"x",\n"y"\n]'},
        {},
        "pipe them in, as in jq -c '.[] | {text: .}'",
        {"a": RECORD},
        {},
    ),
    (
        {"a.json": b'{"text": "x}"}{"text": "y"}'},
        {},
        "write each object in a line of its own, as jq -c . does",
        {"a.json": RECORD * 2},
        {},
    ),
    ({"a.jsonl": b'["x"]'}, {}, "pipe them in, as in jq -c '{}{{}: {}}'", {"a.jsonl": RECORD}, {}),
    ({"a": b"id,text\n1,One\n"}, {}, "pass --format csv to read it", {}, {"format": "csv"}),
    ({"a": b"id\ttext\n1\tOne\n"}, {}, "pass --format tsv to read it", {}, {"format": "tsv"}),
    ({"a.ipynb": b'{"cells": []}'}, {}, "convert it to Markdown first", {"a.md": b"# One"}, {}),
    (
        {"a": b"- id: 1\n  text: One\n"},
        {},
        "convert them to JSON lines first",
        {"a": RECORD},
        {},
    ),
    (
        {"a.js": b'window.YTD.tweets.part0 = [{"text": "a"}]'},
        {},
        "remove what is before its first bracket",
        {"a.js": b'[{"text": "a"}]'},
        {},
    ),
    (
        {"a": b'{"features": [{"feature_idx": 0}], "rows": [{"row": {"text": "a"}}]}'},
        {},
        "pipe them in, as in jq -c '.rows[].row'",
        {"a": RECORD},
        {},
    ),
    (
        {"a.jsonl": RECORD + b"[1]\n"},
        {},
        "correct or remove the ",
        {"a.jsonl": RECORD},
        {},
    ),
    (
        {"a.jsonl": RECORD + b"[1]\n"},
        {},
        "or pass --format text if this is plain text",
        {},
        {"format": "text"},
    ),
    (
        {"a.txt": b"one,two"},
        {"text_column": (2,)},
        "pass --format csv or tsv if it is one",
        {},
        {"format": "csv"},
    ),
    (
        {"_delta_log/0.json": b"{}", "a.parquet": PARQUET},
        {},
        "or name the files",
        {},
        {"inputs": "*.parquet"},
    ),
    (
        {"blobs/a": b"a", "refs/main": b"b", "snapshots/b/a.txt": b"text"},
        {},
        "; name one of the folders in its snapshots",
        {},
        {"inputs": "snapshots/b"},
    ),
    (
        {"state.json": json.dumps(INDICES).encode(), "a.arrow": ARROW, "b.arrow": ARROW},
        {},
        "call flatten_indices() and save it again",
        {"state.json": json.dumps(STATE).encode(), "a.arrow": ARROW},
        {},
    ),
    (
        {"state.json": json.dumps(STATE).encode(), "b.arrow": ARROW},
        {},
        "which {} names; copy the folder again",
        {"state.json": json.dumps(STATE).encode(), "a.arrow": ARROW},
        {},
    ),
    (
        {"state.json": b'{"_data_files": [1]}', "a.arrow": ARROW},
        {},
        "is damaged ({}); copy the folder again",
        {"state.json": json.dumps(STATE).encode(), "a.arrow": ARROW},
        {},
    ),
    (
        {"a.txt": b"text"},
        {"inputs": "b.txt"},
        "no such file or folder; check the path",
        {},
        {"inputs": "a.txt"},
    ),
    ({"a.txt": b"text"}, {"inputs": "*.md"}, "check the pattern", {}, {"inputs": "*.txt"}),
    (
        {"a/.txt": b"text", "b/c": b"text"},
        {"inputs": "a"},
        "what tokkit wrote; name another",
        {},
        {"inputs": "b"},
    ),
    (
        {"/".join(["a"] * 202) + "/b.txt": b"text"},
        {},
        " folders deep; name another",
        {},
        {"inputs": "/".join(["a"] * 100)},
    ),
    (
        {"a.txt": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n"},
        {},
        "a Git LFS pointer, not the file itself; run git lfs pull",
        {"a.txt": b"text"},
        {},
    ),
    (
        {"a.jsonl": b'{"data": [{"text": "x"}]}\n'},
        {},
        "an object with an array of objects in {}; if these are the records, pipe them in",
        {"a.jsonl": b'{"text": "x"}\n'},
        {},
    ),
]


@pytest.mark.parametrize("orient", ["columns", "split", "index", "table", "values"])
@pytest.mark.parametrize("indent", [0, 2])
def test_a_table_of_pandas_is_read_or_refused(tmp_path: Path, orient: Any, indent: int) -> None:
    PANDAS.to_json(tmp_path / "a.json", orient=orient, indent=indent)
    with pytest.raises(TokkitError, match=r"df\.to_json\(path, orient='records'|as in jq -c '"):
        read(tmp_path)


def test_fields_are_named_if_no_record_has_the_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"turns": [{"role": "user", "says": "x"}], "meta": {"body": f"y{n}"}} for n in range(3)]
    lines = "".join(f"{json.dumps(row)}\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    assert not read(tmp_path)
    fault = "see --text-field, which may name these: turns[].role, turns[].says, meta.body"
    assert fault in caplog.text
    assert read(tmp_path, text_field="meta.body") == ["y0", "y1", "y2"]
    caplog.clear()
    (tmp_path / "a.jsonl").write_bytes(lines.encode() + RECORD)
    assert read(tmp_path)
    assert not caplog.text
    (tmp_path / "a.jsonl").write_text(json.dumps(dict.fromkeys(["\n\ud800", *map(str, range(99))])))
    assert not read(tmp_path)
    (record,) = caplog.records
    assert record.getMessage().encode().endswith(b", 10\xe2\x80\xa6")
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("row", ROWS, ids=[row[2] for row in ROWS])
def test_inputs_are_read_after_their_remedy(tmp_path: Path, row: Row) -> None:
    follow(tmp_path, row)


@pytest.mark.parametrize("new", [pa.ipc.new_file, pa.ipc.new_stream])
@pytest.mark.parametrize("compression", [None, "lz4", "zstd"])
@pytest.mark.parametrize("uri", [False, True], ids=["path", "URI"])
def test_record_batches_are_read_after_their_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: Any, compression: str | None, *, uri: bool
) -> None:
    """What is not read does not count, and a dictionary does."""
    monkeypatch.setattr("tokkit.corpus.table_limits.MAX_PIECE_BYTES", 1000)
    texts = pa.array(["a" * 400] * 10, pa.large_string())
    names = pa.array(["b" * 5000] * 10).dictionary_encode()
    rows = pa.table({"text": texts, "other": ["c" * 9000] * 10, "v": [[1.0]] * 10, "name": names})
    path = tmp_path / "a.arrow"

    def write(batch_rows: int, *columns: str) -> None:
        options = pa.ipc.IpcWriteOptions(compression=compression)
        chosen = rows.select(columns)
        with new(path, chosen.schema, options=options) as writer:
            writer.write_table(chosen, max_chunksize=batch_rows)

    def read(limit: int) -> int:
        name = f"file://{path}" if uri else path
        return len(read_corpus(name, max_document_bytes=limit).texts)

    write(10, "text", "other", "v")
    fault = ", which are read as a whole; pass --max-document-bytes (4[0-9]+), or write it with"
    with pytest.raises(TokkitError, match=fault) as error:
        read(900)
    message = str(error.value)
    assert "bytes, which are read as a whole; pass --max-document-bytes" in message
    assert "or write it with smaller record batches, such as" in message
    found = re.search(fault, message)
    assert found is not None
    assert read(int(found[1])) == 10
    write(2, "text", "other", "v")
    assert read(900) == 10
    write(2, "text", "name")
    with pytest.raises(TokkitError, match=r"5,0[0-9]+ bytes, which are read as a whole"):
        read(900)
    assert read(6000) == 10
