r"""sentencepiece's byte-pair encoding, in which U+2581 marks spaces: texts to ids.

To the library a whole text is one word. But merges never go over two characters that stand next to
each other in no token, so the text can be cut there, and what lies between is encoded by itself:

    chunk    up to a run of spaces, with the run before it
    piece    a part of a chunk whose neighboring characters are neighbors in some token
    tokens   of the pieces, by merges

    text     It's   a cat.\n                here spaces are in place of U+2581
    chunks   It's |   a |  cat. | \n        pieces  It | 's |   a |  cat | . | \n

Chunks are looked up in the cache, those that are new piece by piece. Text without spaces is looked
up by pieces: in Japanese they have two characters on average. A character that is no token is a
piece of its own, and becomes its bytes or the unknown token.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Ids, Int64, UInt64
from tokkit.kernels.encode.bpe_lookup import BpeLookup, encode_word
from tokkit.kernels.encode.bpe_merges import NO_ID, Merges, WordBuffers, merge_characters
from tokkit.kernels.encode.chunk_queue import (
    LONG_CHUNK,
    WHITE_SPACE,
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
    Chunk,
    Progress,
    append_added,
    append_known,
    process_chunks,
)
from tokkit.kernels.encode.cut_rules import CutRules
from tokkit.kernels.encode.word_cache import (
    CHUNK,
    UNKNOWN,
    TokenBuffer,
    WordCache,
    append_long,
    append_starts,
    drop_starts,
    put_word,
)
from tokkit.kernels.encode.word_parts import Neighbors, are_neighbors
from tokkit.kernels.encode.word_queue import append_word
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import decode_character, signed

_BLANK = 32


class MetaspaceTables(NamedTuple):
    """The tables of a tokenizer, in whose text spaces are in place of U+2581.

    Attributes:
        neighbors: which characters are neighbors in a token.
        begins_word: bool ``[vocab_size]``, whether a token begins with a space.
        rules: where texts are cut: before runs of spaces, unless these are neighbors of the
            character before, and around bytes below 33 that are no neighbors of other characters.
        unknown_id: id of a character that is no token, or ``NO_ID`` if it becomes its bytes.
        fuses_unknown: whether characters that are no tokens become one token together.
        merges: the merges, and the ids of bytes.
        lookup: tables to encode words without merging; empty where the merges do not allow that.
        merges_spaces: whether words with two spaces in a row must be merged in any case.
        buffers: memory for one word.
    """

    neighbors: Neighbors
    begins_word: Bools
    rules: CutRules
    unknown_id: int
    fuses_unknown: bool
    merges: Merges
    lookup: BpeLookup
    merges_spaces: bool
    buffers: WordBuffers


@splice
def _find_piece(values: Bytes, start: int, stop: int, model: MetaspaceTables) -> tuple[int, int]:
    """Find the piece that begins at ``start``.

    Returns:
        Its end; and its id if it is one character, else ``NO_ID``.
    """
    left, size = decode_character(values, start)
    symbol = signed(model.neighbors.symbols[left]) - 1
    end = start + size
    if symbol == NO_ID:
        return end, NO_ID
    while end < stop:
        right, size = decode_character(values, end)
        if not are_neighbors(left, right, model.neighbors):
            break
        if model.neighbors.symbols[right] == 0:
            break
        symbol = NO_ID
        left = right
        end += size
    return end, symbol


@inline
def _append_unknown(
    values: Bytes, start: int, stop: int, model: MetaspaceTables, num_tokens: int, out: TokenBuffer
) -> int:
    """Append the tokens of a character that is none; returns the new number of tokens."""
    if model.unknown_id != NO_ID:
        out.ids[num_tokens] = model.unknown_id
        append_starts(out.starts, num_tokens, np.uint64(0))
        return num_tokens + 1
    for place in range(start, stop):
        out.ids[num_tokens] = model.merges.byte_ids[values[place]]
        append_starts(out.starts, num_tokens, np.uint64(0))
        num_tokens += 1
    return num_tokens


@inline
def _encode_piece(
    values: Bytes, start: int, stop: int, model: MetaspaceTables, num_tokens: int, out: TokenBuffer
) -> int:
    """Append the tokens of a piece; returns the new number of tokens."""
    merges = model.lookup.parts.size == 0
    if model.merges_spaces:
        for place in range(start + 1, stop):
            merges |= values[place - 1] == _BLANK and values[place] == _BLANK
    if merges:
        end = merge_characters(
            values,
            start,
            stop,
            model.neighbors.symbols,
            model.merges,
            model.buffers,
            num_tokens,
            out.ids,
        )
    else:
        end = encode_word(values, start, stop, model.lookup, model.buffers, num_tokens, out.ids)
    for token in range(num_tokens, end):
        append_starts(out.starts, token, np.uint64(model.begins_word[out.ids[token]]))
    return end


@splice
def _append_chunk(
    tables: tuple[MetaspaceTables, WordCache, TokenBuffer],
    values: Bytes,
    chunk: Chunk,
    num_tokens: int,
) -> Progress:
    """Append the tokens of a chunk, piece by piece, and cache them; see ``process_chunks``."""
    model, cache, out = tables
    start, stop = chunk.start, chunk.stop
    if is_long(chunk.place):
        last = append_long(cache, values, start, stop, CHUNK, chunk.first, num_tokens, out)
        if last != UNKNOWN:
            return last, stop, DONE, 0
    before = num_tokens
    position = start
    is_kept = stop - start <= LONG_CHUNK
    follows_unknown = False
    while position < stop:
        end, symbol = _find_piece(values, position, stop, model)
        if end - position > model.buffers.ids.size:
            return num_tokens, position, LONG_WORD, end - position
        first = signed(values[position])
        if symbol != NO_ID:
            out.ids[num_tokens] = symbol
            append_starts(out.starts, num_tokens, np.uint64(first == _BLANK))
            num_tokens += 1
            follows_unknown = False
        elif model.neighbors.symbols[decode_character(values, position)[0]] == 0:
            if not (model.fuses_unknown and follows_unknown):
                num_tokens = _append_unknown(values, position, end, model, num_tokens, out)
            follows_unknown = True
        else:
            last = append_word(cache, values, position, end, CHUNK, num_tokens, out)
            if last == UNKNOWN:
                last = _encode_piece(values, position, end, model, num_tokens, out)
                put_word(cache, values, position, end, CHUNK, num_tokens, last, out)
            num_tokens = last
            is_kept &= end - position < stop - start  # else it is cached as a piece
            follows_unknown = False
        position = end
    if is_kept:
        put_word(cache, values, start, stop, CHUNK, before, num_tokens, out)
    return num_tokens, position, DONE, 0


@kernel
def encode_metaspace_bpe(
    values: Bytes,
    offsets: Int64,
    added: Int64,
    model: MetaspaceTables,
    cache: WordCache,
    queue: Queue,
    state: Int64,
    out_ids: Ids,
    out_starts: UInt64,
    out_offsets: Int64,
) -> int:
    """Encode texts, from where ``state`` stands.

    Args:
        values: uint8, the texts in valid UTF-8, with spaces in place of U+2581.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        added: int64 ``[num_texts]``, -1, or the id of the added token that a text is; empty if
            there are none.
        model: the tokenizer.
        cache: the cache of this tokenizer.
        queue: memory for this call.
        state: see ``chunks``; updated.
        out_ids: room for as many ids as the texts have bytes, and ``SPARE_IDS`` more.
        out_starts: uint64, a bit for each of ``out_ids`` and 128 more, set where a token begins
            with a space, and for the first of each text; see ``word_cache``.
        out_offsets: int64 ``[num_texts + 1]``, into ``out_ids``; the first is set already.

    Returns:
        ``DONE`` or ``LONG_WORD``.
    """
    drop_starts(out_starts, state[NUM_TOKENS])
    texts = Texts(
        values, offsets, added, model.rules, WHITE_SPACE, has_marks=False, longest=LONG_CHUNK
    )
    tables = (model, cache, TokenBuffer(out_ids, out_starts))
    reason = process_chunks(
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
    if reason == DONE:
        for text in range(offsets.size - 1):
            first = out_offsets[text]
            if first < out_offsets[text + 1]:
                out_starts[first >> 6] |= np.uint64(1) << np.uint64(first & 63)
    return reason
