"""Encoding by our kernels: what BERT's and GPT-2's tokenizers have in common.

A kernel runs over a batch until it is done, or until it meets what it cannot do alone: a character
that its table has not got, a chunk that only the library can encode, a word longer than it has
room for. Then the caller helps, and calls it again where it stopped. So tables hold what a text
has in it, page by page, and filling them costs nothing to speak of (all of Unicode: 3 s).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.kernels.encode.chunks import (
    DETAIL,
    DONE,
    LONG_WORD,
    NEEDS_LIBRARY,
    NUM_TOKENS,
    POSITION,
    SENTENCE,
    UNSEEN_CHARACTER,
    new_queue,
    new_state,
)
from tokkit.kernels.encode.word_cache import LONG_SPILL, append_tokens, new_cache
from tokkit.shards.arrow import boolean_array, id_dtype, read_only, string_buffers
from tokkit.tokenizer.encoded import Encoded, Ids
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.tokenizer import Tokenizer

# Of the cache, as binary logarithms: 16 MB for short keys and 8 MB for long ones, and up to 59 MB
# beside them for chunks of more than three tokens. English prose with 4 MB for short keys 206 MB/s a
# core, with 8 MB 257, with 16 MB 276, with 32 MB 304. Long words seldom come again: 32 MB for them
# made byte-level BPE of Japanese 37 MB/s a core instead of 29, and a worker 530 MB large.
_SHORT_BITS = 18
_LONG_BITS = 16
_SCRATCH_BYTES = 16 << 20


class KernelEncoder(ABC):
    """Encodes sentences; not to be used by two threads at a time.

    Args:
        tokenizer: whose ids they are.
    """

    _kernel: ClassVar[Callable[..., int]]

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache = new_cache(_SHORT_BITS, _LONG_BITS)
        self._queue = new_queue()
        self._by_library = LibraryEncoder(tokenizer)
        # Memory that is written again and again is quicker than new pages, by a tenth.
        self._scratch = self._new_room(_SCRATCH_BYTES)

    @property
    def counters(self) -> npt.NDArray[np.int64]:
        """How often the cache was asked, and knew; see ``tokkit.kernels.encode.word_cache``."""
        return self._cache.counters

    def encode(self, sentences: pa.LargeStringArray) -> Encoded:
        """Encode sentences, in order; see ``Encoder``."""
        values, offsets = (read_only(array) for array in self._text(sentences))
        num_bytes = int(offsets[-1] - offsets[0])
        state = new_state(int(offsets[0]))
        fits = num_bytes <= _SCRATCH_BYTES
        ids, bits = self._scratch if fits else self._new_room(num_bytes)
        bits[0] = 0
        token_offsets = np.zeros(len(offsets), np.int64)
        rest = (self._cache, self._queue, state, ids, bits, token_offsets)
        while (fault := self._kernel(values, offsets, *self._tables, *rest)) != DONE:
            if fault == UNSEEN_CHARACTER:
                self._learn_page(int(state[DETAIL]))
            elif fault == LONG_WORD:
                self._make_room(int(state[DETAIL]), int(state[SENTENCE]))
            elif fault == NEEDS_LIBRARY:
                self._ask_library(values, state, ids, bits)
        num_tokens = int(state[NUM_TOKENS])
        return Encoded(
            ids=ids[:num_tokens].copy(),
            offsets=token_offsets,
            word_starts=boolean_array(bits[: num_tokens // 64 + 1].copy(), num_tokens),
        )

    def _new_room(self, num_bytes: int) -> tuple[Ids, npt.NDArray[np.uint64]]:
        """Room for the ids and word starts of so many bytes of text.

        A token has a byte at least: the tables see to it. A slot of the cache is copied whole.
        """
        size = num_bytes + LONG_SPILL
        return np.empty(size, id_dtype(self._tokenizer.vocab_size)), np.empty(
            size // 64 + 3, np.uint64
        )

    def _text(
        self, sentences: pa.LargeStringArray
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The bytes that the kernel reads, and the bounds of sentences in them."""
        return string_buffers(sentences)

    @property
    @abstractmethod
    def _tables(self) -> tuple[Any, ...]:
        """What the kernel takes between the text and the cache."""

    @abstractmethod
    def _learn_page(self, code: int) -> None:
        """Tell the table of a character that it has not got."""

    def _ask_library(
        self,
        values: npt.NDArray[np.uint8],
        state: npt.NDArray[np.int64],
        ids: Ids,
        bits: npt.NDArray[np.uint64],
    ) -> None:
        """Encode the chunk that the kernel cannot, and go on behind it."""
        start, stop = int(state[POSITION]), int(state[DETAIL])
        text = values[start:stop].tobytes().decode()
        found, starts = self._by_library.encode_text(text, int(state[SENTENCE]))
        assert len(found) <= stop - start  # noqa: S101  there is room for a token a byte
        append_tokens(found, starts, int(state[NUM_TOKENS]), ids, bits)
        state[NUM_TOKENS] += len(found)
        state[POSITION] = stop

    def _make_room(self, num_bytes: int, sentence: int) -> None:
        """Make room for words of so many bytes.

        Raises:
            SentenceTooLongError: where that is too much.
        """
        raise NotImplementedError
