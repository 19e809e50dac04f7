"""Sentences of text in, token ids and word starts out, as the tokenizer's own library gives them.

    sentences    "Unaffable, yes."   "No."
    ids          una ##ffa ##ble , yes .   no .
    offsets      0                         6    8
    word_starts  1   0     0     1 1   1   1  1

Text never yields control tokens: ``[SEP]`` in a sentence is three words. A token begins a word
where its word is another than its predecessor's, and at the head of a sentence. WordPiece tells it
by ``##``, sentencepiece by U+2581; else the library's numbering of words is asked for, which costs
a fifth more time.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.vocab.tokenizer import Tokenizer, library_threads

Ids = npt.NDArray[np.unsignedinteger[Any]]
Lengths = npt.NDArray[np.int64]
WordStarts = npt.NDArray[np.bool_]

# The library makes objects of about 100 bytes a token, so it gets this much text at a time.
SLICE_BYTES = 1 << 20
# Longer sentences are cut in pieces; a piece that cannot be cut may be this long.
LONGEST_PIECE = 4 << 20


@dataclass(frozen=True)
class Encoded:
    """Token ids of some sentences.

    Attributes:
        ids: uint16 where the vocabulary has at most 65,536 entries, else uint32; ``[num_tokens]``.
        offsets: int64 ``[num_sentences + 1]``: sentence ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.
        word_starts: bool ``[num_tokens]``.
    """

    ids: Ids
    offsets: npt.NDArray[np.int64]
    word_starts: WordStarts


class SentenceTooLongError(TokkitError):
    """A sentence that cannot be cut and is too long for the library in bounded memory.

    Args:
        message: the line for the user.
        sentence: its number.
    """

    def __init__(self, message: str, sentence: int) -> None:
        super().__init__(message)
        self.sentence = sentence


class Encoder:
    """Encodes batches of sentences.

    Args:
        tokenizer: whose ids they are.
        slice_bytes: about how much text the library gets at a time.
        longest_piece: how many bytes it gets of a text that has no place for a cut.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        slice_bytes: int = SLICE_BYTES,
        longest_piece: int = LONGEST_PIECE,
    ) -> None:
        self._tokenizer = tokenizer
        self._slice_bytes = slice_bytes
        self._longest_piece = longest_piece
        self._id_dtype = np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32
        self._begins_word = _word_beginnings(tokenizer)
        self._forbidden = np.zeros(tokenizer.vocab_size, np.bool_)
        self._forbidden[list(tokenizer.control_ids)] = True
        if "unk" in tokenizer.special_ids:
            self._forbidden[tokenizer.special_ids["unk"]] = False

    def encode(self, sentences: pa.LargeStringArray) -> Encoded:
        """Encode sentences, in order.

        Args:
            sentences: valid UTF-8 without nulls; a slice of a larger array will do.

        Raises:
            SentenceTooLongError: where a sentence has no place for a cut over millions of bytes.
        """
        lengths = [np.zeros(1, np.int64)]
        parts = [(np.zeros(0, self._id_dtype), np.zeros(0, np.bool_))]
        for start, stop in self._slices(sentences):
            texts = sentences[start:stop].to_pylist()
            if stop - start == 1 and len(texts[0]) > self._slice_bytes:
                num_tokens = 0
                for piece in self._cut(texts[0], start):
                    _, ids, word_starts = self._encode_texts([piece])
                    parts.append((ids, word_starts))
                    num_tokens += len(ids)
                lengths.append(np.array([num_tokens], np.int64))
            else:
                token_counts, ids, word_starts = self._encode_texts(texts)
                parts.append((ids, word_starts))
                lengths.append(token_counts)
        return Encoded(
            ids=np.concatenate([ids for ids, _ in parts]),
            offsets=np.concatenate(lengths).cumsum(),
            word_starts=np.concatenate([word_starts for _, word_starts in parts]),
        )

    def _slices(self, sentences: pa.LargeStringArray) -> Iterator[tuple[int, int]]:
        """Bounds of runs of sentences that have about ``slice_bytes`` together, at least one."""
        if not len(sentences):
            return
        offsets = np.frombuffer(sentences.buffers()[1], np.int64)[sentences.offset :]
        start = 0
        while start < len(sentences):
            limit = offsets[start] + self._slice_bytes
            stop = int(np.searchsorted(offsets[: len(sentences) + 1], limit, "right")) - 1
            yield start, max(start + 1, stop)
            start = max(start + 1, stop)

    def _cut(self, text: str, sentence: int) -> Iterator[str]:
        for piece in self._tokenizer.cut(text, self._slice_bytes):
            size = len(piece.encode())
            if size > self._longest_piece:
                raise SentenceTooLongError(
                    f"a sentence has {size:,} bytes that this tokenizer must take in one piece, "
                    f"more than fit into memory; break it into lines and pass --sentences lines",
                    sentence,
                )
            yield piece

    def _encode_texts(self, texts: list[str]) -> tuple[Lengths, Ids, WordStarts]:
        """How many tokens each text has, all their ids, and where words start."""
        with library_threads(1):
            lists, words = self._call_library(texts)
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        num_tokens = int(lengths.sum())
        ids: Ids = np.fromiter(chain.from_iterable(lists), self._id_dtype, num_tokens)
        if self._begins_word is not None:
            word_starts = self._begins_word[ids]
        else:
            numbers = np.fromiter(chain.from_iterable(words), np.int64, num_tokens)
            word_starts = np.diff(numbers, prepend=-1) != 0
        word_starts[(lengths.cumsum() - lengths)[lengths > 0]] = True
        self._replace_forbidden(ids)
        return lengths, ids, word_starts

    def _call_library(self, texts: list[str]) -> tuple[list[list[int]], Iterable[list[int | None]]]:
        """The ids of each text, and the word of each token where the entries do not tell it."""
        library, processor = self._tokenizer.library, self._tokenizer.processor
        if processor is not None:
            return processor.encode(texts, out_type=int, num_threads=1), ()
        assert library is not None  # noqa: S101  a tokenizer has one or the other
        if self._begins_word is not None:
            encodings = library.encode_batch_fast(texts, add_special_tokens=False)
            return [encoding.ids for encoding in encodings], ()
        encodings = library.encode_batch(texts, add_special_tokens=False)
        return [e.ids for e in encodings], (e.word_ids for e in encodings)

    def _replace_forbidden(self, ids: Ids) -> None:
        """Put ``unk`` for a control token, which some models have among the words of text.

        A WordPiece that cuts at white space alone finds ``[SEP]`` in its vocabulary, and
        sentencepiece does so where ``[SEP]`` is a user-defined symbol.
        """
        found = np.flatnonzero(self._forbidden[ids])
        if not len(found):
            return
        unknown = self._tokenizer.special_ids.get("unk")
        if unknown is None:
            raise TokkitError(
                f"{self._tokenizer.path}: text gives the control token "
                f"{self._tokenizer.token(ids[found[0]])!r}, and there is no entry for unknown words "
                f"to put in its place; name one as unk_token in a tokenizer_config.json beside it"
            )
        ids[found] = unknown


def _word_beginnings(tokenizer: Tokenizer) -> npt.NDArray[np.bool_] | None:
    """Whether each entry begins a word, ``[vocab_size]``; None where an entry does not tell it."""
    if tokenizer.processor is not None:
        return np.array([token.startswith("\u2581") for token in tokenizer.tokens])
    if tokenizer.pipeline == "bert":
        prefix = tokenizer.definition["model"]["continuing_subword_prefix"]
        # No word of text begins with punctuation and goes on, so only later pieces have "##".
        if prefix == "##":
            return np.array([not token.startswith(prefix) for token in tokenizer.tokens])
    if tokenizer.definition["pre_tokenizer"] is None:
        return np.array([token.startswith("\u2581") for token in tokenizer.tokens])
    return None
