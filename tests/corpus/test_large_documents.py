"""Documents above ``--max-document-bytes``: an error in one line, or dropped and counted."""

import csv
import gzip
import io
import json
import re
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest
from corpusfiles import read_corpus
from hypothesis import given
from hypothesis import strategies as st

from reference import scan as reference
from tokkit.corpus.corpus_config import DOCUMENTS, CorpusConfig
from tokkit.corpus.units import plan_groups
from tokkit.errors import TokkitError

LIMIT = 60
TEXTS = ["short", "long" * 40, "in between", "long again" * 30]
# Without white space of which a document could have more than fits into memory.
RAW_TEXTS = st.lists(
    st.tuples(st.sampled_from(["\n", "\r", "\r\n", "\n\n", "a", "ß"]), st.integers(1, 9))
).map(lambda runs: "".join(character * count for character, count in runs).encode())


def write_text(path: Path) -> None:
    path.write_text("\n\n".join(TEXTS))


def write_lines(path: Path) -> None:
    path.write_text("\n".join(json.dumps({"text": text}) for text in TEXTS))


def write_array(path: Path) -> None:
    path.write_text(json.dumps([{"text": text} for text in TEXTS], indent=1))


def write_compressed(path: Path) -> None:
    path.write_bytes(gzip.compress("\n\n".join(TEXTS).encode()))


def write_parquet(path: Path) -> None:
    pq.write_table(pa.table({"text": TEXTS}), path)


def write_arrow(path: Path) -> None:
    pyarrow.feather.write_feather(pa.table({"text": TEXTS}), path, compression="uncompressed")


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.txt", write_text),
        ("a.jsonl", write_lines),
        ("a.json", write_array),
        ("a.txt.gz", write_compressed),
        ("a.parquet", write_parquet),
        ("a.arrow", write_arrow),
    ],
)
def test_a_large_document_is_an_error_or_dropped_and_counted(
    tmp_path: Path, name: str, write: Callable[[Path], None]
) -> None:
    path = tmp_path / name
    write(path)
    for errors in ("strict", "replace"):
        with pytest.raises(TokkitError, match=rf"{name}.* more than {LIMIT} bytes") as caught:
            read_corpus(path, max_document_bytes=LIMIT, batch_bytes=20, errors=errors)
        assert "--max-document-bytes" in str(caught.value)
        assert "--errors skip" in str(caught.value)

    corpus = read_corpus(path, max_document_bytes=LIMIT, batch_bytes=20, errors="skip")

    assert corpus.texts == ["short", "in between"]
    assert corpus.dropped == {"too long": 2}
    assert corpus.bytes_read == path.stat().st_size
    assert read_corpus(path, max_document_bytes=1000).texts == TEXTS


@pytest.mark.parametrize("documents", DOCUMENTS)
@given(
    data=RAW_TEXTS,
    limit=st.integers(1, 30),
    sizes=st.fixed_dictionaries(
        {"unit_bytes": st.integers(1, 60), "batch_bytes": st.integers(1, 90)}
    ),
)
def test_exactly_the_large_documents_are_dropped_in_any_units_and_batches(
    tmp_path_factory: pytest.TempPathFactory,
    documents: str,
    data: bytes,
    limit: int,
    sizes: dict[str, int],
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(data)
    slices = [(0, len(data))] if data else []
    if documents != "file":
        slices = reference.documents(data, documents)
    expected = [
        reference.clean(data[start:stop]).decode()
        for start, stop in slices
        if stop - start <= limit
    ]

    corpus = read_corpus(
        path, documents=documents, errors="skip", max_document_bytes=limit, **sizes
    )

    assert corpus.texts == [text for text in expected if text.strip()]
    assert corpus.dropped["too long"] == sum(stop - start > limit for start, stop in slices)
    assert corpus.bytes_read == len(data)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("id,text\n1,a\n2," + 100 * "b", "line 3: the row has more than 60 bytes"),
        ('id,text\n1,"' + 20 * "line\n" + '"\n', "line 2: the row has more than 60 bytes"),
        (100 * "a", "line 1: the row has more than 60 bytes"),
    ],
    ids=["line", "quoted lines", "names"],
)
def test_a_large_row_is_an_error(tmp_path: Path, content: str, fault: str) -> None:
    """What follows it cannot be found without reading all of its quotes, so it is never skipped."""
    path = tmp_path / "a.csv"
    path.write_text(content)
    for errors in ("strict", "skip"):
        with pytest.raises(TokkitError, match=f"a.csv, {fault}; raise --max-document-bytes"):
            read_corpus(path, max_document_bytes=LIMIT, errors=errors)


def test_rows_up_to_the_limit_are_read(tmp_path: Path) -> None:
    rows = [["id", "text"], *([str(n), f'"{n}",\n é'] for n in range(40))]
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    (tmp_path / "a.csv").write_text(out.getvalue())
    corpus = read_corpus(tmp_path / "a.csv", max_document_bytes=25)
    assert corpus.texts == [text for _, text in rows[1:]]


def test_a_record_of_millions_of_values_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b", "x": [' + 5_000_000 * "1," + "1]}\n")
    with pytest.raises(TokkitError, match=r"a.jsonl, line 2: more than 4,194,304 values"):
        read_corpus(path)
    path.write_text('{"text": "' + 5_000_000 * "[," + '"}\n')
    assert len(read_corpus(path).texts[0]) == 10_000_000


def test_a_row_of_millions_of_fields_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('id,text\n1,"\n' + 1_000_000 * "," + '",' + 5_000_000 * ",")
    with pytest.raises(TokkitError, match=r"a.csv, line 2: the row has more than 4,194,304 fields"):
        read_corpus(path)
    path.write_text('id,text\n1,"\n' + 5_000_000 * "," + '"')
    assert len(read_corpus(path).texts[0]) == 5_000_001


def test_the_limit_is_in_the_content_key_only_where_it_changes_the_result() -> None:
    def options(**values: object) -> dict[str, object]:
        return CorpusConfig(inputs=("a",), **values).describe(())  # type: ignore[arg-type]  # any

    assert options() == options(max_document_bytes=5)
    assert options(errors="skip") != options(errors="skip", max_document_bytes=5)


def test_a_limit_is_a_size() -> None:
    option = CorpusConfig.options["max_document_bytes"]
    assert option.parse is not None
    assert option.parse("2GB") == 2_000_000_000
    assert re.search("skip", option.help)


def test_a_dictionary_that_rows_repeat_to_gigabytes_is_refused(tmp_path: Path) -> None:
    values = pa.array(["a" * 1_000_000])
    column = pa.DictionaryArray.from_arrays(pa.array([0] * 5000, pa.int32()), values)
    pyarrow.feather.write_feather(pa.table({"text": column}), tmp_path / "a.arrow")
    with pytest.raises(TokkitError, match=r"a.arrow: .* repeats values to 5,000,000,000 bytes"):
        read_corpus(tmp_path / "a.arrow")


def test_a_large_document_of_standard_input_ends_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``/dev/zero`` never ends."""
    read = 0

    class Endless(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any, /) -> int:
            nonlocal read
            read += len(buffer)
            buffer[:] = b"a" * len(buffer)
            return len(buffer)

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Endless())))
    config = CorpusConfig(inputs=("-",), max_document_bytes=5_000_000)
    (unit,) = plan_groups(config, 1 << 20, "{}")
    assert unit.open_stream is not None
    stream = unit.open_stream()
    with pytest.raises(
        TokkitError, match=r"stdin: the document at byte .* more than 5,000,000 bytes"
    ):
        deque(iter(stream.read, None))
    assert read < 20_000_000
