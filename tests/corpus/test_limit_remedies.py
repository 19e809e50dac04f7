"""Errors about limits and standard input advise what works, as those of ``test_corpus_remedies``."""

import io
import os
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpusfiles import read_corpus
from corpusremedies import PARQUET, RECORD, Row, follow, saved

from tokkit.errors import TokkitError

LONG = pa.table({"text": ["a" * 500] * 10})
LONG_PARQUET = saved(lambda file: pq.write_table(LONG, file, use_dictionary=False))
SHORT_PAGES = saved(
    lambda file: pq.write_table(
        LONG, file, use_dictionary=False, data_page_size=500, write_batch_size=1
    )
)
# Smaller limits, and rows that go beyond them, before and after the remedy.
LIMITED: list[tuple[str, dict[str, int], Row]] = [
    (
        "csv_rows",
        {"_LARGE_ROW": 20, "_MAX_FIELDS": 30},
        (
            {"a.csv": b"text,b\na" + b"," * 40},
            {},
            "more than {} fields; shorten it",
            {"a.csv": b"text,b\na,b"},
            {},
        ),
    ),
    (
        "csv_rows",
        {"_LARGEST_HEADER": 30},
        (
            {"a.csv": b"text," + b"b" * 40 + b"\na,b\n"},
            {},
            "more than {} characters of names of columns; correct it",
            {"a.csv": b"text,b\na,b\n"},
            {},
        ),
    ),
    (
        "records",
        {"_LARGE_RECORD": 20, "_MAX_VALUES": 5},
        (
            {"a.jsonl": b'{"text": "a", "b": [1, 2, 3, 4, 5, 6]}\n'},
            {},
            "more than {} values in one record; write several records",
            {"a.jsonl": RECORD * 3},
            {},
        ),
    ),
    (
        "table_rows",
        {"MAX_PIECE_BYTES": 1000},
        (
            {"a.parquet": LONG_PARQUET},
            {"max_document_bytes": 2000},
            ", a page: {} bytes, which are read as a whole; pass --max-document-bytes ",
            {},
            {"max_document_bytes": 6000},
        ),
    ),
    (
        "table_rows",
        {"MAX_PIECE_BYTES": 1000},
        (
            {"a.parquet": LONG_PARQUET},
            {"max_document_bytes": 2000},
            ", or write it with smaller pages",
            {"a.parquet": SHORT_PAGES},
            {},
        ),
    ),
]


@pytest.mark.parametrize("limited", LIMITED, ids=[row[2][2] for row in LIMITED])
def test_inputs_are_read_within_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limited: tuple[str, dict[str, int], Row]
) -> None:
    module, limits, row = limited
    for name, value in limits.items():
        monkeypatch.setattr(f"tokkit.corpus.{module}.{name}", value)
    follow(tmp_path, row)


def test_what_is_no_file_is_read_from_standard_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, fault in (
        (tmp_path / "fifo", ": not a regular file; pipe its content to -"),
        (Path("/proc/version"), ": its size is not known; pipe its content to -"),
    ):
        with pytest.raises(TokkitError, match=f"^{name}{fault}$"):
            read_corpus(name)
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(TokkitError) as error:
        read_corpus("-")
    assert "standard input is closed; name a file, or pipe text into it" in str(error.value)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text")))
    assert read_corpus("-").texts == ["text"]
    with pytest.raises(TokkitError) as error:
        read_corpus("-", format="parquet")
    assert " cannot be read from standard input; name the file instead" in str(error.value)
    (tmp_path / "a").write_bytes(PARQUET)
    assert read_corpus(tmp_path / "a", format="parquet").texts == ["from a table"]
