"""With split digits, our kernels still give the library's ids, and texts are cut without changing them."""

import functools
from pathlib import Path

import numpy as np
import pytest
from exactness import as_bools, ask_library, assert_exact, column
from hardtexts import all_texts, code_points, random_texts
from hypothesis import given
from hypothesis import strategies as st
from tinytokenizers import CONTROL

from tokkit.tokenizer.definitions import byte_level_alphabet, byte_level_bpe, wordpiece
from tokkit.tokenizer.encoder import Encoder, choose_kernel
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.loading import TokenizerFiles
from tokkit.tokenizer.saving import save_tokenizer
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer, make_tokenizer

MERGES = [("1", "2"), ("Ġ", "1"), ("a", "1"), ("Ġ", "a"), ("a", "b"), ("Â", "½"), ("Ġ", "Â½")]


def make_bpe() -> Tokenizer:
    entries = [*CONTROL, *byte_level_alphabet(), *map("".join, MERGES)]
    ids = {entry: number for number, entry in enumerate(entries)}
    form = byte_level_bpe(ids, MERGES, split_digits=True)
    return make_tokenizer(TokenizerFiles(Path("digits.json"), form))


def make_wordpiece() -> Tokenizer:
    bare = ["a", "b", "1", "2", "½", "٣", "ab", "12", "a1", ".", "'"]
    entries = [*CONTROL, *bare, *(f"##{entry}" for entry in bare)]
    form = wordpiece(
        {entry: number for number, entry in enumerate(entries)},
        unknown="[UNK]",
        named={},
        lowercase=True,
        strip_accents=None,
        split_digits=True,
    )
    return make_tokenizer(TokenizerFiles(Path("digits.json"), form))


TOKENIZERS = [make_bpe(), make_wordpiece()]


@functools.cache
def encoder_of(tokenizer: Tokenizer) -> Encoder:
    """One encoder for all examples, since it is slow to make."""
    return Encoder(tokenizer)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bpe", "wordpiece"])
def test_a_kernel_encodes_split_digits_exactly(tokenizer: Tokenizer) -> None:
    assert choose_kernel(tokenizer).name == tokenizer.kind
    pieces = ["a", "1", "2", " ", "\n", "½", "'s", ".", "\u3000", "Ⅻ"]
    assert_exact(tokenizer, [*all_texts(pieces, 3), *random_texts(300, 5)])
    assert_exact(tokenizer, [f"a{char}1 {char}{char} b" for char in code_points(full=False)[::2]])


@given(st.lists(st.text("ab12½٣①字 \n'.s", max_size=30), min_size=1))
def test_any_text_with_split_digits_is_exact(texts: list[str]) -> None:
    for tokenizer in TOKENIZERS:
        assert_exact(tokenizer, texts, encoder_of(tokenizer))


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bpe", "wordpiece"])
def test_every_digit_is_a_word(tokenizer: Tokenizer) -> None:
    ids, _, word_starts = ask_library(tokenizer, ["ab 2121, a12 and 1½"])
    digits = [number for number, token in enumerate(tokenizer.tokens) if token in ("1", "2")]
    places = [place for place, number in enumerate(ids) if number in digits]
    assert len(places) == 7
    assert all(word_starts[place] for place in places)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bpe", "wordpiece"])
def test_a_long_text_is_cut_where_its_ids_stay(tokenizer: Tokenizer) -> None:
    text = "ab 12 ab12, 2 1\n12 ab " * 100
    encoded = LibraryEncoder(tokenizer, window_bytes=400).encode(column([text]))
    ids, offsets, word_starts = ask_library(tokenizer, [text])
    assert np.array_equal(encoded.ids, ids)
    assert np.array_equal(encoded.offsets, offsets)
    assert np.array_equal(as_bools(encoded.word_starts), word_starts)


@pytest.mark.parametrize("tokenizer", TOKENIZERS, ids=["bpe", "wordpiece"])
def test_no_classic_file_is_saved_that_cannot_say_so(tokenizer: Tokenizer, tmp_path: Path) -> None:
    save_tokenizer(tokenizer, tmp_path)
    assert not {"vocab.txt", "vocab.json", "merges.txt"} & {
        path.name for path in tmp_path.iterdir()
    }
    assert load_tokenizer(tmp_path).fingerprint == tokenizer.fingerprint
