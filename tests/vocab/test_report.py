"""The report says of what kind tokens are, and how a vocabulary encodes new text."""

from pathlib import Path

import pyarrow as pa
import pytest
from tinytokenizers import write_vocab

from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import byte_level_alphabet, byte_level_bpe
from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer, make_tokenizer
from tokkit.vocab.measure import compare, make_report, measure

NO_TEXT = pa.array([], pa.large_string())
TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[unused0]", "a", "##b", "cat", "##ing", "##s", ".")


def texts(*documents: str) -> pa.LargeStringArray:
    return pa.array(documents, pa.large_string())


@pytest.fixture
def wordpiece(tmp_path: Path) -> Tokenizer:
    return load_tokenizer(write_vocab(tmp_path / "tiny", TOKENS))


def bpe() -> Tokenizer:
    merges = [("Ġ", "a"), ("a", "b")]
    tokens = ["[UNK]", *byte_level_alphabet(), *map("".join, merges)]
    ids = {token: number for number, token in enumerate(tokens)}
    form = byte_level_bpe(ids, merges)
    return make_tokenizer(TokenizerFiles(Path("bpe.json"), form))


def test_figures_can_be_checked_by_hand(wordpiece: Tokenizer) -> None:
    """``cat ##s a . [UNK]`` and ``cat``: six tokens of five words, 15 characters without "\\n"."""
    figures = measure(wordpiece, texts("cats a . dog", "cat"))
    assert figures == {
        "tokens_per_word": 6 / 5,
        "characters_per_token": 15 / 6,
        "unknown": 1 / 6,
    }


def test_a_report_describes_tokens_and_new_text(wordpiece: Tokenizer) -> None:
    held_out = texts("Cats\n\nab b. é\u0301", "cat")
    report = make_report(wordpiece, held_out, {"\u0301": 7, "\x00": 9})
    assert report.entries == {
        "control": 4,
        "unused": 1,
        "characters": 4,
        "word beginnings": 1,
        "continuations": 1,
    }
    assert report.longest[:2] == ["cat", "ing"]
    assert report.held_out == {"documents": 2, "words": 5, "characters": 15}
    # Of catsabb.écat: c, t and é are no tokens by themselves; the loose accent is removed.
    assert report.coverage == pytest.approx(7 / 12)
    assert report.removed == [
        {"character": "U+0000", "name": "control character", "count": 9},
        {"character": "U+0301", "name": "COMBINING ACUTE ACCENT", "count": 7},
    ]


def test_bytes_cover_everything() -> None:
    report = make_report(bpe(), texts("ab ж"), {})
    assert report.entries == {
        "control": 1,
        "bytes": 256,
        "word beginnings": 1,
        "continuations": 1,
    }
    assert report.coverage == 1.0
    assert report.measured["unknown"] == 0.0
    assert report.measured["tokens_per_word"] == 4 / 2
    assert " a" in report.longest


def test_without_text_nothing_is_measured(wordpiece: Tokenizer) -> None:
    report = make_report(wordpiece, NO_TEXT, {})
    assert (report.measured, report.coverage) == ({}, None)
    assert report.held_out == {"documents": 0, "words": 0, "characters": 0}


def test_other_tokenizers_are_measured_alike(tmp_path: Path, wordpiece: Tokenizer) -> None:
    save_tokenizer(bpe(), tmp_path / "bpe")
    held_out = texts("cats a . dog", "cat")
    names = [str(tmp_path / "tiny" / "vocab.txt"), str(tmp_path / "bpe")]
    first, second = compare(names, held_out)
    assert first == {"name": names[0], "vocab_size": 11, **measure(wordpiece, held_out)}
    assert second["characters_per_token"] == 15 / 14
    with pytest.raises(TokkitError, match="no such file or folder"):
        compare([str(tmp_path / "none")], held_out)
