"""Compares the encoder with the library: ids, offsets and word starts are equal, or the first that differ are shown."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from madetokenizers import bert_of_characters, bpe_of_pairs

from reference.bpe import ByteLevelBPE
from reference.wordpiece import WordPiece
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.library_calls import single_thread
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

# The library makes objects of about 150 bytes a token, so it encodes only this much in a call.
BATCH_CHARS = 1 << 20
BATCH_TEXTS = 50_000
NUM_SHOWN = 3

Answer = tuple[npt.NDArray[Any], npt.NDArray[np.int64], npt.NDArray[np.bool_]]
Twin = WordPiece | ByteLevelBPE


@functools.cache
def load_published(path: Path) -> Tokenizer:
    """Load a tokenizer of the shared folder, once in a process: they are large."""
    return load_tokenizer(path)


@functools.cache
def encoder_of(tokenizer: Tokenizer) -> Encoder:
    """Return one encoder for all tests of a tokenizer, so that its tables are filled once."""
    return Encoder(tokenizer)


@functools.cache
def made_encoders() -> list[tuple[Tokenizer, Encoder | LibraryEncoder]]:
    """Tokenizers of each kind that needs no file, with our encoder and the library's."""
    made = [
        bert_of_characters(0, full=False),
        bpe_of_pairs(add_prefix_space=False),
        bpe_of_pairs(add_prefix_space=True),
    ]
    return [
        (tokenizer, make(tokenizer)) for tokenizer in made for make in (encoder_of, LibraryEncoder)
    ]


def column(texts: Sequence[str]) -> pa.LargeStringArray:
    return pa.array(texts, pa.large_string())


def as_bools(word_starts: Any) -> npt.NDArray[np.bool_]:
    """Return word starts, an array of Arrow or NumPy, as one of NumPy."""
    if isinstance(word_starts, np.ndarray):
        return word_starts
    bools: npt.NDArray[np.bool_] = word_starts.to_numpy(zero_copy_only=False)
    return bools


def ask_encoder(encoder: Encoder, texts: pa.LargeStringArray) -> Answer:
    """Return the encoder's ids, offsets and word starts."""
    encoded = encoder.encode(texts)
    return encoded.ids, encoded.offsets, as_bools(encoded.word_starts)


def ask_library(tokenizer: Tokenizer, texts: Sequence[str]) -> Answer:
    """Return the library's ids, offsets and word starts."""
    assert tokenizer.library is not None
    with single_thread():
        encodings = tokenizer.library.encode_batch(texts, add_special_tokens=False)
    lengths = np.fromiter(map(len, encodings), np.int64, len(texts))
    ids = np.fromiter(chain.from_iterable(e.ids for e in encodings), np.int64)
    words = np.fromiter(chain.from_iterable(e.word_ids for e in encodings), np.int64)
    word_starts = np.diff(words, prepend=-1) != 0
    word_starts[(lengths.cumsum() - lengths)[lengths > 0]] = True
    return ids, np.concatenate([[0], lengths.cumsum()]), word_starts


def ask_twin(twin: Twin, texts: Iterable[str]) -> Answer:
    """Return a reference implementation's ids, offsets and word starts."""
    answers = [twin.encode(text) for text in texts]
    offsets = np.cumsum([0, *(len(ids) for ids, _ in answers)])
    ids, word_starts = (list(chain.from_iterable(part)) for part in zip(*answers, strict=True))
    return np.array(ids, np.int64), offsets, np.array(word_starts, np.bool_)


def assert_exact(
    tokenizer: Tokenizer, texts: Iterable[str], encoder: Encoder | None = None
) -> None:
    """Assert that an encoder gives what the library gives, many texts at a time."""
    encoder = encoder or Encoder(tokenizer)
    for batch in batches(texts):
        given = ask_encoder(encoder, column(batch))
        assert_same(tokenizer, batch, given, ask_library(tokenizer, batch))


def assert_same(tokenizer: Tokenizer, texts: Sequence[str], given: Answer, wanted: Answer) -> None:
    """Assert that two answers are equal, and show a few texts for which they are not."""
    if all(map(np.array_equal, given, wanted)):
        return
    assert len(given[1]) == len(wanted[1]), f"{len(given[1])} offsets for {len(texts)} texts"
    shown: list[str] = []
    for number, text in enumerate(texts):
        answers = [_of_text(answer, number) for answer in (given, wanted)]
        if answers[0] != answers[1] and len(shown) < NUM_SHOWN:
            shown.append(_difference(text, *answers))
    assert not shown, "\n".join([f"{tokenizer.path} ({tokenizer.kind})", *shown])
    raise AssertionError(f"{tokenizer.path}: the answers differ outside of the texts")


def batches(texts: Iterable[str]) -> Iterator[list[str]]:
    """Yield lists of texts that the library encodes in one call."""
    batch: list[str] = []
    num_chars = 0
    for text in texts:
        batch.append(text)
        num_chars += len(text)
        if num_chars >= BATCH_CHARS or len(batch) == BATCH_TEXTS:
            yield batch
            batch, num_chars = [], 0
    if batch:
        yield batch


def _of_text(answer: Answer, number: int) -> list[tuple[int, bool]]:
    ids, offsets, word_starts = answer
    part = slice(offsets[number], offsets[number + 1])
    return list(zip(ids[part].tolist(), word_starts[part].tolist(), strict=True))


def _difference(text: str, given: list[tuple[int, bool]], wanted: list[tuple[int, bool]]) -> str:
    """Describe a text and both answers, around the first token that differs."""
    pairs = enumerate(zip(given, wanted, strict=False))
    first = next((place for place, (one, other) in pairs if one != other), None)
    place = min(len(given), len(wanted)) if first is None else first
    shown = slice(max(0, place - 5), place + 20)
    head = text if len(text) < 500 else f"{text[:500]}..."
    lines = [f"  text    {head!a}"]
    lines.append(f"  differs at token {place}; given {len(given)} tokens, wanted {len(wanted)}")
    for name, answer in (("given", given), ("wanted", wanted)):
        ids, word_starts = zip(*answer[shown], strict=True) if answer[shown] else ((), ())
        lines.append(f"  {name:7} {list(ids)} {''.join('01'[start] for start in word_starts)}")
    return "\n".join(lines)
