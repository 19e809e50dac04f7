"""The alphabet is that of the normalized words, counted one by one."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from tokkit.vocab.alphabet import Alphabet, AlphabetCounter
from tokkit.vocab.characters import CharacterTable

CHARACTERS = "aabBcdeéÅẛ̣가한İßΣ中\u3042\u0301\u200b\x00\ufffd.,-'。 \t\n\u3000😀"


def count_word_by_word(texts: list[str], normalizer: BertNormalizer, limit: int) -> Alphabet:
    """The slow, readable twin: what the library makes of the texts, word by word."""
    counts: Counter[str] = Counter()
    continuing: set[str] = set()
    for text in texts:
        for word, _ in BertPreTokenizer().pre_tokenize_str(normalizer.normalize_str(text)):
            counts.update(word)
            continuing.update(word[1:])
    kept = sorted(sorted(counts, key=lambda char: (-counts[char], char))[:limit])
    return Alphabet(
        tuple(kept),
        tuple(char for char in kept if char in continuing),
        len(counts),
        counts.total(),
        counts.total() - sum(counts[char] for char in kept),
    )


def count(batches: list[list[str]], normalizer: BertNormalizer, limit: int) -> Alphabet:
    counter = AlphabetCounter(CharacterTable(normalizer, BertPreTokenizer()))
    for batch in batches:
        counter.add(batch)
    return counter.alphabet(limit)


@given(
    st.lists(
        st.lists(st.text(st.one_of(st.sampled_from(CHARACTERS), st.characters(codec="utf-8")))),
        max_size=3,
    ),
    st.booleans(),
    st.sampled_from([None, True, False]),
    st.integers(1, 12),
)
def test_counting_by_code_points_equals_counting_word_by_word(
    batches: list[list[str]], lowercase: bool, strip_accents: bool | None, limit: int
) -> None:
    normalizer = BertNormalizer(lowercase=lowercase, strip_accents=strip_accents)
    texts = [text for batch in batches for text in batch]
    assert count(batches, normalizer, limit) == count_word_by_word(texts, normalizer, limit)


@pytest.mark.parametrize("name", ["hi_pud-ud-test", "ko_pud-ud-test", "zh_pud-ud-test"])
def test_real_text_is_counted_like_that_too(shared: Path, name: str) -> None:
    lines = (shared / "corpora" / "multi-ud" / f"{name}.txt").read_text().split("\n")
    for normalizer in (BertNormalizer(), BertNormalizer(lowercase=False)):
        assert count([lines], normalizer, 500) == count_word_by_word(lines, normalizer, 500)


def test_words_end_between_texts_and_go_on_between_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tokkit.vocab.alphabet._BLOCK_CHARS", 2)
    assert count([["ab", "cd"], ["e"]], BertNormalizer(), 9).continuing == ("b", "d")
    assert count([["abcdef"]], BertNormalizer(), 9).continuing == tuple("bcdef")
