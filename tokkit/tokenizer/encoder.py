"""Texts in, token ids and word starts out, as the tokenizer's own library gives them.

    texts        "Unaffable, yes. No."
    ends         15, 19
    ids          una ##ffa ##ble , yes . no .
    offsets      0                       6    8
    word_starts  1   0     0     1 1   1 1  1

A text may be a document of several sentences. Where these end changes none of its ids: it is only
counted how many tokens begin before. Text never becomes a special token: ``[SEP]`` in a text is
three words. BERT's and GPT-2's tokenizers are encoded by our kernels, others by their library.

A kernel runs over a batch until it is done, or until it meets what it cannot do alone: a character
that is not in its table yet, a chunk that only the library can encode, a word that needs more
memory. The encoder provides that and calls the kernel again, which continues where it stopped.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.kernels.encode.chunks import (
    CHUNK_STOP,
    DETAIL,
    DONE,
    NEEDS_LIBRARY,
    NUM_TOKENS,
    POSITION,
    UNSEEN_CHARACTER,
    new_queue,
    new_state,
)
from tokkit.kernels.encode.cuts import count_before, find_cuts
from tokkit.kernels.encode.word_cache import LONG_SPILL, append_tokens, new_cache
from tokkit.shards.arrow import boolean_array, id_dtype, read_only
from tokkit.tokenizer.bpe_model import BpeModel
from tokkit.tokenizer.encoded import Encoded, Ids
from tokkit.tokenizer.kernel_choice import choose_kernel
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

_Bits = npt.NDArray[np.uint64]
_Bytes = npt.NDArray[np.uint8]
_Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class _Cuts:
    """Where texts are cut so that each end of a sentence is at a cut or between two.

    Attributes:
        bounds: int64 ``[num_cuts + 1]``, all cuts and the start of the first text, ascending.
        before: int64 ``[num_ends]``, index in ``bounds`` of the last cut up to each end.
        after: int64 ``[num_ends]``, index of the first cut from each end on.
    """

    bounds: _Int64s
    before: _Int64s
    after: _Int64s


class Encoder:
    """Encodes batches of texts; each thread needs one of its own.

    Args:
        tokenizer: defines the ids.
        longest_word: most bytes of a word in the kernel of byte-level BPE; None for 4 MB.

    Attributes:
        counters: int64 hits and misses of the kernel's cache; see
            ``tokkit.kernels.encode.word_cache``.
    """

    def __init__(self, tokenizer: Tokenizer, *, longest_word: int | None = None) -> None:
        kernel = choose_kernel(tokenizer).name
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
        self.counters: _Int64s = self._cache.counters

    def encode(self, texts: pa.LargeStringArray, ends: _Int64s | None = None) -> Encoded:
        """Encode texts, in order.

        Args:
            texts: valid UTF-8 without nulls; may be a slice of a larger array.
            ends: int64 ``[num_sentences]``, where sentences end in the value buffer of ``texts``,
                ascending; the end of each text is among them, and no text is empty. None if each
                text is one sentence.

        Raises:
            TextTooLongError: if a text has millions of bytes that cannot be cut.
        """
        model = self._model
        if model is None:
            return self._library.encode(texts, ends)
        values, offsets, ends = model.read_text(texts, ends)
        values, offsets = read_only(values), read_only(offsets)
        cuts = None
        if ends is not None and len(ends) > len(texts):
            cuts = _find_cuts(model, values, offsets, ends)
        bounds = offsets if cuts is None else cuts.bounds
        num_bytes = int(offsets[-1] - offsets[0])
        state = new_state(int(offsets[0]))
        fits = num_bytes <= _BUFFER_BYTES
        ids, bits = self._buffers if fits else self._new_buffers(num_bytes)
        bits[0] = 0
        token_offsets = np.zeros(len(bounds), np.int64)
        rest = (self._cache, self._queue, state, ids, bits, token_offsets)
        while (stop := model.kernel(values, read_only(bounds), *model.tables, *rest)) != DONE:
            if stop == UNSEEN_CHARACTER:
                model.characters.learn_page(int(state[DETAIL]))
            elif stop == NEEDS_LIBRARY:
                self._encode_chunk(values, offsets, state, ids, bits)
            elif not model.allow_word(int(state[DETAIL])):
                state[DETAIL] = state[CHUNK_STOP]
                self._encode_chunk(values, offsets, state, ids, bits)
        num_tokens = int(state[NUM_TOKENS])
        if ends is not None and cuts is not None:
            token_offsets = self._count_tokens(values, ends, cuts, ids, token_offsets)
        return Encoded(
            ids=ids[:num_tokens].copy(),
            offsets=token_offsets,
            word_starts=boolean_array(bits[: num_tokens // 64 + 1].copy(), num_tokens),
        )

    def _new_buffers(self, num_bytes: int) -> tuple[Ids, _Bits]:
        """Return uninitialized memory for the ids and word starts of ``num_bytes`` of text.

        Each token has at least one byte, which the models ensure, and a slot of the cache is copied
        whole.
        """
        size = num_bytes + LONG_SPILL
        return np.empty(size, self._id_dtype), np.empty(size // 64 + 3, np.uint64)

    def _encode_chunk(
        self, values: _Bytes, offsets: _Int64s, state: _Int64s, ids: Ids, bits: _Bits
    ) -> None:
        """Append the tokens of a chunk that only the library can encode, and move past it."""
        start, stop = int(state[POSITION]), int(state[DETAIL])
        text = int(np.searchsorted(offsets, start, "right")) - 1
        num_tokens = int(state[NUM_TOKENS])
        for found, starts in self._library.encode_within(values[start:stop], text):
            assert num_tokens + len(found) <= stop - offsets[0]  # noqa: S101  a token has a byte
            append_tokens(found, starts, num_tokens, ids, bits)
            num_tokens += len(found)
        state[NUM_TOKENS] = num_tokens
        state[POSITION] = stop

    def _count_tokens(
        self,
        values: _Bytes,
        ends: _Int64s,
        cuts: _Cuts,
        ids: Ids,
        token_offsets: _Int64s,
    ) -> _Int64s:
        """Return the number of tokens that begin before each end, with a 0 in front."""
        counts = np.concatenate([[0], token_offsets[cuts.before]])
        num_bytes = None if self._model is None else self._model.num_bytes
        between = np.flatnonzero(cuts.before < cuts.after)
        if num_bytes is not None:
            found = np.empty(len(between), np.int64)
            count_before(
                ids,
                read_only(token_offsets),
                read_only(cuts.bounds),
                read_only(ends[between]),
                read_only(cuts.before[between]),
                read_only(num_bytes),
                found,
            )
            counts[between + 1] += found
            return counts
        before = cuts.before[between]
        firsts = np.flatnonzero(np.diff(before, prepend=-1))
        for place, marks in zip(
            before[firsts].tolist(), np.split(between, firsts)[1:], strict=True
        ):
            start, stop = cuts.bounds[place : place + 2].tolist()
            begins = self._library.find_begins(values[start:stop])
            counts[marks + 1] += np.searchsorted(begins, ends[marks] - start)
        return counts


def _find_cuts(
    model: WordPieceModel | BpeModel, values: _Bytes, offsets: _Int64s, ends: _Int64s
) -> _Cuts:
    before = np.empty(len(ends), np.int64)
    after = np.empty(len(ends), np.int64)
    find_cuts(values, offsets, read_only(ends), model.rules, before, after)
    if np.array_equal(before, after):
        places = np.arange(1, len(ends) + 1)
        return _Cuts(np.concatenate([offsets[:1], ends]), places, places)
    # Both are nearly sorted, which this sort makes use of; numpy.unique hashes first.
    bounds = np.sort(np.concatenate([offsets[:1], before, after]), kind="stable")
    bounds = bounds[np.flatnonzero(np.diff(bounds, prepend=-1))]
    return _Cuts(bounds, np.searchsorted(bounds, before), np.searchsorted(bounds, after))
