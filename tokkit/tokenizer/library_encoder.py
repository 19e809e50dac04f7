"""Encoding by the tokenizer's own library: what no kernel of ours knows.

The library makes objects of about 100 bytes a token, so it gets a slice of the text at a time, and
a long text in pieces, as far as ``Tokenizer.cut`` knows where.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.shards.arrow import id_dtype
from tokkit.tokenizer.encoded import Encoded, Ids, SentenceTooLongError, forbidden_ids
from tokkit.tokenizer.tokenizer import Tokenizer, library_threads

SLICE_BYTES = 1 << 20
# A piece that cannot be cut may be this long.
LONGEST_PIECE = 4 << 20


class LibraryEncoder:
    """Encodes sentences with ``tokenizers`` or ``sentencepiece``.

    A token begins a word where its word is another than its predecessor's, and at the head of a
    sentence; sentencepiece tells it by U+2581.

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
        self._begins_word = _word_beginnings(tokenizer)
        self._forbidden = forbidden_ids(tokenizer)

    def encode(self, sentences: pa.LargeStringArray) -> Encoded:
        """Encode sentences, in order; see ``Encoder``."""
        lengths = [np.zeros(1, np.int64)]
        parts = [(np.zeros(0, id_dtype(self._tokenizer.vocab_size)), np.zeros(0, np.bool_))]
        for start, stop in self._slices(sentences):
            texts = sentences[start:stop].to_pylist()
            if stop - start == 1 and len(texts[0]) > self._slice_bytes:
                parts.append(self.encode_text(texts[0], start))
                lengths.append(np.array([len(parts[-1][0])], np.int64))
            else:
                token_counts, ids, word_starts = self._encode_texts(texts)
                parts.append((ids, word_starts))
                lengths.append(token_counts)
        return Encoded(
            ids=np.concatenate([ids for ids, _ in parts]),
            offsets=np.concatenate(lengths).cumsum(),
            word_starts=pa.array(np.concatenate([word_starts for _, word_starts in parts])),
        )

    def encode_text(self, text: str, sentence: int = 0) -> tuple[Ids, npt.NDArray[np.bool_]]:
        """The ids of one text, and where words start, however long it is.

        Args:
            text: any.
            sentence: its number, for the error.

        Raises:
            SentenceTooLongError: where it has no place for a cut over millions of bytes.
        """
        if len(text) <= self._slice_bytes // 4:
            return self._encode_texts([text])[1:]
        parts = [(np.zeros(0, id_dtype(self._tokenizer.vocab_size)), np.zeros(0, np.bool_))]
        for piece in self._tokenizer.cut(text, self._slice_bytes):
            size = len(piece.encode())
            if size > self._longest_piece:
                raise SentenceTooLongError(size, sentence)
            parts.append(self._encode_texts([piece])[1:])
        return (
            np.concatenate([ids for ids, _ in parts]),
            np.concatenate([word_starts for _, word_starts in parts]),
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

    def _encode_texts(
        self, texts: list[str]
    ) -> tuple[npt.NDArray[np.int64], Ids, npt.NDArray[np.bool_]]:
        """How many tokens each text has, all their ids, and where words start."""
        with library_threads(1):
            lists, words = self._call_library(texts)
        lengths = np.fromiter(map(len, lists), np.int64, len(lists))
        num_tokens = int(lengths.sum())
        ids: Ids = np.fromiter(
            chain.from_iterable(lists), id_dtype(self._tokenizer.vocab_size), num_tokens
        )
        if self._begins_word is not None:
            word_starts = self._begins_word[ids]
        else:
            numbers = np.fromiter(chain.from_iterable(words), np.int64, num_tokens)
            word_starts = np.diff(numbers, prepend=-1) != 0
        word_starts[(lengths.cumsum() - lengths)[lengths > 0]] = True
        self._replace_control(ids)
        return lengths, ids, word_starts

    def _call_library(self, texts: list[str]) -> tuple[list[list[int]], Iterable[list[int | None]]]:
        """The ids of each text, and the word of each token where the entries do not tell it."""
        library, processor = self._tokenizer.library, self._tokenizer.processor
        if processor is not None:
            return processor.encode(texts, out_type=int, num_threads=1), ()
        assert library is not None  # noqa: S101  a tokenizer has one or the other
        encodings = library.encode_batch(texts, add_special_tokens=False)
        return [e.ids for e in encodings], (e.word_ids for e in encodings)

    def _replace_control(self, ids: Ids) -> None:
        """Put ``unk`` for a control token, which some models have among the words of text.

        A WordPiece that cuts at white space alone finds ``[SEP]`` in its vocabulary, and
        sentencepiece does so where ``[SEP]`` is a user-defined symbol.

        Raises:
            TokkitError: where there is no entry to put.
        """
        found = np.flatnonzero(self._forbidden[ids])
        if not len(found):
            return
        unknown = self._tokenizer.special_ids.get("unk")
        if unknown is None:
            raise TokkitError(
                f"{self._tokenizer.path}: text gives the control token "
                f"{self._tokenizer.tokens[ids[found[0]]]!r}, and there is no entry for unknown words "
                f"to put in its place; name one as unk_token in a tokenizer_config.json beside it"
            )
        ids[found] = unknown


def _word_beginnings(tokenizer: Tokenizer) -> npt.NDArray[np.bool_] | None:
    """Whether each entry begins a word, ``[vocab_size]``; None where an entry does not tell it."""
    if tokenizer.processor is not None or tokenizer.definition["pre_tokenizer"] is None:
        return np.array([token.startswith("\u2581") for token in tokenizer.tokens])
    return None
