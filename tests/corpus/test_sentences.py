"""Splitting loses no text, and long texts are split as short ones are."""

import re
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencex
from corpusfiles import read_corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reference import scan as reference
from tokkit.corpus import sentences as module
from tokkit.corpus.corpus_config import language_code
from tokkit.corpus.sentences import LONGEST_SENTENCE, SPLITTERS, WINDOW, find_ends, split_sentences
from tokkit.encoding.encode_config import SENTENCES
from tokkit.errors import TokkitError, UsageError
from tokkit.shards.arrow import string_buffers

CORPORA = {
    "en": "en-books-raw/Austen_Jane__Pride_and_Prejudice.txt",
    "de": "de-laws/b*.md",
    "fr": "fr-novels/FRA001*.txt",
    "ru": "ru-novels/Chekhov*.txt",
    "ja": "ja-aozora/dazai-2*.txt",
    "zh": "zh-wiki-cmrc/*.txt",
    "ko": "ko-react-docs/b*.md",
    "th": "th-wisesight/q.txt",
    "mul": "messy/[cbu]*s*.txt",
}


def split(
    texts: list[str],
    method: str,
    language: str = "en",
    languages: list[str | None] | None = None,
) -> list[list[str]]:
    """Sentences of each document, after a look at what every answer promises."""
    column = None if languages is None else pa.array(languages, pa.string())
    found = split_sentences(pa.array(texts, pa.large_string()), method, language, column)
    found.texts.validate(full=True)
    values, bounds = string_buffers(found.texts)
    assert found.ends.dtype == found.offsets.dtype == np.int64
    assert found.offsets[0] == 0
    assert found.offsets[-1] == len(found.ends)
    assert (np.diff(found.offsets) >= 1).all()
    assert (np.diff(found.ends, prepend=bounds[0]) > 0).all()
    assert np.isin(bounds[1:], found.ends).all()
    sentences = [
        values[start:stop].tobytes().decode()
        for start, stop in pairwise([int(bounds[0]), *found.ends.tolist()])
    ]
    assert all(map(str.strip, sentences))
    return [sentences[a:b] for a, b in pairwise(found.offsets)]


def split_text(text: str, code: str) -> list[str]:
    """Sentences of a text, without white space at their ends."""
    data = text.encode()
    return [
        data[start:stop].decode().strip()
        for start, stop in pairwise([0, *find_ends(memoryview(data), code)])
    ]


def bare(text: str) -> str:
    """The text without white space."""
    return "".join(text.split())


@pytest.mark.parametrize("method", ["auto", "lines", "none"])
@pytest.mark.parametrize("documents", ["blank-line", "file"])
@pytest.mark.parametrize("language", CORPORA)
def test_no_text_is_lost_in_real_corpora(
    shared: Path, language: str, documents: str, method: str
) -> None:
    texts = read_corpus(shared / "corpora" / CORPORA[language], documents=documents).texts

    split_texts = split(texts, method, language)

    for text, sentences in zip(texts, split_texts, strict=True):
        assert bare("".join(sentences)) == bare(text)
        assert max(len(s.strip()) for s in sentences) <= LONGEST_SENTENCE or method != "auto"


def test_lines_are_those_of_the_twin(shared: Path) -> None:
    texts = read_corpus(shared / "corpora" / "de-laws" / "a*.md", documents="file").texts
    expected = [[line.decode() for line in reference.text_lines(text.encode())] for text in texts]
    assert split(texts, "lines") == expected
    column = pa.array(texts, pa.large_string()).slice(3, 5)
    found = split_sentences(column, "lines")
    assert [found.texts.to_pylist()[a:b] for a, b in pairwise(found.offsets)] == expected[3:8]
    assert split_sentences(column, "none").texts.to_pylist() == texts[3:8]
    assert [found.find_document(text) for text in range(len(found.texts))] == [
        document for document in range(5) for _ in expected[3 + document]
    ]


def test_every_choice_of_the_option_has_a_splitter() -> None:
    assert tuple(SPLITTERS) == SENTENCES


@pytest.mark.parametrize("method", ["auto", "lines", "none"])
def test_no_documents_have_no_sentences(method: str) -> None:
    assert split([], method) == []


def test_a_line_is_what_a_line_end_ends_and_keeps_its_white_space() -> None:
    text = "one\u2028still one\u0085and one\x0b\x0cend \n\n two \r\n\u3000\r\t"
    assert split([text, "x"], "lines") == [
        ["one\u2028still one\u0085and one\x0b\x0cend ", " two "],
        ["x"],
    ]
    assert split([text], "none") == [[text]]


def test_white_space_belongs_to_the_sentence_after_it_and_at_the_end_to_the_last() -> None:
    text = "  Mr. Smith went home.  He slept!\n\nNext day (at 3 p.m. sharp) he\nrose.\u3000\n"
    assert split([text], "auto") == [
        [
            "  Mr. Smith went home.",
            "  He slept!",
            "\n\nNext day (at 3 p.m. sharp) he\nrose.\u3000\n",
        ]
    ]


def by_library(text: str, code: str) -> list[str]:
    pieces = (piece.strip() for piece in sentencex.segment(code, text))
    return [piece for piece in pieces if piece]


@pytest.mark.parametrize(
    ("language", "pattern"),
    [("en", "en-books-raw/*.txt"), ("de", "de-laws/*.md"), ("ko", "ko-react-docs/*.md")],
)
def test_texts_of_short_paragraphs_are_split_as_the_library_splits_them_in_one_piece(
    shared: Path, language: str, pattern: str
) -> None:
    texts = [
        text
        for text in read_corpus(shared / "corpora" / pattern, documents="file").texts
        if max(map(len, text.split("\n\n"))) < WINDOW
    ]
    assert sum(len(text) > 10 * WINDOW for text in texts) >= 1
    for text in texts:
        assert split_text(text, language) == by_library(text, language)


def test_a_book_in_one_piece_is_split_nearly_as_its_paragraphs_are(shared: Path) -> None:
    """The library on the whole book finds half as many; see the module's docstring."""
    path = shared / "corpora" / "en-books-unwrapped" / "books-paragraphs.txt"
    book = max(read_corpus(path).texts, key=len)
    assert len(book) > 10 * WINDOW
    sentences = split_text(book, "en")
    by_paragraph = [sentence for line in book.split("\n") for sentence in by_library(line, "en")]
    assert len(sentences) > 0.85 * len(by_paragraph)
    assert len(set(sentences) & set(by_paragraph)) > 0.8 * len(set(by_paragraph))


@pytest.mark.parametrize("code", ["en", "de", "ja"])
@pytest.mark.parametrize(
    "text",
    [
        "By J\xa0. R\u3000. Smith. He left.",
        "A Q\u2003.\u2003. It rained.",
        "I\x85.I/\u2028.\n\u3000.",
        "Vitamin B\u202f.",
    ],
)
def test_white_space_of_several_bytes_before_a_full_stop_is_like_a_space(
    text: str, code: str
) -> None:
    spaced = re.sub(r"\s(?=\.)", " ", text)
    data, plain = text.encode(), spaced.encode()
    ends = [len(data[:end].decode()) for end in find_ends(memoryview(data), code)]
    assert ends == [len(plain[:end].decode()) for end in find_ends(memoryview(plain), code)]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.sampled_from("ab.Q?\"'( )\n\n 。語é1-\x00\u3000"), max_size=300))
def test_no_text_is_lost_in_windows_of_any_kind(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(module, "WINDOW", 8)
    monkeypatch.setattr(module, "LONGEST_SENTENCE", 32)
    sentences = split_text(text, "en")
    assert bare("".join(sentences)) == bare(text)
    assert all(len(sentence) <= 32 for sentence in sentences)
    monkeypatch.setattr(module, "BLOCK", 5)
    assert split_text(text, "en") == sentences


@pytest.mark.parametrize(
    "text",
    [
        "a" * 1_000_000,
        "word " * 200_000,
        "1. x\n" * 200_000,
        '"Said. ' * 150_000,
        "(a. b) " * 150_000,
        "\n" * 1_000_000 + "end",
        "語" * 400_000,
        "A.B. c\n" * 150_000,
    ],
    ids=["letters", "words", "list", "quotes", "brackets", "newlines", "cjk", "initials"],
)
def test_hostile_texts_take_linear_time(text: str) -> None:
    start = time.process_time()
    sentences = split_text(text, "en")
    assert time.process_time() - start < 5
    assert sum(len(bare(sentence)) for sentence in sentences) == len(bare(text))
    assert max(map(len, sentences)) <= LONGEST_SENTENCE


def test_a_window_without_an_end_is_cut_at_white_space() -> None:
    sentences = split_text("word " * 100_000, "en")
    assert len(sentences) > 1
    assert all(sentence.endswith("word") for sentence in sentences)


def test_each_document_may_have_its_own_language() -> None:
    text = "Am 3. Mai kam er. Dann ging er."
    german, english, default = split([text] * 3, "auto", "en", ["deu_Latn", "en-GB", None])
    assert german == ["Am 3. Mai kam er.", " Dann ging er."]
    assert english == default != german


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("en", "en"),
        ("EN", "en"),
        ("pt-BR", "pt"),
        ("pt_BR", "pt"),
        ("zh-Hant-TW", "zh"),
        ("deu", "de"),
        ("deu_Latn", "de"),
        ("yue", "yue"),
        ("English", None),
        ("", None),
        ("e", None),
        ("en!", None),
        ("en\n", None),
        ("12", None),
    ],
)
def test_language_codes(language: str, code: str | None) -> None:
    assert language_code(language) == code


def test_what_is_no_language_is_refused() -> None:
    with pytest.raises(UsageError, match="--language 'English' is no language code"):
        split(["a"], "auto", "English")
    with pytest.raises(TokkitError, match="its language as 'unknown', which is no language"):
        split(["a"], "auto", "en", ["unknown"])
    assert split(["a. B"], "auto", "en", [""]) == split(["a. B"], "auto", "en")
