"""What a file is, by its name and its first bytes."""

import bz2
import gzip
import io
import json
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from corpusfiles import read_corpus
from hypothesis import given
from hypothesis import strategies as st

from reference import scan as reference
from tokkit.corpus.corpus_config import FORMATS
from tokkit.corpus.formats import identify
from tokkit.errors import TokkitError, UsageError

LINES = '{"id": "x", "text": "one"}\n\n{"text": "two"}\n'
# The beginnings of what is no text, and of text that resembles it.
BEGINNINGS = [
    *('{"text": "a"}', '{"a":', "[{", '[{"a": 1}]', "<html>", '<doc id="1">', "<?xml", "<unk>"),
    *("%PDF-1.5", "WARC/1.0", "BZh91AY&SY", "PK\x03\x04", "ARROW1\0\0", "a,b\n1,2", "{'a': 1}"),
    *("{curly}", "[1] note", "<3", "\ufeff", "version https://git-lfs.gith", "{\\rtf1", "GIF89a"),
]


def zipped() -> bytes:
    with io.BytesIO() as buffer:
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a.txt", "text")
        return buffer.getvalue()


def tarred() -> bytes:
    with io.BytesIO() as buffer:
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            archive.addfile(tarfile.TarInfo("a.txt"))
        return buffer.getvalue()


def saved(save: Callable[[io.BytesIO], None]) -> bytes:
    with io.BytesIO() as buffer:
        save(buffer)
        return buffer.getvalue()


TABLE = pa.table({"text": ["from a table"]})


@pytest.mark.parametrize("name", ["wiki_00", "part-00000", "a.txt", "a.jsonl", "a.json", "a.log"])
@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "marked"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, bz2.compress, lzma.compress])
def test_lines_of_json_objects_are_records_whatever_their_name(
    tmp_path: Path, name: str, mark: str, pack: Callable[[bytes], bytes]
) -> None:
    (tmp_path / name).write_bytes(pack((mark + LINES).encode()))
    corpus = read_corpus(tmp_path / name)
    assert corpus.texts == ["one", "two"]
    assert corpus.dropped == {"empty": 1}


def test_a_long_first_record_is_one(tmp_path: Path) -> None:
    text = "word " * 50_000
    (tmp_path / "a").write_text(json.dumps({"id": 1, "text": text}) + "\n" + LINES)
    assert read_corpus(tmp_path).texts == [text, "one", "two"]


@pytest.mark.parametrize(
    "text",
    [
        "{curly} braces begin\nthis book",
        "{ 1 }\n{ 2 }",
        "[Illustration]\n\nChapter",
        '["quoted"] text',
        "<unk> = Title =",
        "<s> a b </s>",
        "<unk> <s> a </s>",
        "a\0b\1c",
        "<3 you",
        "<!-- a remark -->\nprose",
        "1,2,3\n4,5,6",
        "a\tb\n1\t2",
        '"Hello," she said.',
        "BZh is no word",
        "PK, a name",
        "%PDF is a format",
        "GIF89 is one, too",
        "null",
        "{}",
        # The same beginnings as above, but not the same structure in every line.
        "1\n00:01 and 00:02 --> later",
        "WEBVTT is a format for subtitles",
        "[12:01] <ann> hi\n[12:02] <bob> yes\n[12:03] <ann> no",
        "From here on\nSubject: none",
        "From: Ann\nTo: Bob\nDate: 1 May\nSubject: Tea\nMemo",
        "Title: A Tale\nAuthor: Ann\nReceived: with joy\nOnce",
        ">quotation\nWASHINGTON\n",
        "Section 1\np1\nSee below",
        "@mention of one\n@other",
        "(Vivace)\np1\nplay",
        "% a comment\n\\section{One}",
        "the 0.5 0.25\nof 0.5 0.25",
        "The cat\nA dog\nOne B-17\nNo O",
        "I/O and/or TCP/IP",
        "(S-expressions are lists)",
        "word\t5\nother\t4\n" * 20,
        "one, two, three\n" * 30,
        "one,two,three\nfour,five\n" * 30,
        "title, body\none, two",
        "- one: two\n- text",
        "key: value\ntext: no record",
        "begin 100 years ago",
        "ACGT" * 15 + "\n" + "ACGT" * 15,
        "window.open()\nvar a = 1;",
        "/* a comment */\nint main() {}",
    ],
)
def test_text_that_resembles_data_is_text(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.txt").write_text(text)
    assert read_corpus(tmp_path).texts == text.strip().split("\n\n")


def test_real_texts_are_text(shared: Path) -> None:
    files = [
        path for path in (shared / "corpora").rglob("*") if path.suffix in (".txt", ".md", ".zst")
    ]
    assert len(files) > 1000
    for path in files:
        with path.open("rb") as file:
            assert identify("", str(path), file.read(1 << 16), "auto").format == "text", path


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("dump.xml", b"text", "markup"),
        ("a.html.gz", gzip.compress(b"x"), "markup"),
        ("dump", b'<mediawiki xmlns="x">\n<page>', "markup"),
        ("a.txt", b"\n<?xml version='1.0'?><a/>", "markup"),
        ("a.txt", b"<!-- saved -->\n<!DOCTYPE html>", "markup"),
        ("wiki_00", b'<doc id="12" url="u" title="t">\nText\n</doc>', "markup of WikiExtractor"),
        ("trec", b"<DOC>\n<DOCNO> 1 </DOCNO>\n<TEXT>", "markup"),
        ("a.txt", b"<p>One.</p>\n<p>Two.</p>", "markup"),
        ("a.srt", b"1\n00:00:01,000 --> 00:00:02,000\nHello.\n", "subtitles"),
        ("paper.tex", b"\\begin{document}", "LaTeX"),
        ("de.po.gz", gzip.compress(b'msgid "One"\n'), "catalog of translations"),
        ("refs.bib", b"@book{one, title = {One}}\n", "bibliography"),
        ("protein.fasta", b">sp|P1|ONE\nMKTAYI\n", "sequences with headers"),
        ("mail.b64", b"d29yZHM=\n", "encoded data"),
        ("a", b"!<arch>\na.txt/ ", "archive"),
        ("a.txt.br", b"\x1b\x10\0\xf8", "compressed data"),
        ("m.idx", b"MMIDIDX\0\0\1\0\0\0\0\0\0\0\x08", "binary data"),
        ("a.txt", bytes(99), "binary data"),
        ("a.txt", ("слово " * 99).encode("utf-16-le"), "text that is not UTF-8"),
        ("a.txt", "Wörter".encode("utf-32"), "UTF-32"),
        ("CC.warc.gz", gzip.compress(b"WARC/1.0\r\n"), "web archive"),
        ("a", b"WARC/1.0\r\nWARC-Type: warcinfo\r\n", "web archive"),
        ("a.tar", tarred(), "tar archive"),
        ("a.txt", tarred(), "tar archive"),
        ("a.gz", gzip.compress(tarred()), "tar archive"),
        ("a.tar.xz", lzma.compress(tarred()), "tar archive"),
        ("a.tbz2", bz2.compress(tarred()), "tar archive"),
        ("a.zip", zipped(), "zip archive"),
        ("a.docx", zipped(), "zip archive"),
        ("a", b"7z\xbc\xaf\x27\x1c\0\4", "7z archive"),
        ("a.pdf", b"%PDF-1.7\n%\xe2\xe3", "PDF"),
        ("a.txt", b"{\\rtf1\\ansi text}", "RTF"),
        ("a.db", b"SQLite format 3\0\x10", "SQLite"),
        ("a.npy", saved(lambda file: np.save(file, np.zeros(2))), "NumPy"),
        ("a.bin", b"\x80\x04\x95\x0a", "pickle"),
        ("a.jpg", b"\xff\xd8\xff\xe0\0\x10JFIF", "image"),
        ("a", b"\x89PNG\r\n\x1a\n", "image"),
        ("a", saved(lambda file: pa.orc.write_table(TABLE, file)), "ORC"),
        ("a.txt", "Wörter".encode("utf-16"), "UTF-16"),
        ("a.txt", ("words " * 99).encode("utf-16-le"), "UTF-16"),
        ("a.csv", "id,text\n".encode("utf-16"), "UTF-16"),
        ("a.json", b"{'text': \"it's\"}\n", "Python dictionaries"),
        ("a", b"[{'text': 'one'}]\n", "Python dictionaries"),
        ("a.gz", gzip.compress(gzip.compress(b"text")), "gzip data"),
        ("a.csv", b"<!DOCTYPE html>\n<html>", "markup"),
        ("a.ipynb", b'{"cells": []}', "notebook"),
        ("a.json", b'{ "features": [{"feature_idx": 0}], "rows": []}', "rows of the Hub's server"),
        ("a", b"1\r\n00:00:01,000 --> 00:00:02,000\r\nHello.\r\n", "subtitles"),
        ("a.txt", b"\nWEBVTT - a film\n\n00:01.000 --> 00:02.000\nHello.\n", "subtitles"),
        ("a", b"[00:00:00.000 --> 00:00:04.000]   And so.\n", "subtitles"),
        ("a", b"[Script Info]\nTitle: film\n", "subtitles"),
        ("a", b"{10}{20}Hello.\n{25}{30}Yes?\n", "subtitles"),
        ("a", b"0:00:00.599,0:00:04.160\nHello.\n", "subtitles"),
        ("a", b"[ar:Band]\n[00:12.00]One\n[00:17.20]Two\n", "subtitles"),
        ("archive", b"From ann@x.org Mon Jan  1 12:00:00 2024\nSubject: one\n\nHello.", "mail"),
        (
            "a.txt",
            b"Return-Path: <a@x>\nReceived: from x\n\tby y\nFrom: Ann <a@x>\n\nHello.\n",
            "mail",
        ),
        ("a", b"(dp0\nVtext\np1\nVone\np2\ns.", "pickle"),
        ("a", b"(lp0\nVone\np1\na.", "pickle"),
        ("a", b"(Vone\np0\nVtwo\np1\ntp2\n.", "pickle"),
        ("a", b"Vone\np0\n.", "pickle"),
        ("a", b"c__builtin__\nset\nq\0(", "pickle"),
        ("a", b"ccopy_reg\n_reconstructor\np0\n(c__main__\nA\np1\n", "pickle"),
        ("a.txt", b"% weather\n\n@RELATION weather\n@ATTRIBUTE text string\n", "ARFF"),
        ("a", b"% refs\n@Article{one,\n  title = {One}}\n", "bibliography"),
        ("a", b"TY  - JOUR\nTI  - One\n", "bibliography"),
        ("a", b"@prefix ex: <http://x.org/> .\n", "linked data"),
        ("a", b'<http://x.org/a> <http://x.org/b> "one" .\n', "linked data"),
        ("a", b'# German\nmsgid ""\nmsgstr ""\n', "catalog of translations"),
        ("a.txt", b"% paper\n\\documentclass[11pt]{article}\n", "LaTeX"),
        ("a.txt", b"\\begin{document}\nOne\n", "LaTeX"),
        ("a", b">sp|P1|ONE\nMKTAYIAKQRQISFVK\nSHF\n", "sequences with headers"),
        ("a", b"@read1\nACGTN\n+\nIIIII\n", "sequences with headers"),
        ("a", b"BEGIN:VCARD\r\nFN:Ann\r\n", "calendar or contacts"),
        ("a", b"-- MySQL dump 10.13  Distrib 8.0\n", "dump of a database"),
        ("a", b"begin 644 a.txt\nM" + b"5" * 60 + b"\n", "encoded data"),
        (
            "a",
            b"VGhlIGNhdCBzYXQgb24gdGhlIG1hdC4gVGhlIGNhdCBzYXQgb24gdGhlIG1h\n" * 5,
            "encoded data",
        ),
        ("a", b"@UTF8\n@Begin\n@Languages:\teng\n", "transcript"),
        ("a", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", "web archive"),
        ("tweets.js", b"window.YTD.tweets.part0 = [ {", "JavaScript of a Twitter archive"),
        ("a", b"---\n- id: 1\n  text: one\n- id: 2\n  text: two\n", "records of YAML"),
        ("a.txt", (b"the" + b" 0.25" * 20 + b"\n") * 3, "word vectors"),
        (
            "train.txt",
            b"-DOCSTART- -X- O O\n\nEU NNP I-NP I-ORG\nrejects VBZ I-VP O\n",
            "annotated tokens",
        ),
        ("a", b"EU B-ORG\nrejects O\nGerman B-MISC\n\ncall O\n", "annotated tokens"),
        (
            "a",
            b"# sent_id = 1\n" + b"".join(b"%d" % n + b"\tcat" * 9 + b"\n" for n in range(1, 5)),
            "annotated tokens",
        ),
        ("a", b"The\tDT\tthe\ncat\tNN\tcat\n\nIt\tPRP\tit\nsat\tVBD\tsit\n", "annotated tokens"),
        ("a", b"<s>\nThe\tDT\tthe\ncat\tNN\tcat\n</s>\n" * 3, "annotated tokens"),
        ("a", b"The\tDT\ncat\tNN\n.\t.\n\n" * 4, "annotated tokens"),
        ("a", b"The/DT cat/NN sat/VBD down/RB ./.\n", "annotated tokens"),
        ("a", b"( (S (NP-SBJ (DT The) (NN cat)) (VP (VBD sat))))\n", "annotated tokens"),
        ("a", b'id,text\n1,"One, with a\nline end"\n2,Two\n', "table; pass --format csv"),
        ("a.txt", b"text;label\nOne, two;1\n", "table; pass --format csv"),
        ("a.txt", b"label\tsentence\n1\tOne, two\n", "table; pass --format tsv"),
        ("a", b"Go.\tGeh.\tCC-BY\n" * 20, "table; pass --format tsv"),
        ("a", b'1,"Go, now",Geh\n' * 20, "table; pass --format csv"),
    ],
)
def test_what_is_no_text_is_named_with_a_remedy(
    tmp_path: Path, name: str, data: bytes, what: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(TokkitError, match=f"{name}: looks like .*{what}") as caught:
        read_corpus(tmp_path)
    assert "; " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a.csv", "a.tsv.gz", "a.parquet", "a.arrow"])
def test_records_with_the_name_of_a_table_are_refused(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith("gz") else bytes
    (tmp_path / name).write_bytes(pack(LINES.encode()))
    with pytest.raises(TokkitError, match=rf"{name}: looks like JSON, not .*--format jsonl"):
        read_corpus(tmp_path)
    assert read_corpus(tmp_path, format="jsonl").texts == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "text"), [("a.jsonc", "// one\n[]"), ("a.json5", "{text: 'one'}")]
)
def test_json_with_extensions_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(TokkitError, match=f"{name}, line 1: broken JSON .*--format text"):
        read_corpus(tmp_path)


def test_markdown_may_begin_with_tags(tmp_path: Path) -> None:
    text = '<p align="center"><img src="logo.png"></p>'
    (tmp_path / "README.md").write_text(text)
    assert read_corpus(tmp_path).texts == [text]
    (tmp_path / "README.md").rename(tmp_path / "a.txt")
    with pytest.raises(TokkitError, match="markup"):
        read_corpus(tmp_path)


@given(beginning=st.sampled_from(BEGINNINGS), rest=st.text(st.sampled_from('ab\n"}{,:\x00')))
def test_with_the_format_text_every_text_is_read_as_it_is(
    tmp_path_factory: pytest.TempPathFactory, beginning: str, rest: str
) -> None:
    path = tmp_path_factory.mktemp("text") / "a.json"
    data = f"{beginning} {rest}".encode()
    path.write_bytes(data)
    bounds = reference.documents(data, "blank-line")
    expected = [reference.clean(data[start:stop]).decode() for start, stop in bounds]
    assert read_corpus(path, format="text").texts == expected


@given(beginning=st.sampled_from(BEGINNINGS), rest=st.binary(max_size=200))
def test_any_bytes_are_identified_or_refused(beginning: str, rest: bytes) -> None:
    for name in ("a", "a.json", "a.jsonl", "a.csv", "a.gz"):
        try:
            found = identify(name, name, beginning.encode() + rest, "auto")
        except TokkitError as error:
            assert "\n" not in str(error)  # noqa: PT017  both outcomes are fine
        else:
            assert found.format in {"text", "jsonl", "json", "csv", "parquet", "arrow"}


@pytest.mark.parametrize("name", ["a.txt", "a", "a.jsonl", "a.parquet", "a.arrow"])
def test_tables_are_tables_whatever_their_name(tmp_path: Path, name: str) -> None:
    pq.write_table(TABLE, tmp_path / name)
    assert read_corpus(tmp_path).texts == ["from a table"]
    pa.feather.write_feather(TABLE, str(tmp_path / name))
    assert read_corpus(tmp_path).texts == ["from a table"]
    with pa.ipc.new_stream(tmp_path / name, TABLE.schema) as writer:
        writer.write_table(TABLE)
    assert read_corpus(tmp_path).texts == ["from a table"]


@pytest.mark.parametrize("name", ["a.parquet", "a.jsonl.gz", "a.txt"])
def test_a_pointer_of_git_lfs_is_no_data(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n")
    for file_format in ("auto", "text"):
        with pytest.raises(TokkitError, match=r"Git LFS pointer.*git lfs pull"):
            read_corpus(tmp_path, format=file_format)


def test_compression_is_known_by_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(gzip.compress(b"gzip"))
    (tmp_path / "b.gz").write_bytes(lzma.compress(b"xz"))
    (tmp_path / "c.jsonl").write_bytes(bz2.compress(LINES.encode() * 100_000))
    assert read_corpus(tmp_path / "a.txt", tmp_path / "b.gz").texts == ["gzip", "xz"]
    assert len(read_corpus(tmp_path / "c.jsonl").texts) == 200_000
    (tmp_path / "d.gz").write_text("plain")
    with pytest.raises(TokkitError, match=r"d.gz: not gzip data, as its name says; rename"):
        read_corpus(tmp_path / "d.gz")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"plain\n\ntext", ["plain", "text"]),
        (LINES.encode(), ["one", "two"]),
        (b'\n[{"text": "one"},\n{"text": "two"}]', ["one", "two"]),
        (gzip.compress(LINES.encode()), ["one", "two"]),
        (bz2.compress(LINES.encode() * 50_000), ["one", "two"] * 50_000),
        (b"x" * 200_000, ["x" * 200_000]),
        (b"", []),
    ],
    ids=["text", "lines", "array", "gzip", "bzip2", "long", "empty"],
)
def test_standard_input_is_identified_like_a_file(
    monkeypatch: pytest.MonkeyPatch, data: bytes, expected: list[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    corpus = read_corpus("-")
    assert corpus.texts == expected
    assert corpus.bytes_read == len(data)


def test_a_table_on_standard_input_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data = saved(lambda file: pq.write_table(TABLE, file))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    with pytest.raises(UsageError, match="parquet cannot be read from standard input"):
        read_corpus("-")


def test_the_help_lists_every_suffix() -> None:
    text = Path(__file__).parent.parent.parent.joinpath("README.md").read_text()
    for name, kind in FORMATS.items():
        rows = [row for row in text.splitlines() if row.startswith("|") and f"`{name}`" in row]
        assert all(any(f"`{suffix}`" in row for row in rows) for suffix in kind.suffixes), name


@pytest.mark.parametrize(
    ("content", "is_offered"),
    [(b"<html><p>a", True), ("<html><p>é".encode()[:-1], True), (zipped(), False)],
    ids=["markup", "a cut character", "zip"],
)
def test_format_text_is_named_where_it_reads_the_file(
    tmp_path: Path, content: bytes, *, is_offered: bool
) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(TokkitError, match="looks like") as error:
        read_corpus(tmp_path / "a")
    assert ("--format text" in str(error.value)) == is_offered
