"""Texts in, token ids and word starts out, as the tokenizer's own library gives them.

    texts        "Unaffable, yes. No."
    ends         15, 19
    ids          una ##ffa ##ble , yes . no .
    offsets      0                       6    8
    word_starts  1   0     0     1 1   1 1  1

A text may be a document of several sentences. Where these end changes none of its ids: it is only
counted how many tokens begin before. Text never becomes a special token: ``[SEP]`` in a text is
three words. Our kernels encode for most tokenizers, and the tokenizer's library for what they do not
know (``choose_kernel``).

A kernel runs over a batch until it is done, or until it meets what it cannot do alone: a character
that is not in its table yet, a chunk that only the library can encode, a word that needs more
memory. The encoder provides that and calls the kernel again, which continues where it stopped.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tokkit.kernels.arrays import Ids, Int64, UInt64
from tokkit.kernels.encode import chunks
from tokkit.kernels.encode.chunk_queue import new_queue
from tokkit.kernels.encode.chunks import new_state
from tokkit.kernels.encode.cuts import count_before
from tokkit.kernels.encode.word_cache import SPARE_IDS, append_tokens, new_cache
from tokkit.shards.arrow import SpareMemory, boolean_array, id_dtype, string_buffers
from tokkit.tokenizer.bpe_model import BpeModel, byte_level_obstacles
from tokkit.tokenizer.definitions import UnsupportedError
from tokkit.tokenizer.encoded import Encoded, TextTooLongError
from tokkit.tokenizer.library_encoder import LibraryEncoder
from tokkit.tokenizer.metaspace_bpe_model import MetaspaceBpeModel
from tokkit.tokenizer.metaspace_vocabulary import is_metaspace_bpe, metaspace_obstacles
from tokkit.tokenizer.segments import Cuts, Segments, cut_at_ends
from tokkit.tokenizer.sentencepiece_model import PieceProcessor
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall
from tokkit.tokenizer.unigram_model import UnigramModel, is_unigram, unigram_obstacles
from tokkit.tokenizer.wordpiece_model import WordPieceModel, wordpiece_obstacles

# Binary logarithms of the cache's sizes: 16 MB for short keys, 4 and up to 64 MB for long ones, and up
# to 50 MB more for chunks of more than three tokens. English prose runs at 206 MB/s a core with 4 MB
# for short keys, at 257 with 8 MB, 276 with 16 MB, 304 with 32 MB; but on another machine with 32 MB
# new text ran at 160 and not 175 MB/s, and prose with Llama 3's words at 270 to 320, not 290 to 340.
_SHORT_BITS = 18
_INDEX_BITS = 19
_ARENA_BITS = 23
_BUFFER_BYTES = 32 << 20
_FIRST_BYTES = 1 << 10

_Model = WordPieceModel | BpeModel | MetaspaceBpeModel | UnigramModel


class _Candidate(NamedTuple):
    """A kernel: the tokenizers that it is for, what it does not support of them, and its tables."""

    is_for: Callable[[Tokenizer], bool]
    find_obstacles: Callable[[Tokenizer], Iterator[str]]
    make_model: Callable[[Tokenizer], _Model]


# The first whose ``is_for`` is true is used.
_KERNELS = {
    "wordpiece": _Candidate(lambda t: t.kind == "wordpiece", wordpiece_obstacles, WordPieceModel),
    "metaspace-bpe": _Candidate(is_metaspace_bpe, metaspace_obstacles, MetaspaceBpeModel),
    "bpe": _Candidate(lambda t: t.kind == "bpe", byte_level_obstacles, BpeModel),
    "unigram": _Candidate(is_unigram, unigram_obstacles, UnigramModel),
}


class KernelChoice(NamedTuple):
    """The answer to which kernel encodes.

    Attributes:
        name: ``wordpiece``, ``bpe``, ``metaspace-bpe``, ``unigram``, or None for the tokenizer's own
            library.
        obstacle: the feature that no kernel supports, as a phrase; empty with a kernel.
    """

    name: str | None
    obstacle: str = ""


@lru_cache(maxsize=1)
def choose_kernel(tokenizer: Tokenizer) -> KernelChoice:
    """Return which kernel gives the ids of a tokenizer."""
    return recall(tokenizer.digest, "kernel", lambda: _choose(tokenizer))


def _choose(tokenizer: Tokenizer) -> KernelChoice:
    if isinstance(tokenizer.processor, PieceProcessor):
        return KernelChoice(None, "pieces that are looked up in another vocabulary")
    for name, kernel in _KERNELS.items():
        if kernel.is_for(tokenizer):
            try:
                obstacle = next(kernel.find_obstacles(tokenizer), "")
            except UnsupportedError as error:
                obstacle = str(error)
            return KernelChoice(None if obstacle else name, obstacle)
    return KernelChoice(None, f"a {tokenizer.kind} model")


def _without_added(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer for parts of texts, in which all added tokens have been found."""
    rows = tokenizer.definition.get("added_tokens", ())
    if all(row["special"] for row in rows):
        return tokenizer
    added = [{**row, "special": True} for row in rows]
    return replace(tokenizer, definition={**tokenizer.definition, "added_tokens": added}, digest="")


class Encoder:
    """Encodes batches of texts; each thread needs one of its own.

    Args:
        tokenizer: defines the ids.

    Attributes:
        counters: int64 hits and misses of the kernel's cache; see
            ``tokkit.kernels.encode.word_cache``.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        kernel = choose_kernel(tokenizer).name
        self._id_dtype = id_dtype(tokenizer.vocab_size)
        self._library = LibraryEncoder(tokenizer if kernel is None else _without_added(tokenizer))
        self._model = None if kernel is None else _KERNELS[kernel].make_model(tokenizer)
        self._cache = new_cache(_SHORT_BITS, _INDEX_BITS, _ARENA_BITS)
        self._queue = new_queue()
        # Writing to the same memory again is a tenth faster than writing to new pages.
        self._buffers = self._new_buffers(_BUFFER_BYTES)
        self._memory = SpareMemory(_BUFFER_BYTES)
        self.counters: Int64 = self._cache.counters

    @property
    def uses_library(self) -> bool:
        """Whether no kernel knows the tokenizer."""
        return self._model is None

    def encode(self, texts: pa.LargeStringArray, ends: Int64 | None = None) -> Encoded:
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
        segments = model.read_texts(*string_buffers(texts), ends)
        cuts = None
        if segments.ends is not None and len(segments.ends) > len(texts):
            segments, cuts = cut_at_ends(segments, model.rules)
        values, bounds, added = segments.values, segments.bounds, segments.added
        size = int(bounds[-1] - bounds[0])
        state = new_state(int(bounds[0]))
        fits = size <= _BUFFER_BYTES
        ids, bits = self._buffers if fits else self._new_buffers(size)
        bits[0] = 0
        counts = np.zeros(len(bounds), np.int64)
        rest = (self._cache, self._queue, state, ids, bits, counts)
        while (stop := model.kernel(values, bounds, added, *model.tables, *rest)) != chunks.DONE:
            self._help(model, stop, segments, state, (ids, bits))
        num_tokens = int(state[chunks.NUM_TOKENS])
        if cuts is not None:
            counts = self._count_tokens(segments, cuts, ids, counts)
        elif segments.firsts is not None:
            counts = counts[segments.firsts]
        # Memory for a long text is not used again: to copy its ids would take hundreds of megabytes.
        ids, bits = ids[:num_tokens], bits[: num_tokens // 64 + 1]
        if fits:
            copy: Ids = self._memory.take(ids.nbytes).view(ids.dtype)
            copy[:] = ids
            ids, bits = copy, bits.copy()
        return Encoded(ids, counts, boolean_array(bits, num_tokens))

    def _help(
        self, model: _Model, stop: int, segments: Segments, state: Int64, out: tuple[Ids, UInt64]
    ) -> None:
        """Handle what made the kernel return before it was done."""
        if stop == chunks.UNSEEN_CHARACTER and isinstance(model, WordPieceModel | BpeModel):
            model.characters.learn_page(int(state[chunks.DETAIL]))
        elif stop == chunks.NEEDS_LIBRARY:
            self._encode_chunk(segments, state, *out)
        elif (num_bytes := int(state[chunks.DETAIL])) <= model.longest_word:
            model.make_room(num_bytes)
        elif not model.library_continues:
            text = segments.find_text(int(state[chunks.POSITION]))
            raise TextTooLongError(num_bytes, text)
        else:
            state[chunks.DETAIL] = state[chunks.CHUNK_STOP]
            self._encode_chunk(segments, state, *out)

    def _new_buffers(self, num_bytes: int) -> tuple[Ids, UInt64]:
        """Return uninitialized memory for the ids and word starts of ``num_bytes`` of text.

        Each token has at least one byte, which the models ensure, and a slot of the cache is copied
        whole.
        """
        size = num_bytes + SPARE_IDS
        return np.empty(size, self._id_dtype), np.empty(size // 64 + 3, np.uint64)

    def _encode_chunk(self, segments: Segments, state: Int64, ids: Ids, bits: UInt64) -> None:
        """Append the tokens of a chunk that only the library can encode, and move past it."""
        start, stop = int(state[chunks.POSITION]), int(state[chunks.DETAIL])
        num_tokens = int(state[chunks.NUM_TOKENS])
        text = segments.find_text(start)
        for found, starts in self._library.encode_within(segments.values[start:stop], text):
            assert num_tokens + len(found) <= stop - segments.bounds[0]  # noqa: S101  each has a byte
            append_tokens(found, starts, num_tokens, ids, bits)
            num_tokens += len(found)
        state[chunks.NUM_TOKENS] = num_tokens
        state[chunks.POSITION] = stop

    def _count_tokens(self, segments: Segments, cuts: Cuts, ids: Ids, counts: Int64) -> Int64:
        """Return the number of tokens that begin before each end, with a 0 in front.

        Args:
            segments: the segments.
            cuts: where the ends are among their bounds.
            ids: of all tokens.
            counts: number of tokens before each bound.
        """
        bounds, ends = segments.bounds, segments.ends
        assert self._model is not None  # noqa: S101  its kernel made the tokens
        assert ends is not None  # noqa: S101  they are in ``cuts``
        num_bytes = self._model.num_bytes
        found = np.concatenate([[0], counts[cuts.before]])
        between = np.flatnonzero(cuts.before < cuts.after)
        before = cuts.before[between]
        inner = np.full(len(between), -1)
        if num_bytes is not None:
            rows = ends[between], before, num_bytes
            count_before(ids, counts, bounds, *rows, inner)
        unknown = np.flatnonzero(inner < 0)
        firsts = np.flatnonzero(np.diff(before[unknown], prepend=-1))
        for marks in np.split(unknown, firsts)[1:]:
            place = before[marks[0]]
            num_tokens = int(counts[place + 1] - counts[place])
            begins = self._find_begins(segments, place, num_tokens)
            inner[marks] = np.searchsorted(begins, ends[between[marks]] - bounds[place])
        found[between + 1] += inner
        return found

    def _find_begins(self, segments: Segments, place: int, num_tokens: int) -> Int64:
        """Return the byte at which each token of a segment begins: int64 ``[num_tokens]``."""
        if segments.added.size and segments.added[place] >= 0:
            return np.zeros(1, np.int64)
        data = segments.values[segments.bounds[place] : segments.bounds[place + 1]]
        if isinstance(self._model, UnigramModel | MetaspaceBpeModel):
            return self._model.find_begins(data)
        size = _FIRST_BYTES if num_tokens == 1 else len(data)  # an unknown word may have 100 MB
        while True:
            while size < len(data) and data[size] & 0xC0 == 0x80:
                size += 1
            begins = self._library.find_begins(data[:size])
            if begins.size or size >= len(data):
                return begins[:num_tokens]
            size *= 2
