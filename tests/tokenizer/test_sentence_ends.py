"""Marks for the ends of sentences change no id, and count the tokens that begin before them."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from exactness import column, encoder_of, load_published, made_encoders
from hypothesis import given
from hypothesis import strategies as st
from metaspacetokenizers import LLAMA, make_metaspace_bpe, metaspace

from tokkit.corpus.sentences import Sentences, split_sentences
from tokkit.shards.arrow import string_buffers
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.tokenizer import Tokenizer

# Letters, digits, marks and white space that kernels treat differently.
CHARACTERS = "aabI19.,?!'\"s( )  \n\t\xa0\u3000é中語。」\u0301\u200b\u302e😀½"
WORDS = {
    "normalizer": None,
    "pre_tokenizer": {
        "type": "Sequence",
        "pretokenizers": [
            {"type": "WhitespaceSplit"},
            metaspace("always", split=True)["pre_tokenizer"],
        ],
    },
}
FOLDERS = ("en-books-raw", "ja-aozora", "zh-wiki-cmrc", "th-wisesight", "ru-novels", "messy")


def expect(
    tokenizer: Tokenizer, texts: Sequence[str], ends: Sequence[int]
) -> tuple[list[int], list[int]]:
    """What the library says: ids of all texts, and how many tokens begin before each end."""
    ids: list[int] = []
    counts = [0]
    bounds = np.cumsum([0, *(len(text.encode()) for text in texts)]).tolist()
    for text, (start, stop) in zip(texts, pairwise(bounds), strict=True):
        found, begins = ask_library(tokenizer, text)
        for end in ends:
            if start < end < stop:
                character = len(text.encode()[: end - start].decode())
                counts.append(len(ids) + sum(begin < character for begin in begins))
        ids += found
        counts.append(len(ids))
    return ids, counts


def ask_library(tokenizer: Tokenizer, text: str) -> tuple[list[int], list[int]]:
    """The ids of a text, and the character at which each token begins."""
    if tokenizer.processor is not None:
        found = tokenizer.processor.encode(text, return_type="offset_mapping")
        return found["ids"], [begin for begin, _ in found["offsets"]]
    assert tokenizer.library is not None
    encoding = tokenizer.library.encode(text, add_special_tokens=False)
    return encoding.ids, [begin for begin, _ in encoding.offsets]


@given(st.lists(st.lists(st.text(CHARACTERS, min_size=1, max_size=12), min_size=1), min_size=1))
def test_any_ends_of_sentences_change_no_id(documents: list[list[str]]) -> None:
    texts = ["".join(sentences) for sentences in documents]
    lengths = [len(sentence.encode()) for sentences in documents for sentence in sentences]
    ends = np.cumsum(lengths, dtype=np.int64)
    for tokenizer, encoder in made_encoders():
        encoded = encoder.encode(column(["x", *texts]).slice(1), ends + 1)
        assert (encoded.ids.tolist(), encoded.offsets.tolist()) == expect(
            tokenizer, texts, ends.tolist()
        )


def load(shared: Path, name: str, folder: Path) -> Tokenizer:
    path = shared / "vocabs" / name
    if path.suffix == ".zst":
        with zstandard.open(path) as file:
            data = file.read()
        path = folder / "tokenizer.json"
        path.write_bytes(data)
    return load_published(path)


def real_sentences(shared: Path, num_bytes: int) -> Sentences:
    """Documents of several languages with their sentences, white space at the ends included."""
    texts = []
    for name in FOLDERS:
        path = max((shared / "corpora" / name).iterdir())
        text = path.read_bytes()[:num_bytes].decode(errors="ignore").replace("\r\n", "\n")
        texts += [*text.split("\n\n")[:20], f"  {text}\n"]
    return split_sentences(column([text for text in texts if text.strip()]), "auto")


@pytest.mark.parametrize(
    "name",
    [
        *("bert-base-cased", "modern/qwen3.json.zst", "modern/mistral-v3.model"),
        "sentencepiece/xlnet-cased-spiece.model",
    ],
)
def test_sentences_of_real_documents_have_the_tokens_that_begin_in_them(
    shared: Path, tmp_path: Path, name: str
) -> None:
    tokenizer = load(shared, name, tmp_path)
    sentences = real_sentences(shared, 4000)
    texts = sentences.texts.to_pylist()
    assert len(sentences.ends) > 2 * len(texts)
    ids, counts = expect(tokenizer, texts, sentences.ends.tolist())
    special = {*tokenizer.all_special_ids}
    plain = [tokenizer.special_ids["unk"] if number in special else number for number in ids]
    for encoder in (encoder_of(tokenizer), LibraryEncoder(tokenizer, window_bytes=4000)):
        encoded = encoder.encode(sentences.texts, sentences.ends)
        assert encoded.ids.tolist() == plain
        assert encoded.offsets.tolist() == counts


@given(st.lists(st.text(min_size=1), min_size=1))
def test_byte_level_tokens_give_the_bytes_of_any_text_back(texts: list[str]) -> None:
    tokenizer, encoder = made_encoders()[2]
    encoded = encoder.encode(column(texts))
    for text, (start, stop) in zip(texts, pairwise(encoded.offsets), strict=True):
        assert tokenizer.decode(encoded.ids[start:stop].tolist()) == text


@pytest.mark.parametrize("name", ["gpt2", "modern/mistral-v3.model"])
def test_a_long_text_in_windows_has_the_ids_of_the_whole(
    shared: Path, tmp_path: Path, name: str
) -> None:
    tokenizer = load(shared, name, tmp_path)
    path = shared / "corpora" / "ja-aozora" / "soseki-756.txt"
    text = path.read_text(encoding="utf-8")[:20_000]
    for given_text in (
        text,
        text.replace("\n", "").replace("\u3000", ""),
        "a" * 30_000,
        "ab " * 9000,
    ):
        expected, _ = ask_library(tokenizer, given_text)
        encoded = LibraryEncoder(tokenizer, window_bytes=6000).encode(column([given_text]))
        assert encoded.ids.tolist() == expected


@pytest.mark.parametrize(
    "parts",
    [LLAMA, metaspace("always", split=False), metaspace("first", split=False), WORDS],
    ids=["llama", "always", "first", "words"],
)
@pytest.mark.parametrize("normalized", [False, True])
def test_white_space_is_put_behind_added_tokens_in_every_window(
    parts: dict[str, Any], *, normalized: bool
) -> None:
    """The library that goes on from the second window puts none in front of a text."""
    flags = {"normalized": normalized, "special": False, "single_word": False, "lstrip": False}
    rows = [{"id": 0, "content": token, "rstrip": True, **flags} for token in ("<x>", "a b", "ab")]
    merges = [("\u2581", "a"), ("a", "b"), ("\u2581a", "b")]
    tokenizer = make_metaspace_bpe(merges, parts, added=rows)
    text = ("\u5b57a\u5b57" * 2000 + "<x>  ab\u5b57<x>a\uff41b a") * 5
    expected, _ = ask_library(tokenizer, text)
    encoded = LibraryEncoder(tokenizer, window_bytes=6000).encode(column([text]))
    assert encoded.ids.tolist() == expected


def test_ends_are_positions_in_the_buffer_of_a_slice() -> None:
    texts: pa.LargeStringArray = column(["skip", "one two", "three"]).slice(1)
    _, offsets = string_buffers(texts)
    for tokenizer, encoder in made_encoders():
        ends = np.array([offsets[0] + 3, offsets[1], offsets[2]])
        encoded = encoder.encode(texts, ends)
        assert encoded.offsets.tolist() == expect(tokenizer, ["one two", "three"], [3, 7, 12])[1]
