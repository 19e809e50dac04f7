"""The encoder is equal to the library on every code point, on hard strings and on real text.

A sample is compared where ``--full`` is not given.
"""

import bz2
import functools
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import zstandard
from exactness import (
    ask_encoder,
    ask_library,
    assert_exact,
    assert_same,
    column,
    encoder_of,
    load_published,
)
from hardtexts import (
    CONTRACTIONS,
    WHITE_SPACE,
    all_texts,
    code_points,
    long_words,
    neighbourhoods,
    random_texts,
    short_words,
)
from madetokenizers import (
    PAIRED_FLAGS,
    bert_of_characters,
    bpe_of_pairs,
    make_wordpiece,
    rows_of_flags,
)

from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.tokenizer import Tokenizer

# The first five are compared without ``--full``; the others have the same pipelines.
PUBLISHED = (
    "bert-base-uncased",
    "bert-base-cased",
    "gpt2",
    "bert-base-multilingual-cased",
    "bert-base-uncased/vocab.blingfire-lowercased-specials.txt",
    "roberta",
    "bert-base-chinese",
    "bert-base-multilingual-uncased",
)
NUM_SAMPLED = 5
FOLDERS = (
    *("de-laws", "en-books-raw", "en-books-unwrapped", "en-canterbury", "en-enwiki"),
    *("en-factbook", "en-gutenberg", "en-shakespeare", "en-wikitext2", "fr-novels", "ja-aozora"),
    *("ko-nsmc", "ko-react-docs", "messy", "multi-opensource-guide", "multi-ud", "multi-udhr"),
    *("multi-xquad", "ru-novels", "th-wisesight", "zh-poetry", "zh-wiki-cmrc"),
)
SAMPLE_BYTES = 4_000  # of each folder
WHOLE_TEXT_CHARS = 1_000_000


@functools.cache
def published(folder: Path, name: str) -> Tokenizer:
    """A vocabulary of the shared folder."""
    if not name.endswith(".txt"):
        return load_published(folder / name)
    entries = (folder / name).read_text().removesuffix("\n").split("\n")
    return make_wordpiece(entries, name, unknown="[unk]")


def hard_texts() -> list[str]:
    """Words of every length, and every meeting of white space with what stands around it."""
    spaces = [" ", "\n", "\xa0", "\u3000", "a", "1", ".", "'s"]
    meetings = [f"{a}{b}" for a, b in product(WHITE_SPACE, repeat=2)]
    shapes = ("{}", "a{}", "{}a", "a{}b", "a {}.", ".{} b", "1{}1", "'{}'s")
    around = ["", " ", "  ", "a", "I", "1", ".", "'", "\n", "\u3000", "é", "s", "字"]
    return [
        *all_texts(spaces, 4),
        *(shape.format(meeting) for meeting in meetings for shape in shapes),
        *("".join(parts) for parts in product(around, CONTRACTIONS, around)),
        *short_words(),
        *long_words(),
    ]


def part_of_code_points(number: int, num_parts: int, *, full: bool) -> list[str]:
    """All code points, or a part of the sample: runs, since an encoder learns characters by pages."""
    return [
        char
        for place, char in enumerate(code_points(full=full))
        if full or place // 256 % num_parts == number % num_parts
    ]


@pytest.fixture(params=range(NUM_SAMPLED), ids=PUBLISHED[:NUM_SAMPLED])
def some_published(
    request: pytest.FixtureRequest, shared: Path, full: bool
) -> dict[int, Tokenizer]:
    """One of the first five vocabularies, or a fifth of all, by their places."""
    places = range(request.param, len(PUBLISHED) if full else request.param + 1, NUM_SAMPLED)
    return {place: published(shared / "vocabs", PUBLISHED[place]) for place in places}


def test_every_code_point_is_exact_with_published_vocabularies(
    some_published: dict[int, Tokenizer], full: bool
) -> None:
    for place, tokenizer in some_published.items():
        chars = part_of_code_points(place, NUM_SAMPLED, full=full)
        assert_exact(tokenizer, neighbourhoods(chars), encoder_of(tokenizer))


def test_hard_texts_are_exact_with_published_vocabularies(
    some_published: dict[int, Tokenizer], full: bool
) -> None:
    texts = [*hard_texts(), *random_texts(100_000 if full else 2500, seed=11)]
    for place, tokenizer in some_published.items():
        part = slice(None) if full else slice(place % 3, None, 3)
        assert_exact(tokenizer, texts[part], encoder_of(tokenizer))


@pytest.mark.parametrize("part", range(len(PAIRED_FLAGS)))
def test_code_points_and_texts_are_exact_under_every_option_of_bert(part: int, full: bool) -> None:
    for flags in rows_of_flags(part, full=full):
        tokenizer = bert_of_characters(flags, full=full)
        # Each takes a half, so that each value of a flag meets every character.
        chars = part_of_code_points(part, 2, full=full)
        texts = [*random_texts(20_000 if full else 800, seed=flags), *short_words()[part::6]]
        assert_exact(tokenizer, chain(neighbourhoods(chars), texts, long_words()[part::6]))


@pytest.mark.parametrize("add_prefix_space", [False, True])
def test_code_points_and_texts_are_exact_with_byte_level_bpe(
    add_prefix_space: bool, full: bool
) -> None:
    tokenizer = bpe_of_pairs(add_prefix_space=add_prefix_space)
    step = 1 if full else 4 if add_prefix_space else 2
    texts = [*hard_texts()[::step], *random_texts(100_000 if full else 2500, seed=12)]
    assert_exact(tokenizer, chain(neighbourhoods(code_points(full=full)[::step]), texts))


def test_real_text_is_exact(shared: Path, some_published: dict[int, Tokenizer], full: bool) -> None:
    for tokenizer, folder in product(some_published.values(), FOLDERS):
        encoder, path = encoder_of(tokenizer), shared / "corpora" / folder
        if not full:
            texts = sample(path)
            assert_exact(tokenizer, [*texts, "\n".join(texts)], encoder)
            continue
        for file in sorted(path.iterdir()):
            text = read(file).decode(errors="replace")
            assert_exact(tokenizer, text.split("\n"), encoder)
            if len(text) < WHOLE_TEXT_CHARS:
                assert_exact(tokenizer, [text], encoder)


def test_all_folders_of_real_text_are_compared(shared: Path) -> None:
    assert {path.name for path in (shared / "corpora").iterdir() if path.is_dir()} == {*FOLDERS}


@functools.cache
def sample(folder: Path) -> list[str]:
    """Some lines of each file."""
    paths = sorted(folder.iterdir())
    num_bytes = max(SAMPLE_BYTES // len(paths), 150)
    texts = (read(path, num_bytes).decode(errors="replace") for path in paths)
    return [line for text in texts for line in text.split("\n")]


def read(path: Path, num_bytes: int = -1) -> bytes:
    """All bytes of a file, or some from within it; of a packed one those at its head."""
    packed: dict[str, Any] = {".bz2": bz2.open, ".zst": zstandard.open}
    with packed.get(path.suffix, Path.open)(path, "rb") as file:
        if num_bytes >= 0 and path.suffix not in packed:
            file.seek(path.stat().st_size // 3)
        data: bytes = file.read(num_bytes)
    return data


def tokenizers() -> Iterator[Tokenizer]:
    """One of each kind that needs no file."""
    yield bert_of_characters(0, full=False)
    yield bpe_of_pairs(add_prefix_space=False)
    yield bpe_of_pairs(add_prefix_space=True)


def test_ids_depend_on_neither_the_cache_nor_the_order_of_texts(full: bool) -> None:
    texts = [*random_texts(30_000 if full else 700, seed=13), *short_words()[::2]]
    for tokenizer in tokenizers():
        encoder = Encoder(tokenizer)
        wanted = ask_library(tokenizer, texts)
        for _ in range(2):
            assert_same(tokenizer, texts, ask_encoder(encoder, column(texts)), wanted)
        for other in (encoder, Encoder(tokenizer)):
            assert_exact(tokenizer, texts[::-2], other)


def test_more_words_than_any_cache_holds_are_exact(full: bool) -> None:
    draws = np.random.default_rng(17)
    letters = draws.integers(ord("a"), ord("z") + 1, (1_000_000 if full else 24_000, 24), np.uint8)
    lengths = draws.integers(1, 25, len(letters)).tolist()
    words = [row[:length].tobytes().decode() for row, length in zip(letters, lengths, strict=True)]
    texts = [" ".join(words[start : start + 40]) for start in range(0, len(words), 40)]
    for tokenizer in tokenizers():
        encoder = Encoder(tokenizer)
        assert_exact(tokenizer, texts, encoder)
        assert_exact(tokenizer, texts[::-4], encoder)


def test_texts_are_bounded_by_their_offsets_alone() -> None:
    """Each text ends where its neighbour begins, and the last with the buffer, or within it."""
    texts = ["", "", "ab", "c", "", "'", "s", " ", " ", "a", "\u3000", "", "x\u0301", "\u0301", ""]
    texts += [word for word in short_words() if word][::40]
    for tokenizer in tokenizers():
        encoder = Encoder(tokenizer)
        for pieces in ([*texts], [*texts, *texts], [""], []):
            assert_exact(tokenizer, pieces, encoder)
        for size in range(1, 70):
            for last in ("x" * size, "é" * size, " " * size, "." * (size - 1) + "字"):
                assert_bounded(tokenizer, encoder, ["a", last])


def assert_bounded(tokenizer: Tokenizer, encoder: Encoder, texts: list[str]) -> None:
    """Compare texts whose buffer ends with them, and slices of longer columns."""
    wanted = ask_library(tokenizer, texts)
    offsets = np.cumsum([0, *(len(text.encode()) for text in texts)])
    buffers = [pa.py_buffer(offsets.tobytes()), pa.py_buffer("".join(texts).encode())]
    exact = pa.LargeStringArray.from_buffers(len(texts), *buffers)
    sliced = column(["y", *texts, "zé"]).slice(1, len(texts))
    for given in (exact, sliced):
        assert_same(tokenizer, texts, ask_encoder(encoder, given), wanted)
