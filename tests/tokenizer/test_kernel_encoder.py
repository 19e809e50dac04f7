"""Kernels stay exact if the cache is too small, and if text is at the end of memory."""

import functools
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from exactness import assert_exact, column, encoder_of, made_encoders
from hardtexts import random_texts, short_words
from hypothesis import given
from hypothesis import strategies as st
from madetokenizers import bert_of_characters, bpe_of_pairs, make_bpe

from tokkit.kernels.encode.bpe_merges import fill_merges
from tokkit.kernels.encode.long_words import (
    add_long,
    find_record,
    holds_word,
    new_long_words,
)
from tokkit.kernels.encode.word_cache import NUM_COUNTERS, new_cache
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.tokenizer import Tokenizer

MADE: dict[str, Callable[[], Tokenizer]] = {
    "wordpiece": functools.partial(bert_of_characters, 0, full=False),
    "bpe": functools.partial(bpe_of_pairs, add_prefix_space=False),
    "bpe with a prefix space": functools.partial(bpe_of_pairs, add_prefix_space=True),
}


@pytest.fixture(scope="module", params=MADE)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return MADE[request.param]()


def test_a_cache_that_is_too_small_stays_exact(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.tokenizer.encoder._SHORT_BITS", 2)
    monkeypatch.setattr("tokkit.tokenizer.encoder._INDEX_BITS", 2)
    monkeypatch.setattr("tokkit.tokenizer.encoder._ARENA_BITS", 7)
    long = [f"{'あい' * (number % 40)}{number % 7:x<{number}}" for number in range(3, 99)]
    texts = [*short_words(), *random_texts(300, seed=3), *long]
    encoder = Encoder(tokenizer)
    assert_exact(tokenizer, [*texts, *reversed(texts), " ".join(texts)], encoder)
    assert (encoder.counters > 0).all()


@pytest.mark.parametrize("letters", ["ab", "a\u00e9", "\u3042\u3044", "a\u10330b"])
def test_words_of_every_key_length_are_exact(tokenizer: Tokenizer, letters: str) -> None:
    """Each is in the cache when it comes again, and so are words that differ in their last byte."""
    rng = np.random.default_rng(5)
    words = [
        "".join(rng.choice(list(letters), length)) + last
        for length in range(1, 125)
        for last in ("a", "b", "")
    ]
    encoder = encoder_of(tokenizer)
    for texts in (words, words[::-1], [" ".join(words), "".join(words[:9])]):
        assert_exact(tokenizer, texts, encoder)


def test_new_words_do_not_grow_the_cache(tokenizer: Tokenizer) -> None:
    import psutil

    encoder = Encoder(tokenizer)
    rng = np.random.default_rng(1)
    sizes = []
    for _ in range(12):
        words = rng.integers(97, 123, (60_000, 9), np.uint8)
        words[:, 0] = 32
        text = words.tobytes().decode()
        encoder.encode(column([text]))
        sizes.append(psutil.Process().memory_info().rss)
    hits, misses, *_ = encoder.counters.tolist()
    assert misses > 20 * hits
    assert max(sizes[6:]) - sizes[5] < 8 << 20


@given(st.lists(st.text("ab \u00e9\u3000,'", max_size=40), min_size=1, max_size=5), st.data())
def test_kernels_do_not_read_past_the_text(texts: list[str], data: st.DataObject) -> None:
    """The same text, with other bytes before and behind it in memory, gives the same."""
    joined = "".join(texts).encode()
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    for _, encoder in made_encoders()[::2]:
        expected = encoder.encode(column(texts))
        before, behind = (data.draw(st.binary(max_size=9)) for _ in range(2))
        buffer = pa.py_buffer(before + joined + behind)
        shifted = pa.py_buffer((offsets + len(before)).astype(np.int64))
        array = pa.LargeStringArray.from_buffers(len(texts), shifted, buffer)
        found = encoder.encode(array)
        assert found.ids.tolist() == expected.ids.tolist()
        assert found.offsets.tolist() == expected.offsets.tolist()
        assert found.word_starts.equals(expected.word_starts)


def test_tables_of_the_cache_have_their_sizes() -> None:
    cache = new_cache(5, 4, 10)
    assert cache.short.ctypes.data % 64 == 0
    assert (cache.short.size, cache.long.slots.size, cache.long.arena.size) == (8 * 32, 16, 1024)
    assert cache.counters.tolist() == [0] * NUM_COUNTERS


def test_a_long_word_that_was_written_over_is_not_found() -> None:
    """Not even where another record begins at its place and has the same bytes as key."""
    words = new_long_words(4, 7)
    text = np.frombuffer(b"a word of 16 or more", np.uint8)
    key = (text, 0, 16, np.uint64(0))
    first, other = np.uint64(1 << 62), np.uint64(1 << 63)
    num_fitting = (
        128 // 5
    )  # a record has a header, word starts, two words of its key and one of ids
    for mixed in (first, *[other] * (num_fitting - 1)):
        add_long(words, *key, mixed, 1, 1)
    record = np.uint64(find_record(words, first))
    assert holds_word(words, record, *key)
    add_long(words, *key, other, 1, 1)
    newest = np.uint64(find_record(words, other))
    assert newest % np.uint64(128) == record % np.uint64(128)
    assert holds_word(words, newest, *key)
    assert not holds_word(words, record, *key)
    assert not holds_word(words, np.uint64(0), *key)


@given(st.lists(st.tuples(*[st.integers(0, 40)] * 3), max_size=40))
def test_the_table_of_merges_is_a_dictionary(merges: list[tuple[int, int, int]]) -> None:
    table = np.zeros(2 * 128, np.uint64)
    lefts, rights, merged = np.array(merges, np.int64).reshape(-1, 3).T.copy()
    known = np.zeros(1 << 14, np.uint64)
    ranks = np.arange(len(merges)) * 3
    fill_merges(lefts, rights, merged, ranks, 64 - 7, table, known)
    found = {
        divmod(key - 1, 1 << 32): divmod(value, 1 << 32)
        for key, value in table.reshape(-1, 2).tolist()
        if key
    }
    assert found == {
        (left, right): (3 * place, to) for place, (left, right, to) in enumerate(merges)
    }
    assert bool(merges) == known.any()


def test_a_vocabulary_of_more_than_65536_tokens_has_ids_of_32_bits_and_is_exact() -> None:
    names = [f"<{number}>" for number in range(70_000)]
    tokenizer = make_bpe([("t", "h"), ("\u0120", "c")], extra=names)
    encoder = Encoder(tokenizer)
    assert encoder.encode(column(["the cat"])).ids.dtype == np.uint32
    assert_exact(tokenizer, random_texts(100, seed=4), encoder)
