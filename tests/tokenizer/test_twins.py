"""The readable twins are equal to the library, so whatever equals them equals the library."""

from pathlib import Path

import pytest
from exactness import ask_library, ask_twin, assert_same, load_published
from hardtexts import WHITE_SPACE, all_texts, code_points, long_words, random_texts, short_words
from madetokenizers import (
    PAIRED_FLAGS,
    bert_of_characters,
    bpe_of_pairs,
    kind_for_gpt2,
    make_bpe,
    make_wordpiece,
    rows_of_flags,
    twin_of,
)
from tokenizers import normalizers

from reference.bpe import ByteLevelBPE
from reference.wordpiece import WordPiece
from tokkit.tokenizer.tokenizer import Tokenizer

nfd = normalizers.NFD().normalize_str
strip = normalizers.BertNormalizer(
    clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False
).normalize_str


def assert_twin_agrees(tokenizer: Tokenizer, texts: list[str]) -> None:
    wanted = ask_library(tokenizer, texts)
    assert_same(tokenizer, texts, ask_twin(twin_of(tokenizer), texts), wanted)


def moves(char: str) -> bool:
    """Whether a character leaves a mark in a stripped text that NFD puts behind U+0334.

    U+0334 is of the first class there is, and is itself stripped.
    """
    return any(nfd(f"{mark}\u0334") == f"\u0334{mark}" for mark in strip(char))


def test_the_worked_case_of_wordpiece() -> None:
    tokenizer = make_wordpiece(["un", "##aff", "##able", ",", "x"])
    twin = twin_of(tokenizer)
    assert isinstance(twin, WordPiece)
    assert list(twin.words("Unaffable,中 x\u0301")) == ["unaffable", ",", "中", "x"]
    assert twin.tokens("unaffable") == ["un", "##aff", "##able"]
    ids, word_starts = twin.encode("Unaffable,中 x\u0301")
    names = [tokenizer.tokens[number] for number in ids]
    assert names == ["un", "##aff", "##able", ",", "[UNK]", "x"]
    assert word_starts == [True, False, False, True, True, True]


def test_the_worked_case_of_bpe() -> None:
    twin = twin_of(make_bpe([("o", "w"), ("l", "ow"), ("Ġ", "low")]))
    assert isinstance(twin, ByteLevelBPE)
    assert list(twin.words("It's  low.")) == ["It", "'s", " ", " low", "."]
    assert twin.tokens(" low") == ["Ġlow"]


@pytest.mark.parametrize("part", range(len(PAIRED_FLAGS)))
def test_wordpiece_under_every_flag(part: int, full: bool) -> None:
    for flags in rows_of_flags(part, full=full):
        tokenizer = bert_of_characters(flags, full=False)
        assert tokenizer.library is not None
        assert tokenizer.library.normalizer is not None
        normalize = tokenizer.library.normalizer.normalize_str
        texts = []
        for text in random_texts(10_000 if full else 300, seed=100 + flags):
            if normalize(text) == "".join(map(normalize, text)):
                texts.append(text)
            else:
                assert sum(map(moves, text)) > 1, ascii(text)
        assert_twin_agrees(tokenizer, [*texts, *short_words()[::20], *long_words()[part::6]])


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_byte_level_bpe(add_prefix_space: bool, full: bool) -> None:
    tokenizer = bpe_of_pairs(add_prefix_space=add_prefix_space)
    texts = random_texts(20_000 if full else 600, seed=99)
    texts += all_texts([" ", "\n", "\xa0", "\u3000", "a", "1", ".", "'s"], 4)
    assert_twin_agrees(tokenizer, [*texts, *short_words()[::20]])


@pytest.mark.parametrize("name", ["bert-base-uncased", "gpt2"])
def test_published_vocabularies(shared: Path, name: str) -> None:
    tokenizer = load_published(shared / "vocabs" / name)
    book = (shared / "corpora" / "en-canterbury" / "alice29.txt").read_text().split("\n")
    texts = [text for text in random_texts(1000, seed=98) if sum(map(moves, text)) < 2]
    assert_twin_agrees(tokenizer, [*book[:500], *texts])


def test_only_marks_that_stay_and_move_depend_on_their_neighbours() -> None:
    """So the twin may take one character at a time where a text has one of them at most."""
    movers = [char for char in code_points(full=False) if moves(char)]
    assert {"\u302e", "\U0001d165", "\U0001d15e"} < {*movers}
    assert {"\u0301", "\u20dd", "\U00016ff0", "가"}.isdisjoint(movers)
    assert strip("\u302e\U0001d165") == "\U0001d165\u302e"
    for mover in movers[:: len(movers) // 4]:
        for char in {*code_points(full=False)} - {*movers}:
            for text in (char + mover, mover + char, mover + char + "\u0301"):
                assert strip(text) == "".join(map(strip, text)), ascii(text)


def test_white_space_of_gpt2_is_what_unicode_says_and_no_separator_of_ascii() -> None:
    found = {char for char in code_points(full=False) if kind_for_gpt2(char) == "space"}
    assert found == {*WHITE_SPACE}
    assert {char for char in map(chr, range(128)) if char.isspace()} - found == {
        *"\x1c\x1d\x1e\x1f"
    }
