"""Files of words and counts: what is written reads back, and gives what the text gives."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trainruns import word_counts

from tokkit.corpus.readers import read_documents
from tokkit.corpus.units import plan_units
from tokkit.engine.spec import shared_folder
from tokkit.errors import TokkitError
from tokkit.vocab.counting import CountedCorpus, count_corpus
from tokkit.vocab.train import COUNTS_FOLDER, plan_training
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.word_counts import read_counts, write_counts


def count(path: Path, **options: Any) -> CountedCorpus:
    reading = {"format": "counts"} if path.suffix == ".tsv" else {"held_out": 0.0}
    options = {"workers": 0, "overwrite": True, **reading, **options}
    config = TrainConfig(inputs=(str(path),), output=path.parent / "out", **options)
    plan = plan_training(config)
    with shared_folder(plan, overwrite=True):
        return count_corpus(config, plan, config.output / COUNTS_FOLDER)


@pytest.mark.parametrize(
    ("model", "options"),
    [
        ("wordpiece", {}),
        ("wordpiece", {"split_digits": True}),
        ("wordpiece", {"strip_accents": False}),
        ("bpe", {}),
        ("bpe", {"split_digits": True}),
        ("unigram", {}),
    ],
)
def test_a_saved_file_counts_as_its_text(
    tmp_path: Path, shared: Path, model: str, options: dict[str, bool]
) -> None:
    corpus = tmp_path / "corpus.txt"
    files = sorted((shared / "corpora" / "multi-udhr").glob("*.txt"))[::24]
    corpus.write_bytes(b"\n\n".join(file.read_bytes() for file in files))
    words = count(corpus, model=model, **options).words
    write_counts(tmp_path / "words.tsv", words)
    assert list(count(tmp_path / "words.tsv", model=model, **options).words) == list(words)


@given(
    st.dictionaries(
        st.text(st.sampled_from("ab\\\t\n\r \xa0é"), min_size=1).filter(str.strip),
        st.integers(1, 1 << 40),
        min_size=1,
    )
)
def test_every_word_reads_back(
    tmp_path_factory: pytest.TempPathFactory, counts: dict[str, int]
) -> None:
    path = tmp_path_factory.mktemp("counts") / "words.tsv"
    write_counts(path, word_counts({w.encode(): n for w, n in counts.items()}))
    config = TrainConfig(inputs=(str(path),), output=path.parent / "out", format="counts")
    (unit,) = plan_units(config)
    read: dict[bytes, int] = {}
    for words, numbers, _ in read_counts(unit, config, hashlib.sha256()):
        read.update(zip(words, numbers.tolist(), strict=True))
    assert read == {word.encode(): number for word, number in counts.items()}


def test_the_most_frequent_come_first(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    write_counts(path, word_counts({b"b": 2, b"a": 2, b"\t\\": 3}))
    assert path.read_bytes() == b"\\t\\\\\t3\na\t2\nb\t2\n"


def test_a_link_to_a_file_stays_and_its_file_is_written(tmp_path: Path) -> None:
    path, link = tmp_path / "words.tsv", tmp_path / "link.tsv"
    path.touch()
    link.symlink_to("words.tsv")
    write_counts(link, word_counts({b"a": 2}))
    assert link.is_symlink()
    assert path.read_bytes() == b"a\t2\n"


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfa\t1\r\nb\t2", b"a\t1\nb\t2\n"])
def test_line_ends_and_byte_order_marks_are_no_words(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "words.tsv"
    path.write_bytes(content)
    assert dict(count(path).words) == {b"a": 1, b"b": 2}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (b"a\t1\nb\n", "line 2: no tab; a line is a word, a tab and a count"),
        (b"a\t1\n\n", "line 2: no tab"),
        (b"a\t0\n", "line 1: the count '0' is not a positive integer"),
        (b"a\t1.5\n", "line 1: the count '1.5' is not a positive"),
        (b"a\t-1\n", "line 1: the count '-1' is not a positive"),
        (b"a\t4611686018427387904\nb\t1\n", r"line 2: the sum of the counts exceeds 2\^62"),
        (b"a\tb\t1\n", r"line 1: more than one tab"),
        (b"\\a\t1\n", r"line 1: unknown escape \\a"),
        (b"a\t1\n\xff\t1\n", "line 2: invalid UTF-8"),
        (b"", "no document is left to learn from"),
    ],
)
def test_faults_name_the_line(tmp_path: Path, content: bytes, line: str) -> None:
    path = tmp_path / "words.tsv"
    path.write_bytes(content)
    with pytest.raises(TokkitError, match=line):
        count(path)


def test_invalid_words_are_replaced_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_bytes(b"a\xff\t2\nb\t1\n")
    assert dict(count(path, model="bpe", errors="skip").words) == {b"b": 1}
    replaced = dict(count(path, model="unigram", errors="replace").words)
    assert replaced == {"a\ufffd".encode(): 2, b"b": 1}


def test_only_training_reads_counts(tmp_path: Path) -> None:
    path = tmp_path / "words.tsv"
    path.write_bytes(b"a\t2\n")
    config = TrainConfig(inputs=(str(path),), output=tmp_path / "out", format="counts")
    (unit,) = plan_units(config)
    with pytest.raises(TokkitError, match="which only tokkit train reads"):
        list(read_documents(unit, config))
