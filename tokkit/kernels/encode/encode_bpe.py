r"""Byte-level BPE: texts to ids, by split patterns and merges.

    chunk    up to white space, with a space before it    " don't,"
    piece    of the chunk, by the patterns                " don" | "'t" | ","
    tokens   of the pieces, by merges

A chunk ends where every text can be cut, so it splits into the same pieces everywhere. Pieces that are
not in the cache are cut into parts if they end with a character of three bytes; see ``word_parts``.
To look up parts in place of whole pieces was slower, on text that comes again: parts of Japanese are
twice as many as pieces, and each waits for memory.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Ids, Int64, UInt64
from tokkit.kernels.encode.bpe_lookup import BpeLookup, encode_word
from tokkit.kernels.encode.bpe_merges import Merges, WordBuffers, merge_word
from tokkit.kernels.encode.chunk_queue import (
    LONG_CHUNK,
    PUNCTUATION,
    Queue,
    Texts,
    find_record_ahead,
    is_long,
    queue_stretches,
)
from tokkit.kernels.encode.chunks import (
    DONE,
    LONG_WORD,
    NUM_TOKENS,
    UNSEEN_CHARACTER,
    Chunk,
    Progress,
    append_added,
    append_known,
    process_chunks,
)
from tokkit.kernels.encode.split_text import Splitter, next_piece, start_pieces
from tokkit.kernels.encode.tries import NO_TOKEN, Cells, find_longest
from tokkit.kernels.encode.word_cache import (
    CHUNK,
    PART,
    PIECE,
    UNKNOWN,
    TokenBuffer,
    WordCache,
    append_long,
    append_starts,
    drop_starts,
    put_word,
)
from tokkit.kernels.encode.word_parts import NO_SYMBOL, Neighbors, find_part, has_parts
from tokkit.kernels.encode.word_queue import (
    NUM_QUEUED,
    append_queued,
    append_word,
    fetch_queued,
    queue_word,
    queued_word,
)
from tokkit.kernels.jit import kernel, splice


class BpeTables(NamedTuple):
    """The tables of a byte-level BPE tokenizer.

    Attributes:
        splitter: how texts are cut into pieces.
        whole: tokens that a piece becomes as a whole, without merging.
        merges: the merges.
        lookup: tables to encode words without merging; empty where the merges do not allow that.
        neighbors: where pieces are cut into parts.
        buffers: memory for one word.
    """

    splitter: Splitter
    whole: Cells
    merges: Merges
    lookup: BpeLookup
    neighbors: Neighbors
    buffers: WordBuffers


@splice
def _encode_word(
    values: Bytes, start: int, stop: int, model: BpeTables, num_tokens: int, out: TokenBuffer
) -> int:
    """Append the tokens of bytes that are encoded by themselves; returns the number of tokens."""
    if model.lookup.parts.size:
        end = encode_word(values, start, stop, model.lookup, model.buffers, num_tokens, out.ids)
    else:
        end = merge_word(values, start, stop, model.merges, model.buffers, num_tokens, out.ids)
    for token in range(num_tokens, end + 1, 63):
        append_starts(out.starts, token, np.uint64(0))
    return end


@splice
def _encode_piece(
    values: Bytes,
    start: int,
    stop: int,
    model: BpeTables,
    cache: WordCache,
    num_tokens: int,
    out: TokenBuffer,
) -> int:
    """Append the tokens of a piece, part by part, and cache these; returns the number of tokens."""
    first = num_tokens
    token, position = find_longest(model.whole, values, start, stop)
    if position == stop and token != NO_TOKEN:
        out.ids[num_tokens] = token
        append_starts(out.starts, num_tokens, np.uint64(1))
        return num_tokens + 1
    is_cut = has_parts(values, start, stop)
    position = start
    while position < stop:
        end, symbol = stop, NO_SYMBOL
        if is_cut:
            end, symbol = find_part(values, position, stop, model.lookup, model.neighbors)
        if symbol != NO_SYMBOL:
            out.ids[num_tokens] = symbol
            append_starts(out.starts, num_tokens, np.uint64(0))
            num_tokens += 1
        elif end - position == stop - start:
            num_tokens = _encode_word(values, position, end, model, num_tokens, out)
        else:
            last = append_word(cache, values, position, end, PART, num_tokens, out)
            if last == UNKNOWN:
                last = _encode_word(values, position, end, model, num_tokens, out)
                put_word(cache, values, position, end, PART, num_tokens, last, out)
            num_tokens = last
        position = end
    if first < num_tokens:
        out.starts[first >> 6] |= np.uint64(1) << np.uint64(first & 63)
    return num_tokens


@splice
def _append_chunk(
    tables: tuple[BpeTables, WordCache, TokenBuffer], values: Bytes, chunk: Chunk, num_tokens: int
) -> Progress:
    """Append the tokens of a chunk, piece by piece, and cache them; see ``process_chunks``.

    A chunk of the same bytes as a piece may be several pieces, and a part of a piece may become
    other tokens than a piece, so their keys differ.
    """
    model, cache, out = tables
    start, stop = chunk.start, chunk.stop
    if is_long(chunk.place):
        last = append_long(cache, values, start, stop, CHUNK, chunk.first, num_tokens, out)
        if last != UNKNOWN:
            return last, stop, DONE, 0
    before = num_tokens
    start_pieces(model.splitter, start)
    end = start
    while end < stop:
        count = 0
        while end < stop and count < NUM_QUEUED:
            position, end, unseen = next_piece(values, end, stop, model.splitter)
            if unseen >= 0:
                return before, start, UNSEEN_CHARACTER, unseen
            if end - position > model.buffers.ids.size:
                return before, start, LONG_WORD, end - position
            if position < end:
                queue_word(cache, values, position, end, PIECE, count)
                count += 1
        fetch_queued(cache, count)
        for index in range(count):
            last = append_queued(cache, values, PIECE, index, num_tokens, out)
            if last == UNKNOWN:
                first, limit = queued_word(cache, index)
                last = _encode_piece(values, first, limit, model, cache, num_tokens, out)
                if first != start or limit != stop:  # else it is cached as a chunk
                    put_word(cache, values, first, limit, PIECE, num_tokens, last, out)
            num_tokens = last
    if stop - start <= LONG_CHUNK:
        put_word(cache, values, start, stop, CHUNK, before, num_tokens, out)
    return num_tokens, stop, DONE, 0


@kernel
def encode_bpe(
    values: Bytes,
    offsets: Int64,
    added: Int64,
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
        added: see ``Texts``.
        model: the tokenizer.
        cache: the cache of this tokenizer.
        queue: memory for this call.
        state: see ``chunks``; updated.
        out_ids: room for as many ids as the texts have bytes, and ``SPARE_IDS`` more.
        out_starts: uint64, a bit for each of ``out_ids`` and 128 more, set where a word starts; see
            ``word_cache``.
        out_offsets: int64 ``[num_texts + 1]``, into ``out_ids``; the first is set already.

    Returns:
        ``DONE``, ``UNSEEN_CHARACTER`` or ``LONG_WORD``.
    """
    drop_starts(out_starts, state[NUM_TOKENS])
    texts = Texts(
        values,
        offsets,
        added,
        model.splitter.rules,
        PUNCTUATION,
        has_marks=True,
        longest=LONG_CHUNK,
    )
    tables = (model, cache, TokenBuffer(out_ids, out_starts))
    return process_chunks(
        queue_stretches,
        append_known,
        _append_chunk,
        append_added,
        find_record_ahead,
        texts,
        tables,
        queue,
        state,
        out_offsets,
    )
