r"""Byte-level BPE: texts to ids, by GPT-2's split pattern and merges.

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+

    chunk    up to white space, with a space before it    " don't,"
    piece    a match of the pattern                       " don" | "'t" | ","
    tokens   of the pieces, by merges

No match extends from something else into white space, so a chunk splits into the same pieces
everywhere. The exception is a chunk that ends with white space of several bytes, which
belongs together with what follows. Such chunks are not cached.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Ids, Int64, UInt64
from tokkit.kernels.encode.bpe_lookup import BpeLookup, encode_word
from tokkit.kernels.encode.bpe_merges import Merges, WordBuffers, merge_word
from tokkit.kernels.encode.chunks import (
    DONE,
    LONG_WORD,
    NO_BUCKET,
    NUM_TOKENS,
    SPACE,
    UNSEEN,
    UNSEEN_CHARACTER,
    Chunk,
    Progress,
    Queue,
    Texts,
    append_known,
    process_chunks,
    queue_spaced_words,
)
from tokkit.kernels.encode.word_cache import (
    SHORT_KEY,
    UNKNOWN,
    TokenBuffer,
    WordCache,
    append_starts,
    append_word,
    drop_starts,
    put_short,
    put_word,
)
from tokkit.kernels.jit import tuple_kernel, tuple_splice
from tokkit.kernels.memory import decode_character, signed

# Classes of characters, besides ``UNSEEN`` and ``SPACE``.
LETTER = 1
NUMBER = 2
OTHER = 4
DIGIT = 5  # a piece of its own, where the tokenizer splits digits

_BLANK = 32
_APOSTROPHE = 39
_D, _E, _L, _M, _R, _S, _T, _V = (ord(letter) for letter in "delmrstv")


class Classes(NamedTuple):
    """The classes of code points in the split pattern.

    Attributes:
        classes: uint8 ``[0x110000]``.
        is_space: bool ``[256]``: bytes below 33 whose class is ``SPACE``.
    """

    classes: Bytes
    is_space: Bools


class BpeTables(NamedTuple):
    """The tables of a byte-level BPE tokenizer.

    Attributes:
        classes: of characters.
        merges: the merges.
        lookup: tables to encode words without merging; empty where the merges do not allow that.
        buffers: memory for one word.
    """

    classes: Classes
    merges: Merges
    lookup: BpeLookup
    buffers: WordBuffers


@tuple_splice
def _find_contraction(values: Bytes, start: int, stop: int) -> int:
    """Return where the contraction with an apostrophe at ``start`` ends, or -1."""
    first = values[start + 1] if start + 1 < stop else 0
    second = values[start + 2] if start + 2 < stop else 0
    if first == _S or first == _T or first == _M or first == _D:
        return start + 2
    if (second == _E and (first == _R or first == _V)) or (second == _L and first == _L):
        return start + 3
    return -1


@tuple_splice
def find_piece(values: Bytes, start: int, stop: int, classes: Bytes) -> tuple[int, int]:
    """Find the piece that begins at ``start``, in text that ends at ``stop``.

    Returns:
        Its end and its class; or a code point that the table does not know, and ``UNSEEN``.
    """
    code, size = decode_character(values, start)
    kind = classes[code]
    position = start + size
    if code == _APOSTROPHE:
        end = _find_contraction(values, start, stop)
        if end >= 0:
            return end, signed(OTHER)
    if code == _BLANK and position < stop:
        code, size = decode_character(values, position)
        kind = classes[code]
        if kind == DIGIT:
            return position, signed(OTHER)
        if kind != SPACE:
            position += size
    if kind == DIGIT:
        return position, signed(DIGIT)
    last = start
    while kind != UNSEEN and position < stop:
        code, size = decode_character(values, position)
        other = classes[code]
        if other == UNSEEN:
            kind = other
        if other != kind:
            break
        last = position
        position += size
    if kind == UNSEEN:
        return code, UNSEEN
    if kind == SPACE and position < stop and last > start:
        position = last  # the last white space before something else is another piece
    return position, signed(kind)


@tuple_splice
def _encode_piece(
    values: Bytes, start: int, stop: int, model: BpeTables, num_tokens: int, out: TokenBuffer
) -> int:
    """Append the tokens of a piece; returns the new number of tokens."""
    if model.lookup.parts.size:
        end = encode_word(values, start, stop, model.lookup, model.buffers, num_tokens, out.ids)
    else:
        end = merge_word(values, start, stop, model.merges, model.buffers, num_tokens, out.ids)
    if end > num_tokens:
        append_starts(out.starts, num_tokens, np.uint64(1))
    for token in range(num_tokens + 1, end + 1, 63):
        append_starts(out.starts, token, np.uint64(0))
    return end


@tuple_splice
def _append_chunk(
    tables: tuple[BpeTables, WordCache, TokenBuffer], values: Bytes, chunk: Chunk, num_tokens: int
) -> Progress:
    """Append the tokens of a chunk, piece by piece, and cache them; see ``process_chunks``."""
    model, cache, out = tables
    start, stop = chunk.start, chunk.stop
    is_kept = chunk.bucket != NO_BUCKET
    before = num_tokens
    position = start
    while position < stop:
        end, kind = find_piece(values, position, chunk.text_stop, model.classes.classes)
        if kind == UNSEEN:
            return before, start, UNSEEN_CHARACTER, end
        if end - position > model.buffers.ids.size:
            return before, start, LONG_WORD, end - position
        is_space = kind == SPACE
        is_plain = True
        if is_space:
            for place in range(position, end):
                is_plain &= values[place] < 0x80
        last = UNKNOWN
        if is_plain:
            last = append_word(cache, values, position, end, num_tokens, out)
        if last == UNKNOWN:
            last = _encode_piece(values, position, end, model, num_tokens, out)
            if is_plain:
                put_word(cache, values, position, end, num_tokens, last, out)
        num_tokens = last
        is_kept &= not is_space or (is_plain and end <= stop)
        is_kept &= end - position < stop - start  # else it is cached as a piece
        position = end
    if is_kept and stop - start <= SHORT_KEY:
        put_short(cache, values, start, stop, before, num_tokens, out)
    return num_tokens, position, DONE, 0


@tuple_kernel
def encode_bpe(
    values: Bytes,
    offsets: Int64,
    model: BpeTables,
    cache: WordCache,
    queue: Queue,
    state: Int64,
    out_ids: Ids,
    out_starts: UInt64,
    out_offsets: Int64,
) -> int:
    """Encode texts, from where ``state`` stands.

    Args:
        values: uint8, the texts in valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        model: the tokenizer.
        cache: the cache of this tokenizer.
        queue: memory for this call.
        state: see ``chunks``; updated.
        out_ids: room for as many ids as the texts have bytes, and 32 more.
        out_starts: uint64, a bit for each of ``out_ids`` and 128 more, set where a word starts; see
            ``word_cache``.
        out_offsets: int64 ``[num_texts + 1]``, into ``out_ids``; the first is set already.

    Returns:
        ``DONE``, ``UNSEEN_CHARACTER`` or ``LONG_WORD``.
    """
    drop_starts(out_starts, state[NUM_TOKENS])
    texts = Texts(values, offsets, model.classes.is_space)
    tables = (model, cache, TokenBuffer(out_ids, out_starts))
    return process_chunks(
        queue_spaced_words, append_known, _append_chunk, texts, tables, queue, state, out_offsets
    )
