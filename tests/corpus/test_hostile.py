"""The small hostile corpus of the repository, in every kind of file."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpusfiles import read_corpus

from tokkit.corpus.sentences import split_sentences

HOSTILE = Path(__file__).parents[2] / "corpora" / "hostile"
CONTROLS = "".join(map(chr, [*range(9), *range(14, 32), 127, *range(128, 160)]))


def paragraphs(name: str) -> list[str]:
    return (HOSTILE / name).read_text(encoding="utf-8").removesuffix("\n").split("\n\n")


@pytest.fixture(params=["multilingual.txt", "characters.txt", "controls"])
def texts(request: pytest.FixtureRequest) -> list[str]:
    """Documents; control characters are made here, since such bytes do not belong into git."""
    if request.param == "controls":
        return [f"before{CONTROLS}after", *filter(str.strip, CONTROLS[::7]), f"a\n{CONTROLS}\nb"]
    return paragraphs(request.param)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_packing_makes_no_difference(tmp_path: Path, texts: list[str], end: str, mark: str) -> None:
    plain = (mark + "\n\n".join(texts)).replace("\n", end).encode()
    records = "".join(json.dumps({"text": text}) + end for text in texts)
    (tmp_path / "a.txt").write_bytes(plain)
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(plain))
    (tmp_path / "a.jsonl").write_bytes(records.encode())
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    for name in ("a.txt", "a.txt.gz", "a.jsonl", "a.parquet"):
        corpus = read_corpus(tmp_path / name, unit_bytes=100, batch_bytes=50)
        assert corpus.texts == texts, name
        assert not corpus.dropped


@pytest.mark.parametrize("method", ["auto", "lines", "none"])
def test_sentences_lose_nothing_but_white_space(texts: list[str], method: str) -> None:
    found = split_sentences(pa.array(texts, pa.large_string()), method)
    joined = "".join(found.texts.to_pylist())
    assert "".join(joined.split()) == "".join("".join(texts).split())


def test_records_keep_drop_and_name_what_they_should() -> None:
    corpus = read_corpus(HOSTILE / "records.jsonl", language_field="lang")
    assert dict(zip(corpus.names, corpus.texts, strict=True)) == {
        "plain": "A plain record.",
        "2": "Zwei Zeilen.\r\nMit CRLF.",
        "3.5": "é語😀 in escapes",
        corpus.names[3]: "no id",
        "spaces around": "tabs\tand\x00NUL",
        "twice": "last one wins",
        "list": "a\nb",
        "large": "a large number beside",
        "control tokens": "[MASK] is text here, and so is [SEP].",
    }
    assert corpus.names[3].startswith(f"{HOSTILE}/records.jsonl:")
    assert corpus.languages[:4] == ["en", "de", None, None]
    assert corpus.dropped == {
        "null text": 1,
        "no text field": 1,
        "text is not a string": 1,
        "empty": 3,
    }


def test_the_folder_reads_as_one_corpus() -> None:
    corpus = read_corpus(HOSTILE)
    expected = [*paragraphs("characters.txt"), *paragraphs("multilingual.txt")]
    assert corpus.texts[: len(expected)] == expected
