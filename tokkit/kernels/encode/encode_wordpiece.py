"""WordPiece: texts to ids, by BERT's normalizer, pre-tokenizer and model.

    chunk        text between white space            "Unaffable,"
    characters   by table, one by one                u n a f f a b l e | ,
    run          WORD and NOTHING characters         unaffable
    model        longest tokens from its start       una ##ffa ##ble
    tokens       of the chunk                        una ##ffa ##ble ,

The cache knows most chunks, and most runs of the others.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Ids, Int64, UInt32, UInt64
from tokkit.kernels.encode.chunk_queue import (
    LONG_CHUNK,
    WHITE_SPACE,
    Queue,
    Texts,
    find_record_ahead,
    is_long,
    queue_words,
)
from tokkit.kernels.encode.chunks import (
    DONE,
    NEEDS_LIBRARY,
    NUM_TOKENS,
    UNSEEN_CHARACTER,
    Chunk,
    Progress,
    append_added,
    append_known,
    process_chunks,
)
from tokkit.kernels.encode.cut_rules import SINGLE, UNSEEN
from tokkit.kernels.encode.tries import BASE_SHIFT, NO_TOKEN, Cells, find_longest_below
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
from tokkit.kernels.encode.word_queue import (
    NUM_QUEUED,
    append_queued,
    fetch_queued,
    queue_id,
    queue_word,
    queued_word,
)
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import decode_character, signed, write_character

# Kinds of characters, besides those of ``cut_rules``.
NOTHING = 1  # removed
WORD = 2  # joins its neighbours into a word
CONTEXT = 5  # its normalization depends on its neighbours

SEVERAL = 1 << 31
CONTINUED = 0xFF  # no byte of UTF-8


class Characters(NamedTuple):
    """What the normalizer and the pre-tokenizer make of each code point.

    Attributes:
        kinds: uint8 ``[0x110000]``.
        meanings: uint32 ``[0x110000]``: the id of a ``SINGLE``, the normalized code point of a
            ``WORD``. If there are several code points: ``SEVERAL``, plus 16 times their place in
            ``forms``, plus their number.
        forms: uint32, code points.
        is_space: bool ``[256]``: bytes below 33 whose kind is ``SPACE``.
    """

    kinds: Bytes
    meanings: UInt32
    forms: UInt32
    is_space: Bools


class Vocabulary(NamedTuple):
    """WordPiece's model.

    Attributes:
        cells: a trie of the tokens, those that continue a word below ``CONTINUED``.
        continued: base of these; see ``find_base``.
        unknown: the id of words that cannot be made of tokens.
        max_word_chars: a word of more characters is unknown.
        word: uint8 ``[4 * max_word_chars]`` at least: memory for a word.
    """

    cells: Cells
    continued: int
    unknown: int
    max_word_chars: int
    word: Bytes


@splice
def _normalize_run(
    values: Bytes, start: int, stop: int, characters: Characters, limit: int, out_word: Bytes
) -> tuple[int, int]:
    """Write the normalized characters of a run in UTF-8, at most ``limit``.

    Returns:
        How many there are, counting on to above ``limit`` at most; and their bytes.
    """
    length = size = 0
    position = start
    while position < stop and length <= limit:
        code, code_bytes = decode_character(values, position)
        position += code_bytes
        if characters.kinds[code] == WORD:
            meaning = signed(characters.meanings[code])
            form, count = 0, 1
            if meaning >= SEVERAL:
                form, count = (meaning - SEVERAL) >> 4, meaning & 0xF
            for index in range(count):
                if length < limit:
                    part = meaning
                    if meaning >= SEVERAL:
                        part = signed(characters.forms[form + index])
                    size += write_character(out_word, size, part)
                length += 1
    return length, size


@splice
def _match_run(
    values: Bytes,
    start: int,
    stop: int,
    characters: Characters,
    vocabulary: Vocabulary,
    num_tokens: int,
    out: TokenBuffer,
) -> int:
    """Append the tokens of a run; returns the new number of tokens."""
    word, limit, cells = vocabulary.word, vocabulary.max_word_chars, vocabulary.cells
    length, size = _normalize_run(values, start, stop, characters, limit, word)
    if length == 0:
        return num_tokens
    append_starts(out.starts, num_tokens, np.uint64(1))
    first = num_tokens
    is_unknown = length > limit
    base = cells[0] >> BASE_SHIFT
    position = 0
    while position < size and not is_unknown:
        token, position = find_longest_below(cells, base, word, position, size)
        is_unknown = token == NO_TOKEN
        if not is_unknown:
            out.ids[num_tokens] = token
            num_tokens += 1
            append_starts(out.starts, num_tokens, np.uint64(0))
        base = np.uint64(vocabulary.continued)
    if is_unknown:
        out.ids[first] = vocabulary.unknown
        num_tokens = first + 1
    return num_tokens


@splice
def _append_chunk(
    tables: tuple[tuple[Characters, Vocabulary], WordCache, TokenBuffer],
    values: Bytes,
    chunk: Chunk,
    num_tokens: int,
) -> Progress:
    """Append the tokens of a chunk, run by run, and cache them; see ``process_chunks``."""
    (characters, vocabulary), cache, out = tables
    start, stop = chunk.start, chunk.stop
    if is_long(chunk.place):
        last = append_long(cache, values, start, stop, CHUNK, chunk.first, num_tokens, out)
        if last != UNKNOWN:
            return last, stop, DONE, 0
    before = num_tokens
    position = run = start
    is_run = False  # then the chunk is cached as a run
    while position < stop:
        count = 0
        while position < stop and count < NUM_QUEUED - 1:
            code, size = decode_character(values, position)
            end = position + size
            kind = characters.kinds[code]
            if kind == WORD or kind == NOTHING:
                if end == stop:
                    queue_word(cache, values, run, stop, CHUNK, count)
                    count += 1
                    is_run = run == start
                position = end
                continue
            if kind == UNSEEN:
                return before, start, UNSEEN_CHARACTER, code
            if kind == CONTEXT:
                return before, start, NEEDS_LIBRARY, stop
            if run < position:
                queue_word(cache, values, run, position, CHUNK, count)
                count += 1
            if kind == SINGLE:
                queue_id(cache, signed(characters.meanings[code]), count)
                count += 1
            position = run = end
        fetch_queued(cache, count)
        for index in range(count):
            last = append_queued(cache, values, CHUNK, index, num_tokens, out)
            if last == UNKNOWN:
                first, end = queued_word(cache, index)
                last = _match_run(values, first, end, characters, vocabulary, num_tokens, out)
                put_word(cache, values, first, end, CHUNK, num_tokens, last, out)
            num_tokens = last
    if stop - start <= LONG_CHUNK and not is_run:
        put_word(cache, values, start, stop, CHUNK, before, num_tokens, out)
    return num_tokens, stop, DONE, 0


@kernel
def encode_wordpiece(
    values: Bytes,
    offsets: Int64,
    added: Int64,
    characters: Characters,
    vocabulary: Vocabulary,
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
        characters: their normalization.
        vocabulary: the model.
        cache: the cache of this tokenizer.
        queue: memory for this call.
        state: see ``chunks``; updated.
        out_ids: room for as many ids as the texts have bytes, and ``SPARE_IDS`` more.
        out_starts: uint64, a bit for each of ``out_ids`` and 128 more, set where a word starts; see
            ``word_cache``.
        out_offsets: int64 ``[num_texts + 1]``, into ``out_ids``; the first is set already.

    Returns:
        ``DONE``, ``UNSEEN_CHARACTER`` or ``NEEDS_LIBRARY``.
    """
    drop_starts(out_starts, state[NUM_TOKENS])
    texts = Texts(
        values,
        offsets,
        added,
        characters,
        WHITE_SPACE,
        has_marks=True,
        longest=LONG_CHUNK,
    )
    tables = ((characters, vocabulary), cache, TokenBuffer(out_ids, out_starts))
    return process_chunks(
        queue_words,
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
