"""Words that are cut between characters which no token spans have the ids of the library."""

from itertools import pairwise

import numpy as np
import pytest
from exactness import assert_exact
from hypothesis import given
from hypothesis import strategies as st
from madetokenizers import make_bpe

from tokkit.kernels.encode.word_parts import NO_SYMBOL, find_part
from tokkit.tokenizer.bpe_model import BpeModel
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.tokenizer import Tokenizer

# Characters that share their first two bytes, their first or their last; and of other lengths.
CHARS = "あいう私秂愁中国ㄠaé한\U0001f600\U00020000"


def merge_at_random(texts: list[str], num_merges: int, seed: int) -> list[tuple[str, str]]:
    """Return merges of neighbors in these texts, as a trainer that chooses at random makes them."""
    alphabet, rng = byte_level_alphabet(), np.random.default_rng(seed)
    words = [[alphabet[byte] for byte in text.encode()] for text in texts]
    merges: list[tuple[str, str]] = []
    for _ in range(num_merges):
        pairs = sorted({pair for word in words for pair in pairwise(word)})
        if not pairs:
            break
        left, right = pairs[rng.integers(len(pairs))]
        merges.append((left, right))
        for word in words:
            for place in range(len(word) - 2, -1, -1):
                if word[place : place + 2] == [left, right]:
                    word[place : place + 2] = [left + right]
    return merges


@st.composite
def tokenizers(draw: st.DrawFn) -> Tokenizer:
    """Any byte-level BPE over a few characters, also with words that no merges make."""
    texts = st.lists(st.text(CHARS, min_size=1, max_size=6), max_size=6)
    words = ["".join(byte_level_alphabet()[byte] for byte in text.encode()) for text in draw(texts)]
    return make_bpe(
        merge_at_random(draw(texts), draw(st.integers(0, 60)), draw(st.integers(0, 99))),
        extra=words,
        ignore_merges=draw(st.booleans()),
    )


@given(tokenizers(), st.lists(st.text(f"{CHARS} 、", max_size=30), max_size=8))
def test_words_of_any_characters_are_exact(tokenizer: Tokenizer, texts: list[str]) -> None:
    encoder = Encoder(tokenizer)
    assert_exact(tokenizer, [*texts, *texts, "".join(texts)], encoder)


@pytest.mark.parametrize("chars", ["あい", "あ私中", "中国a", CHARS])
def test_long_words_are_exact(chars: str) -> None:
    """Of more bytes than the cache keeps, and of parts that it keeps."""
    draws = np.random.default_rng(3)
    texts = ["".join(draws.choice(list(chars), length)) for length in (40, 90, 300, 2000)]
    tokenizer = make_bpe(merge_at_random(texts[:2], 90, 1))
    assert_exact(tokenizer, [*texts, *texts], Encoder(tokenizer))


def find_parts(tokenizer: Tokenizer, word: str) -> list[tuple[str, bool]]:
    """Return the parts of a word, and whether each is one character that is a token."""
    ((tables),) = BpeModel(tokenizer).tables
    values = np.frombuffer(word.encode(), np.uint8)
    parts = []
    start = 0
    while start < len(values):
        end, token = find_part(values, start, len(values), tables.lookup, tables.neighbors)
        parts.append((values[start:end].tobytes().decode(), token != NO_SYMBOL))
        start = end
    return parts


def test_words_are_cut_where_no_token_spans_two_characters() -> None:
    alphabet = byte_level_alphabet()
    merges = []
    for word in ("私", "は", "学生", "です"):
        chars = [[alphabet[byte] for byte in char.encode()] for char in word]
        for char in chars:
            merges += [(char[0], char[1]), (char[0] + char[1], char[2])]
        if len(chars) == 2:
            merges.append(("".join(chars[0]), "".join(chars[1])))
    tokenizer = make_bpe(dict.fromkeys(merges))
    cut = [("私", True), ("は", True), ("学生", False), ("です", False)]
    assert find_parts(tokenizer, "私は学生です") == cut
    assert find_parts(tokenizer, "です学です生") == [
        ("です", False),
        ("学", True),
        *cut[3:],
        ("生", True),
    ]
    # A character that is no token is cut off where the two bytes meet in no token.
    assert find_parts(tokenizer, "私中は") == [("私", True), ("中", False), ("は", True)]
    # With a token that begins within a character, this is the neighbor of many.
    bytes_of = "".join(alphabet[byte] for byte in "私は".encode())
    merges.append((bytes_of[:3], bytes_of[3:5]))
    assert find_parts(make_bpe(dict.fromkeys(merges)), "私は私") == [("私は", False), ("私", True)]
