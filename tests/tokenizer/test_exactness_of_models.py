"""The encoder is equal to the library for vocabularies and models that nobody has published."""

from itertools import cycle, islice, product
from typing import Any

import numpy as np
import pytest
from exactness import (
    ask_encoder,
    ask_library,
    ask_twin,
    assert_exact,
    assert_same,
    column,
)
from hardtexts import all_texts, long_words, random_texts, short_words
from hypothesis import given
from hypothesis import strategies as st
from madetokenizers import (
    bpes,
    make_bpe,
    make_wordpiece,
    ordered_bpes,
    twin_of,
    wordpieces,
)
from tinytokenizers import added

from tokkit.kernels.encode.tries import make_cells
from tokkit.shards.arrow import text_arrays
from tokkit.tokenizer.bpe_model import read_merges, read_token_bytes
from tokkit.tokenizer.bpe_tables import make_lookup
from tokkit.tokenizer.encoder import Encoder, choose_kernel
from tokkit.tokenizer.tokenizer import Tokenizer

PREFIXES = ("##", "@@", "", "a", "é", "[UNK]")
ENTRIES = (
    *"abcdefghijklmnopqrstuvwxyz.,!?#@'-字é1",
    *("the", "world", "una", "##", "@@", "####", "#", "ab", "abc", "aa", "aaaa", "xx"),
    *("b" * 31, "b" * 32, "é" * 40, "字字", "a.b", "a b", "ing", " ", "A", "THE"),
)
NESTED = [("a" * size, "a" * size) for size in (1, 2, 4, 8, 16, 32, 64, 128, 256)]


def assert_all_agree(tokenizer: Tokenizer, texts: list[str]) -> None:
    """Compare the encoder and the twin with the library."""
    wanted = ask_library(tokenizer, texts)
    assert_same(tokenizer, texts, ask_encoder(Encoder(tokenizer), column(texts)), wanted)
    assert_same(tokenizer, texts, ask_twin(twin_of(tokenizer), texts), wanted)


@given(wordpieces(), st.lists(st.text("abcéA#@0\u0301字. \x00İ", max_size=30), min_size=1))
def test_any_wordpiece_is_exact(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert_all_agree(tokenizer, texts)


@given(bpes(), st.lists(st.text("abcé'. \ns\u3000", max_size=30), min_size=1))
def test_any_byte_level_bpe_is_exact(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert_all_agree(tokenizer, texts)


@given(ordered_bpes(), st.lists(st.text("abé字 ", max_size=40), min_size=1))
def test_any_byte_level_bpe_that_needs_no_merging_is_exact(
    tokenizer: Tokenizer, texts: list[str]
) -> None:
    tokens = read_token_bytes(tokenizer.tokens)
    assert len(make_lookup(read_merges(tokenizer), *tokens).parts) >= 256
    assert_all_agree(tokenizer, texts)


@pytest.mark.parametrize("lowercase", [True, False])
def test_combining_marks_in_any_order_are_exact(lowercase: bool) -> None:
    """Marks that stay are ordered, but not over what has no class, even where that is dropped."""
    stay = ["\u302e", "\U0001d165", "\u1b44", "\U0001d15e"]
    go = ["\u034f", "\u0f77", "\u0345", "\u200b", "\u20dd"]
    chars = [*stay, "a", ".", "\U0001d157", "\u20dd"]
    tokenizer = make_wordpiece(
        [*(entry for char in chars for entry in (char, f"##{char}")), "e", "##e"],
        f"marks, lowercase={lowercase}",
        flags={"lowercase": lowercase, "strip_accents": True},
    )
    pieces = [*stay, *go, "a", "é", ".", " "]
    longest = ["".join(text) for text in islice(product(pieces, repeat=4), 0, None, 17)]
    assert_exact(tokenizer, [*all_texts(pieces, 3), *longest])


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_with_added_tokens_is_exact(lowercase: bool) -> None:
    """They part marks from letters, and a special token hides what overlaps with it."""
    marks = ["\u0301", "\u302e", "\U0001d165"]  # the order of the last two is the library's
    rows = [added("[E1]", 0), added("\u00e9", 0), added("s [E", 0, special=True)]
    entries = [entry for char in (*marks, *"aes[]1\u5b57") for entry in (char, f"##{char}")]
    flags = {"lowercase": lowercase, "strip_accents": True}
    tokenizer = make_wordpiece(
        [*entries, *(row["content"] for row in rows)], flags=flags, added=rows
    )
    assert choose_kernel(tokenizer).name == "wordpiece"
    pieces = ["[E1]", "s ", "1]", "\u00e9", "\u00c9", "e", *marks, "\u5b57", " "]
    longest = ["".join(text) for text in islice(product(pieces, repeat=5), 0, None, 37)]
    assert_exact(tokenizer, [*all_texts(pieces, 3), *longest])


@pytest.mark.parametrize(
    ("prefix", "limit"),
    [*zip(PREFIXES, (100, 0, 1, 5, 300, 100), strict=True), ("##", 5), ("", 300)],
)
def test_wordpiece_of_any_prefix_and_limit_is_exact(prefix: str, limit: int) -> None:
    tokenizer = make_wordpiece(
        [*ENTRIES, *(prefix + entry for entry in ENTRIES)],
        f"prefix {prefix!r}, limit {limit}",
        unknown="[UNK]" if limit > 1 else "the",
        continuing_subword_prefix=prefix,
        max_input_chars_per_word=limit,
    )
    words = [word for word in long_words() if len(word) < 400]
    assert_exact(tokenizer, [*random_texts(500, seed=limit), *short_words()[::4], *words])


@pytest.mark.parametrize("unknown", ["[UNK]", "the", "?", "##a", "unk unk"])
def test_wordpiece_of_any_unknown_token_is_exact(unknown: str) -> None:
    entries = ["a", "##a", "the", "b", "##b", "?"]
    tokenizer = make_wordpiece(entries, f"unknown {unknown!r}", unknown=unknown)
    assert_exact(tokenizer, ["", *all_texts(["a", "b", "c", "the", "?", " ", "\n"], 4)])


def test_nested_merges_of_long_words_are_exact() -> None:
    words = ["a" * size for size in (*range(1, 80), 127, 128, 129, 511, 512, 1000, 10_000)]
    for first, odd in product(([], [("aa", "a"), ("a", "aa")], [("b", "a")]), ([], [("a", "b")])):
        for merges in ([*first, *NESTED, *odd], [*odd, *NESTED[::-1], *first]):
            tokenizer = make_bpe(merges, str(merges[:3]))
            texts = [text for word in words for text in (word, f" {word}b", f"b{word}", f"{word} ")]
            assert_exact(tokenizer, texts)


def test_nothing_is_looked_up_in_a_trie_of_no_tokens() -> None:
    """As where merges make all words of a tokenizer like Llama 3's; it was read beyond its end."""
    cells = make_cells(*text_arrays([]), np.zeros(0, np.int64))
    assert not cells.any()
    tokenizer = make_bpe([("a", "b")], ignore_merges=True)
    assert_all_agree(tokenizer, all_texts("abc ", 4))


def test_a_duplicate_merge_counts_at_its_last_place() -> None:
    tokenizer = make_bpe([("a", "b"), ("b", "c"), ("a", "b")])
    ids, _, _ = ask_library(tokenizer, ["abc"])
    assert [tokenizer.tokens[number] for number in ids] == ["a", "bc"]
    assert_all_agree(tokenizer, all_texts("abc ", 5))


@pytest.mark.parametrize(
    ("without", "add_prefix_space"),
    [*zip(("Ġ", "b", "bĠĊ", "Ã", "©", "'s", "ãĢ"), cycle((False, True))), ("Ġ", True)],
)
def test_a_byte_that_is_missing_is_dropped(without: str, add_prefix_space: bool) -> None:
    merges = [("a", "c"), ("ac", "ac"), ("d", "a")]
    tokenizer = make_bpe(merges, without=without, seed=1, add_prefix_space=add_prefix_space)
    assert_all_agree(tokenizer, all_texts(["a", "b", "c", " ", "\n", "é", "'s", "\u3000"], 4))


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_texts_that_begin_with_white_space_are_exact(add_prefix_space: bool) -> None:
    pieces = ["", " ", "  ", "\t", "\n", "\xa0", "\u3000", "\u200b", "\x00", "a", "'s", "1", "."]
    tokenizer = make_bpe([("Ġ", "a"), ("Ġ", "Ġ")], add_prefix_space=add_prefix_space)
    assert_all_agree(tokenizer, all_texts(pieces, 3))


@pytest.mark.parametrize(
    "changes",
    [
        {"unk_token": "<unk>"},
        {"unk_token": "<unk>", "fuse_unk": True},
        {"ignore_merges": True},
        {"end_of_word_suffix": "</w>"},
        {"continuing_subword_prefix": "##"},
        {"byte_fallback": True},
        {"dropout": 0.5},
    ],
    ids=str,
)
def test_other_options_of_bpe_are_exact(changes: dict[str, Any]) -> None:
    extra = ["<unk>", "abc", "Ġabc", "a</w>", "##a", "##c", "<0x62>", "ca", "ac", "aca"]
    # The library panics where the second of a pair is shorter than the prefix.
    inner = changes.get("continuing_subword_prefix", "")
    merges = [("c", f"{inner}a"), ("a", f"{inner}c"), ("ac", f"{inner}a")]
    tokenizer = make_bpe(merges, str(changes), without="b", extra=extra, **changes)
    assert_exact(tokenizer, [*all_texts(["a", "b", "c", "abc", " ", "é"], 4), *short_words()])
