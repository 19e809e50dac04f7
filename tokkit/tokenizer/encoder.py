"""Sentences of text in, token ids and word starts out, as the tokenizer's own library gives them.

    sentences    "Unaffable, yes."   "No."
    ids          una ##ffa ##ble , yes .   no .
    offsets      0                         6    8
    word_starts  1   0     0     1 1   1   1  1

Text never becomes a special token: ``[SEP]`` in a sentence is three words. BERT's and GPT-2's
tokenizers are encoded by our kernels, others by their library.

A kernel runs over a batch until it is done, or until it meets what it cannot do alone: a character
that is not in its table yet, a chunk that only the library can encode, a word that needs more
memory. The encoder provides that and calls the kernel again, which continues where it stopped.
"""

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
    TEXT,
    UNSEEN_CHARACTER,
    new_queue,
    new_state,
)
from tokkit.kernels.encode.word_cache import LONG_SPILL, append_tokens, new_cache
from tokkit.shards.arrow import boolean_array, id_dtype, read_only
from tokkit.tokenizer.bpe_model import BpeModel
from tokkit.tokenizer.encoded import Encoded, Ids, choose_kernel
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.wordpiece_model import WordPieceModel

# Binary logarithms of the cache's slots: 16 MB for short keys and 8 MB for long ones, and up to
# 59 MB more for chunks of more than three tokens. English prose runs at 206 MB/s a core with 4 MB
# for short keys, at 257 with 8 MB, 276 with 16 MB, 304 with 32 MB. Long words seldom come again:
# 32 MB for them made byte-level BPE of Japanese 37 MB/s a core instead of 29, and a worker 530 MB
# large.
_SHORT_BITS = 18
_LONG_BITS = 16
_BUFFER_BYTES = 16 << 20


class Encoder:
    """Encodes batches of sentences; each thread needs one of its own.

    Args:
        tokenizer: defines the ids.
        longest_word: most bytes of a word in byte-level BPE; None for 4 MB.

    Attributes:
        counters: int64 hits and misses of the kernel's cache; see
            ``tokkit.kernels.encode.word_cache``.
    """

    def __init__(self, tokenizer: Tokenizer, *, longest_word: int | None = None) -> None:
        kernel = choose_kernel(tokenizer)
        self._id_dtype = id_dtype(tokenizer.vocab_size)
        self._library = LibraryEncoder(tokenizer)
        self._model: WordPieceModel | BpeModel | None = None
        if kernel == "wordpiece":
            self._model = WordPieceModel(tokenizer)
        elif kernel == "bpe":
            self._model = BpeModel(tokenizer, longest_word)
        self._cache = new_cache(_SHORT_BITS, _LONG_BITS)
        self._queue = new_queue()
        # Writing to the same memory again is a tenth faster than writing to new pages.
        self._buffers = self._new_buffers(_BUFFER_BYTES)
        self.counters: npt.NDArray[np.int64] = self._cache.counters

    def encode(self, sentences: pa.LargeStringArray) -> Encoded:
        """Encode sentences, in order.

        Args:
            sentences: valid UTF-8 without nulls; may be a slice of a larger array.

        Raises:
            SentenceTooLongError: if a sentence has millions of bytes that cannot be cut.
        """
        model = self._model
        if model is None:
            return self._library.encode(sentences)
        values, offsets = (read_only(array) for array in model.read_text(sentences))
        num_bytes = int(offsets[-1] - offsets[0])
        state = new_state(int(offsets[0]))
        fits = num_bytes <= _BUFFER_BYTES
        ids, bits = self._buffers if fits else self._new_buffers(num_bytes)
        bits[0] = 0
        token_offsets = np.zeros(len(offsets), np.int64)
        rest = (self._cache, self._queue, state, ids, bits, token_offsets)
        while (stop := model.kernel(values, offsets, *model.tables, *rest)) != DONE:
            if stop == UNSEEN_CHARACTER:
                model.characters.learn_page(int(state[DETAIL]))
            elif stop == LONG_WORD:
                model.allow_word(int(state[DETAIL]), int(state[TEXT]))
            elif stop == NEEDS_LIBRARY:
                self._encode_chunk(values, state, ids, bits)
        num_tokens = int(state[NUM_TOKENS])
        return Encoded(
            ids=ids[:num_tokens].copy(),
            offsets=token_offsets,
            word_starts=boolean_array(bits[: num_tokens // 64 + 1].copy(), num_tokens),
        )

    def _new_buffers(self, num_bytes: int) -> tuple[Ids, npt.NDArray[np.uint64]]:
        """Return uninitialized memory for the ids and word starts of ``num_bytes`` of text.

        Each token has at least one byte, which the models ensure, and a slot of the cache is copied
        whole.
        """
        size = num_bytes + LONG_SPILL
        return np.empty(size, self._id_dtype), np.empty(size // 64 + 3, np.uint64)

    def _encode_chunk(
        self,
        values: npt.NDArray[np.uint8],
        state: npt.NDArray[np.int64],
        ids: Ids,
        bits: npt.NDArray[np.uint64],
    ) -> None:
        """Append the tokens of a chunk that only the library can encode, and move past it."""
        start, stop = int(state[POSITION]), int(state[DETAIL])
        text = values[start:stop].tobytes().decode()
        found, starts = self._library.encode_text(text, int(state[TEXT]))
        assert len(found) <= stop - start  # noqa: S101  the buffers have room for a token a byte
        append_tokens(found, starts, int(state[NUM_TOKENS]), ids, bits)
        state[NUM_TOKENS] += len(found)
        state[POSITION] = stop
