"""How plain text falls into documents, whatever its line ends, size and kind of file."""

import bz2
import gzip
import hashlib
import io
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import lz4.frame  # type: ignore[import-untyped]  # it ships no annotations
import pytest
import zstandard
from corpusfiles import read_corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference import scan as reference
from tokkit.corpus.corpus_config import DOCUMENTS, CorpusConfig
from tokkit.corpus.readers import digest_unit, read_documents
from tokkit.corpus.units import plan_units
from tokkit.errors import TokkitError

COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "lz4": lz4.frame.compress,
}

RARE_NUL = "語語語\x00"  # more of them are binary data
RAW_TEXTS = st.lists(
    st.tuples(
        st.sampled_from(["\n", "\r", "\r\n", " ", "\t", "\v", "a", "ß", "語", RARE_NUL, "\ufeff"]),
        st.integers(1, 4),
    )
).map(lambda runs: "".join(character * count for character, count in runs).encode())


def feed_stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def expected_documents(data: bytes, documents: str) -> list[str]:
    """What the readable twin finds."""
    return [
        reference.clean(data[start:stop]).decode()
        for start, stop in reference.documents(data, documents)
    ]


@pytest.mark.parametrize("documents", DOCUMENTS)
@given(data=RAW_TEXTS, unit_bytes=st.integers(1, 60), batch_bytes=st.integers(1, 90))
def test_documents_are_those_of_the_twin_in_any_units_and_batches(
    tmp_path_factory: pytest.TempPathFactory,
    documents: str,
    data: bytes,
    unit_bytes: int,
    batch_bytes: int,
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_bytes(data)

    corpus = read_corpus(path, unit_bytes=unit_bytes, batch_bytes=batch_bytes, documents=documents)

    assert corpus.texts == expected_documents(data, documents)
    assert corpus.bytes_read == len(data)
    for name, text in zip(corpus.names, corpus.texts, strict=True):
        start = int(name.removeprefix(f"{path}:"))
        first_line = text.split("\n")[0].encode()
        line = re.sub(b"^(?:\xef\xbb\xbf)+", b"", data[start:])
        assert line[: len(first_line)] == first_line
    if documents == "line":
        num_empty = reference.count_empty_lines(data)
        assert corpus.dropped["empty"] == (num_empty or not corpus.texts)


@pytest.mark.parametrize("documents", DOCUMENTS)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=RAW_TEXTS, batch_bytes=st.integers(1, 90))
def test_standard_input_and_compressed_files_read_as_the_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
    documents: str,
    data: bytes,
    batch_bytes: int,
) -> None:
    folder = tmp_path_factory.mktemp("packed")
    expected = expected_documents(data, documents)
    for suffix, compress in COMPRESS.items():
        path = folder / f"a.txt.{suffix}"
        path.write_bytes(compress(data))
        corpus = read_corpus(path, batch_bytes=batch_bytes, documents=documents)
        assert corpus.texts == expected
        assert corpus.bytes_read == path.stat().st_size
    feed_stdin(monkeypatch, data)
    assert read_corpus("-", batch_bytes=batch_bytes, documents=documents).texts == expected


@pytest.mark.parametrize("suffix", COMPRESS)
def test_members_and_frames_one_after_the_other_are_one_text(tmp_path: Path, suffix: str) -> None:
    """As ``cat a.gz b.gz`` writes them; one of no content is among them."""
    compress = COMPRESS[suffix]
    path = tmp_path / f"a.txt.{suffix}"
    path.write_bytes(b"".join(map(compress, [b"one\ntw", b"", b"o\n\nthree\n"])))

    assert read_corpus(path).texts == ["one\ntwo", "three"]


@pytest.mark.parametrize(
    "variant",
    [
        lambda text: text,
        lambda text: text.replace("\n", "\r\n"),
        lambda text: text.replace("\n", "\r"),
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff" + text.replace("\n", "\r\n"),
        lambda text: text.removesuffix("\n"),
        lambda text: text + "\n\n \n",
    ],
    ids=["lf", "crlf", "cr", "bom", "bom-crlf", "no-final-newline", "blank-end"],
)
@pytest.mark.parametrize("documents", DOCUMENTS)
def test_marks_and_line_ends_make_no_difference(
    tmp_path: Path, variant: Callable[[str], str], documents: str
) -> None:
    text = "A \x00 b\x07\nc\x1b[0m\n\n\ufeffd\ufeffé\u2028f\u0085g\n"
    path = tmp_path / "a.txt"
    path.write_bytes(variant(text).encode())

    texts = read_corpus(path, documents=documents).texts

    expected = {
        "blank-line": ["A \x00 b\x07\nc\x1b[0m", "d\ufeffé\u2028f\u0085g"],
        "line": ["A \x00 b\x07", "c\x1b[0m", "d\ufeffé\u2028f\u0085g"],
        "file": ["A \x00 b\x07\nc\x1b[0m\n\nd\ufeffé\u2028f\u0085g"],
    }[documents]
    assert [text.rstrip("\n ") for text in texts] == expected


@pytest.mark.parametrize("data", [b"", b"\xef\xbb\xbf", b"\n", b" \n\t\r\n"])
@pytest.mark.parametrize("documents", DOCUMENTS)
def test_a_file_without_text_counts_as_empty(tmp_path: Path, data: bytes, documents: str) -> None:
    (tmp_path / "a.txt").write_bytes(data)

    corpus = read_corpus(tmp_path, documents=documents)

    assert corpus.texts == []
    num_lines = max(1, len(reference.lines(data))) if documents == "line" else 1
    assert corpus.dropped == {"empty": num_lines}


def test_a_file_of_its_own_is_one_unit_and_one_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\n\ntwo\n" * 1000)

    corpus = read_corpus(tmp_path, documents="file", unit_bytes=1024)

    assert corpus.num_units == 1
    assert corpus.texts == ["one\n\ntwo\n" * 999 + "one\n\ntwo"]
    assert corpus.names == [f"{tmp_path}/a.txt:0"]


def test_real_books_read_alike_in_any_units(shared: Path) -> None:
    books = sorted((shared / "corpora" / "en-books-raw").glob("*.txt"))[:4]
    whole = read_corpus(*books)

    cut = read_corpus(*books, unit_bytes=50_000, batch_bytes=7_000)

    assert cut.num_units > 40
    assert (cut.texts, cut.names) == (whole.texts, whole.names)
    for book in books:
        text = book.read_bytes()
        assert [t for t, n in zip(whole.texts, whole.names, strict=True) if str(book) in n] == (
            expected_documents(text, "blank-line")
        )


@pytest.mark.parametrize("name", ["controls-synthetic.txt", "blns.txt", "unicode-emoji-test.txt"])
@pytest.mark.parametrize("documents", DOCUMENTS)
def test_messy_files_read_as_their_twin_says(shared: Path, name: str, documents: str) -> None:
    path = shared / "corpora" / "messy" / name
    corpus = read_corpus(path, documents=documents, unit_bytes=4096, batch_bytes=1000)
    assert corpus.texts == expected_documents(path.read_bytes(), documents)


def test_the_digest_of_a_file_read_whole_is_its_sha256(tmp_path: Path) -> None:
    data = b"one\r\n\r\ntwo\n" * 5000
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(data))
    config = CorpusConfig(inputs=(str(tmp_path),))
    for unit in plan_units(config):
        digest = hashlib.sha256()
        for _ in read_documents(unit, config, digest=digest, batch_bytes=1000):
            pass
        assert digest.hexdigest() == hashlib.sha256(data).hexdigest() == digest_unit(unit, config)

    parts = plan_units(CorpusConfig(inputs=(str(tmp_path / "a.txt"),)), unit_bytes=10_000)
    assert len(parts) > 2
    for unit in parts:
        expected = hashlib.sha256(data[unit.start : unit.stop]).hexdigest()
        assert digest_unit(unit, config) == expected


@pytest.mark.parametrize("documents", DOCUMENTS)
def test_invalid_utf8_is_reported_with_its_position(tmp_path: Path, documents: str) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"good\r\n\r\n\r\nalso good \xe3\x81 x\n")

    with pytest.raises(TokkitError) as caught:
        read_corpus(path, documents=documents)

    begin = 0 if documents == "file" else 10
    assert f"{path}: invalid UTF-8 at byte 20, in the document that begins at byte {begin}" in str(
        caught.value
    )
    assert "--errors replace" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_invalid_utf8_in_a_later_unit_is_reported_with_its_position_in_the_file(
    tmp_path: Path,
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"fine\n\n" * 1000 + b"b\xffd\n\n" + b"fine\n\n" * 1000)
    with pytest.raises(TokkitError, match="at byte 6001, in the document that begins at byte 6000"):
        read_corpus(path, unit_bytes=1024, batch_bytes=64)


@pytest.mark.parametrize("batch_bytes", [16, 1 << 20])
def test_invalid_utf8_is_replaced_or_skipped_and_counted(shared: Path, batch_bytes: int) -> None:
    path = shared / "corpora" / "messy" / "invalid-utf8-synthetic.txt"
    lines = [line for line in path.read_bytes().split(b"\n") if not reference.is_blank(line)]
    valid = [line for line in lines if line == line.decode(errors="ignore").encode()]
    assert len(valid) < len(lines)

    replaced = read_corpus(path, documents="line", errors="replace", batch_bytes=batch_bytes)
    skipped = read_corpus(path, documents="line", errors="skip", batch_bytes=batch_bytes)

    assert replaced.texts == [line.decode(errors="replace") for line in lines]
    assert replaced.replaced == len(lines) - len(valid)
    assert replaced.dropped["invalid UTF-8"] == 0
    assert skipped.texts == [line.decode() for line in valid]
    assert skipped.dropped["invalid UTF-8"] == len(lines) - len(valid)
    assert skipped.names == [
        name for name, line in zip(replaced.names, lines, strict=True) if line in valid
    ]


@pytest.mark.parametrize(
    ("data", "what"),
    [
        ("Wörter".encode("utf-16"), "UTF-16"),
        (b"\x89PNG\r\n\x1a\n", "an image"),
        (gzip.compress(b"text", mtime=0), "gzip data"),
    ],
    ids=["utf-16", "png", "gzip"],
)
def test_a_file_that_is_no_text_is_recognized_by_its_first_bytes(
    tmp_path: Path, data: bytes, what: str
) -> None:
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(TokkitError, match=f"looks like {what}"):
        read_corpus(tmp_path / "a.txt", format="text")


def test_ten_million_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\n" * 10_000_000 + b"end")
    start = time.process_time()
    assert read_corpus(tmp_path / "a.txt").texts == ["end"]
    corpus = read_corpus(tmp_path / "a.txt", documents="line")
    assert corpus.texts == ["end"]
    assert corpus.dropped == {"empty": 10_000_000}
    assert time.process_time() - start < 10


READ_LARGE = """
import re, sys, time
import pyarrow.compute as pc
from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.readers import read_documents
from tokkit.corpus.units import plan_units


def measure(name):
    return int(re.search(rf"{name}:\\s+(\\d+) kB", open("/proc/self/status").read())[1])

config = CorpusConfig(inputs=(sys.argv[1],), documents=sys.argv[2])
start = time.process_time()
held = 0
for unit in plan_units(config):
    for batch in read_documents(unit, config):
        print(*pc.binary_length(batch.texts).to_pylist())
        held = max(held, measure("VmRSS"))
print(time.process_time() - start)
print(measure("VmHWM"), held)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a process's own peak is asked of Linux")
@pytest.mark.parametrize("documents", ["line", "blank-line"])
def test_a_document_of_200_mb_takes_linear_time_and_bounded_memory(
    tmp_path: Path, documents: str
) -> None:
    """One line, or one document of many; something follows, so that it is cut off in time."""
    path = tmp_path / "a.txt"
    line = b"x" * 999 + (b" " if documents == "line" else b"\n")
    with path.open("wb") as file:
        for _ in range(200):
            file.write(line * 1000)
        file.write(b"end.\n\nlast\n")

    run = subprocess.run(
        [sys.executable, "-c", READ_LARGE, path, documents], capture_output=True, check=True
    )

    *lengths, seconds, kilobytes, held = map(float, run.stdout.split())
    assert lengths == [200_000_004, 4]
    assert seconds < 10
    assert kilobytes < 1_000_000
    assert held < 450_000  # the text once, while it is encoded
