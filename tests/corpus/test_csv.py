"""CSV and TSV: quoting, headers, delimiters, and rows that do not fit."""

import csv
import gzip
import io
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from corpusfiles import read_corpus
from hypothesis import given
from hypothesis import strategies as st

from tokkit.errors import TokkitError, UsageError

FIELDS = st.text(st.sampled_from('ab,;\t|"\n\r é\ufeff'), max_size=8)


def write(path: Path, rows: list[list[str]], **options: Any) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, **options).writerows(rows)
    return path


@given(
    rows=st.lists(st.tuples(FIELDS, FIELDS)),
    delimiter=st.sampled_from(",;|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    batch_bytes=st.integers(1, 100),
)
def test_every_field_reads_back(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[str, str]],
    delimiter: str,
    quoting: Any,
    batch_bytes: int,
) -> None:
    table = [["key", "text"], *map(list, rows)]
    path = tmp_path_factory.mktemp("csv") / "a.csv"
    write(path, table, delimiter=delimiter, quoting=quoting)
    corpus = read_corpus(path, batch_bytes=batch_bytes)
    assert corpus.texts == [text for _, text in rows if text.strip("\ufeff \t\r\n")]
    assert corpus.bytes_read == path.stat().st_size
    assert corpus.num_units == 1
    assert len(corpus.texts) + corpus.dropped["empty"] == max(1, len(rows))


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.csv.gz", "a.csv.zst", "a.tsv.xz"])
@pytest.mark.parametrize("index", [True, False])
def test_what_pandas_writes_is_read(tmp_path: Path, name: str, index: bool) -> None:
    frame = pd.DataFrame({"id": ["x", "y", "z"], "text": ['a, "b"', "two\nlines", None]})
    frame.to_csv(tmp_path / name, sep="\t" if "tsv" in name else ",", index=index)
    corpus = read_corpus(tmp_path)
    assert corpus.texts == ['a, "b"', "two\nlines"]
    assert corpus.names == ["x", "y"]
    assert corpus.dropped == {"empty": 1}


@pytest.mark.parametrize("first", ["sep=;\r\n", '\ufeff"sep=;"\n', "sep=,\n", "sep=^\n"])
def test_the_delimiter_that_excel_writes_first_is_taken(tmp_path: Path, first: str) -> None:
    delimiter = first.partition("=")[2][0]
    rows = [["id", "text"], ["x", "a;b,c^d"], ["y", "e"]]
    write(tmp_path / "rows", rows, delimiter=delimiter)
    path = tmp_path / "a.csv"
    path.write_bytes(first.encode() + (tmp_path / "rows").read_bytes())
    corpus = read_corpus(path)
    assert (corpus.texts, corpus.names) == (["a;b,c^d", "e"], ["x", "y"])
    assert read_corpus(path, text_column=(2,)).texts == ["text", "a;b,c^d", "e"]
    with path.open("a") as file:
        file.write("z\n")
    with pytest.raises(TokkitError, match=r"a\.csv, line 5: found 1 field, expected 2"):
        read_corpus(path)


def test_a_header_that_is_repeated_is_no_document(tmp_path: Path) -> None:
    part = "\ufeffkey,text\n1,one\ntext,text\n"
    (tmp_path / "a.csv").write_text(part * 2)
    corpus = read_corpus(tmp_path)
    assert corpus.texts == ["one", "text"] * 2
    assert corpus.dropped == {"repeated header": 1}
    (tmp_path / "a.csv").write_text("text\none\ntext\n")
    assert read_corpus(tmp_path).texts == ["one", "text"]
    assert read_corpus(tmp_path, text_column=(1,)).texts == ["text", "one", "text"]


def test_a_name_has_no_effect_beside_a_number(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--text-column and --text-field exclude each other"):
        read_corpus(tmp_path, text_column=(1,), text_field=("review",))


def test_rows_without_an_id_are_named_by_number(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", [["text"], ["a"], [], ["b"]])
    corpus = read_corpus(path)
    assert corpus.names == [f"{path}:0", f"{path}:2"]
    assert corpus.dropped == {"empty": 1}


def test_without_a_header_columns_are_numbered(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", [["7", "one", "x"], ["8", "two", "y"]], delimiter="\t")
    assert read_corpus(path, text_column=(2,)).texts == ["one", "two"]
    assert read_corpus(path, text_column=(3, 2)).texts == ["x\n\none", "y\n\ntwo"]
    with pytest.raises(TokkitError, match="3 columns; --text-column must be at most 3"):
        read_corpus(path, text_column=(4,))
    with pytest.raises(
        TokkitError, match="'text'; --text-field must name one of: 7, one, x; or pass --text-column"
    ):
        read_corpus(path)
    path.rename(tmp_path / "a.txt")
    with pytest.raises(
        TokkitError, match=r"a.txt: --text-column needs CSV or TSV.*; pass --format csv or tsv"
    ):
        read_corpus(tmp_path, text_column=(2,))
    assert read_corpus(tmp_path, text_column=(2,), format="tsv").texts == ["one", "two"]


def test_columns_are_named_by_the_header(tmp_path: Path) -> None:
    rows = [["id", " title", "body", "lang"], ["i", "T", "B", "de"], ["j", " ", "C", ""]]
    path = write(tmp_path / "a.csv", rows)
    corpus = read_corpus(path, text_field=("title", "body"), language_field="lang")
    assert corpus.texts == ["T\n\nB", "C"]
    assert corpus.names == ["i", "j"]
    assert corpus.languages == ["de", None]
    with pytest.raises(TokkitError, match="no column 'no'; --language-field must name one of: id"):
        read_corpus(path, text_field="body", language_field="no")
    write(path, [["text", "text"], ["a", "b"]])
    with pytest.raises(TokkitError, match="several columns 'text'"):
        read_corpus(path)


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        ("a,1\nb\n", "line 3: found 1 field, expected 2"),
        ("a,1\n\nb,c,2\n", "line 4: found 3 fields"),
        ('"a" b,1\n', "line 2: ',' expected after '\"'"),
        ('a,1\n"never closed,2\nc,3\n', "line 3: unexpected end of data"),
        ('"He said \\"no\\"",1\n', "line 2: .* --no-quotes"),
    ],
)
def test_a_row_that_does_not_fit_is_refused_with_its_line(
    tmp_path: Path, rows: str, fault: str
) -> None:
    (tmp_path / "a.csv").write_text(f"text,label\n{rows}")
    with pytest.raises(TokkitError, match=f"a.csv, {fault}") as caught:
        read_corpus(tmp_path)
    assert "\n" not in str(caught.value)


def test_stray_quotes_never_join_rows_of_tsv(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    for text in ('"He said\t1\nfoo" bar\t2\n', '"He said\t1\nfoo"\t2\n'):
        path.write_text(f"text\tlabel\n{text}")
        with pytest.raises(TokkitError, match=r"line 2: .* --no-quotes"):
            read_corpus(path)
        expected = [line.split("\t")[0] for line in text.splitlines()]
        assert read_corpus(path, quotes=False).texts == expected


def test_invalid_utf8_in_a_row(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbftext,id\ngood,1\nb\xffd,2\n")
    with pytest.raises(TokkitError, match=r"a.csv, line 3: invalid UTF-8.*--errors replace"):
        read_corpus(tmp_path)
    replaced = read_corpus(tmp_path, errors="replace")
    assert replaced.texts == ["good", "b\ufffdd"]
    assert replaced.replaced == 1
    skipped = read_corpus(tmp_path, errors="skip")
    assert skipped.texts == ["good"]
    assert skipped.dropped == {"invalid UTF-8": 1}


@pytest.mark.parametrize("data", ["", "text\n", "text,id\r\n"])
def test_a_table_without_rows_counts_as_empty(tmp_path: Path, data: str) -> None:
    (tmp_path / "a.csv").write_text(data)
    assert read_corpus(tmp_path).dropped == {"empty": 1}


def test_a_field_of_many_megabytes(tmp_path: Path) -> None:
    text = "word, " * 3_000_000
    with io.StringIO(newline="") as rows:
        csv.writer(rows).writerows([["text"], [text], ["end"]])
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(rows.getvalue().encode(), 1))
    assert read_corpus(tmp_path).texts == [text, "end"]
