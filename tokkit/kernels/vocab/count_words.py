r"""Count the words of texts, as a table of characters or as split patterns split them.

By characters, for WordPiece and unigram:

    text      Thé cat, the cat
    chunks    Thé  cat,  the  cat          counted as they stand, in a table of short keys
    words     the 2   cat 2   , 1          of each distinct chunk, when that table is emptied

By split patterns, here GPT-2's, for byte-level BPE, whose words are the pieces:

    text      I don't,  no
    chunks    I | _don't, | _ | _no         a space belongs to what follows; see ``chunks``
    pieces    I | _don | 't | , | _ | _no

Longer chunks, and with them most text without spaces between words, are split at once.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.encode.chunk_queue import (
    PUNCTUATION,
    WHITE_SPACE,
    Queue,
    Texts,
    find_nothing,
    is_short,
    queue_stretches,
    queue_words,
)
from tokkit.kernels.encode.chunks import (
    DETAIL,
    DONE,
    FULL_CHUNKS,
    FULL_WORDS,
    NEEDS_LIBRARY,
    NO_ADDED,
    POSITION,
    TEXT,
    UNSEEN_CHARACTER,
    Chunk,
    Progress,
    ignore_added,
    process_chunks,
)
from tokkit.kernels.encode.cut_rules import SINGLE, SPACE, UNSEEN
from tokkit.kernels.encode.encode_wordpiece import CONTEXT, SEVERAL, WORD, Characters
from tokkit.kernels.encode.split_text import Splitter, next_piece, start_pieces
from tokkit.kernels.encode.word_cache import SHORT_KEY, UNKNOWN, WordCache
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import decode_character, signed, write_character
from tokkit.kernels.vocab.word_table import (
    LONGEST_WORD,
    NUM_BYTES,
    WordTable,
    count_bytes,
    count_written,
    find_chunk,
    has_room,
    put_chunk,
)


class Normalization(NamedTuple):
    """How text is normalized and split.

    Attributes:
        characters: what normalizer and pre-tokenizer make of each; the meaning of a ``SINGLE`` is
            the code point that it is normalized to.
        loses: uint8 ``[0x110000]``: whether normalization removes the character, or a part of it.
        num_lost: int64 ``[0x110000]``: occurrences of such characters; updated.
        cuts: a word that is too long is split into several; otherwise its end is dropped.
    """

    characters: Characters
    loses: Bytes
    num_lost: Int64
    cuts: bool


@inline
def _count_run(
    values: Bytes, start: int, stop: int, count: int, rules: Normalization, table: WordTable
) -> None:
    """Count the word, if any, that the characters from ``start`` to ``stop`` are normalized to."""
    characters = rules.characters
    base = table.filled[NUM_BYTES]
    place = base
    limit = base + LONGEST_WORD - 4
    position = start
    while position < stop:
        code, size = decode_character(values, position)
        position += size
        if rules.loses[code]:
            rules.num_lost[code] += count
        kind = characters.kinds[code]
        if (kind == WORD or kind == SINGLE) and place <= limit:
            meaning = signed(characters.meanings[code])
            if meaning < SEVERAL:
                place += write_character(table.arena, place, meaning)
            else:
                form = (meaning - SEVERAL) >> 4
                for index in range(meaning & 0xF):
                    if place <= limit:
                        part = signed(characters.forms[form + index])
                        place += write_character(table.arena, place, part)
    if place > base:
        count_written(table, place - base, count)


@inline
def _split_words(
    values: Bytes, start: int, stop: int, count: int, rules: Normalization, table: WordTable
) -> tuple[int, int, int]:
    """Count the words of a stretch of text, each ``count`` times.

    Returns:
        Where it stopped; ``DONE`` or another reason; and its detail.
    """
    kinds = rules.characters.kinds
    position = start
    while position < stop:
        if not has_room(table):
            return position, FULL_WORDS, 0
        end = position
        needs_library = False
        while end < stop:
            code, size = decode_character(values, end)
            kind = kinds[code]
            if kind == UNSEEN:
                return position, UNSEEN_CHARACTER, code
            is_apart = kind == SPACE or kind == SINGLE
            if is_apart or (rules.cuts and end + size - position > LONGEST_WORD):
                if end == position:
                    end += size  # white space, or a word of one character
                break
            needs_library |= kind == CONTEXT
            end += size
        if needs_library:
            return position, NEEDS_LIBRARY, end
        _count_run(values, position, end, count, rules, table)
        position = end
    return stop, DONE, 0


@inline
def _split_pieces(
    values: Bytes, start: int, stop: int, count: int, splitter: Splitter, table: WordTable
) -> tuple[int, int, int]:
    """Count the pieces of a stretch of text, each ``count`` times.

    A piece that is too long is cut into several.

    Returns:
        Where it stopped; ``DONE`` or another reason; and its detail.
    """
    start_pieces(splitter, start)
    position = end = start
    while position < stop:
        if position == end:
            position, end, unseen = next_piece(values, position, stop, splitter)
            if unseen >= 0:
                return position, UNSEEN_CHARACTER, unseen
        if position < end:
            if not has_room(table):
                return position, FULL_WORDS, 0
            last = end
            if last - position > LONGEST_WORD:
                last = position + LONGEST_WORD
                while values[last] & 0xC0 == 0x80:
                    last -= 1
            count_bytes(table, values, position, last, count)
            position = last
    return position, DONE, 0


@splice
def _split_texts(
    split: Callable[..., tuple[int, int, int]],
    values: Bytes,
    offsets: Int64,
    counts: Int64,
    rules: Any,
    table: WordTable,
    state: Int64,
) -> int:
    """Split texts from where ``state`` stands, by a function that splits one.

    Args:
        split: ``split(values, start, stop, count, rules, table)`` counts the words from
            ``start`` to ``stop``. Returns where it stopped, the reason, and its detail.
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        counts: int64 ``[num_texts]``.
        rules: passed to ``split``.
        table: gets the words.
        state: see ``chunks``; updated.
    """
    text = state[TEXT]
    position = state[POSITION]
    reason = DONE
    while text < counts.size:
        stop = offsets[text + 1]
        position, reason, detail = split(values, position, stop, counts[text], rules, table)
        if reason != DONE:
            state[DETAIL] = detail
            break
        text += 1
    state[TEXT] = text
    state[POSITION] = position
    return reason


@splice
def _count_known(
    tables: tuple[Any, WordCache, WordTable], _values: Bytes, chunk: Chunk, num_tokens: int
) -> int:
    """Count a chunk if it is in the table; see ``process_chunks``."""
    if not is_short(chunk.place):
        return UNKNOWN
    _, chunks, _ = tables
    place = find_chunk(chunks.short, signed(chunk.place), chunk.first, chunk.second)
    if chunks.short[place + 1] == 0:
        return UNKNOWN
    chunks.short[place + 2] += np.uint64(1)
    return num_tokens


@splice
def _count_new(
    split: Callable[..., tuple[int, int, int]],
    tables: tuple[Any, WordCache, WordTable],
    values: Bytes,
    chunk: Chunk,
    num_tokens: int,
) -> Progress:
    """Add a chunk to the table, or count its words; see ``process_chunks`` and ``_split_texts``."""
    rules, _, table = tables
    if is_short(chunk.place):
        if put_chunk(table, signed(chunk.place), chunk.first, chunk.second):
            return num_tokens, chunk.stop, DONE, 0
        return num_tokens, chunk.start, FULL_CHUNKS, 0
    reached, reason, detail = split(values, chunk.start, chunk.stop, 1, rules, table)
    return num_tokens, reached, reason, detail


@splice
def _count_new_words(
    tables: tuple[Normalization, WordCache, WordTable], values: Bytes, chunk: Chunk, num_tokens: int
) -> Progress:
    return _count_new(_split_words, tables, values, chunk, num_tokens)


@splice
def _count_new_pieces(
    tables: tuple[Splitter, WordCache, WordTable], values: Bytes, chunk: Chunk, num_tokens: int
) -> Progress:
    return _count_new(_split_pieces, tables, values, chunk, num_tokens)


@kernel
def split_words(
    values: Bytes,
    offsets: Int64,
    counts: Int64,
    rules: Normalization,
    table: WordTable,
    state: Int64,
) -> int:
    """Count the words of texts, each as often as its text, from where ``state`` stands.

    Args:
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        counts: int64 ``[num_texts]``.
        rules: how they are normalized and split.
        table: gets the words.
        state: see ``chunks``; updated.

    Returns:
        ``DONE``, ``UNSEEN_CHARACTER``, ``NEEDS_LIBRARY`` or ``FULL_WORDS``.
    """
    return _split_texts(_split_words, values, offsets, counts, rules, table, state)


@kernel
def count_chunks_of_words(
    values: Bytes,
    offsets: Int64,
    rules: Normalization,
    table: WordTable,
    queue: Queue,
    state: Int64,
) -> int:
    """Count the chunks between white space, from where ``state`` stands.

    Args:
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        rules: how they are normalized and split.
        table: gets the chunks, and the words of longer ones.
        queue: memory for this call.
        state: see ``chunks``; updated.

    Returns:
        ``DONE``, ``UNSEEN_CHARACTER``, ``NEEDS_LIBRARY``, ``FULL_CHUNKS`` or ``FULL_WORDS``.
    """
    texts = Texts(
        values,
        offsets,
        NO_ADDED,
        rules.characters,
        WHITE_SPACE,
        has_marks=False,
        longest=SHORT_KEY,
    )
    tables = (rules, table.chunks, table)
    return process_chunks(
        queue_words,
        _count_known,
        _count_new_words,
        ignore_added,
        find_nothing,
        texts,
        tables,
        queue,
        state,
        None,
    )


@kernel
def split_pieces(
    values: Bytes, offsets: Int64, counts: Int64, splitter: Splitter, table: WordTable, state: Int64
) -> int:
    """Count the pieces of texts; see ``split_words``."""
    return _split_texts(_split_pieces, values, offsets, counts, splitter, table, state)


@kernel
def count_chunks_of_pieces(
    values: Bytes, offsets: Int64, splitter: Splitter, table: WordTable, queue: Queue, state: Int64
) -> int:
    """Count the chunks of texts; see ``count_chunks_of_words``."""
    texts = Texts(
        values, offsets, NO_ADDED, splitter.rules, PUNCTUATION, has_marks=False, longest=SHORT_KEY
    )
    tables = (splitter, table.chunks, table)
    return process_chunks(
        queue_stretches,
        _count_known,
        _count_new_pieces,
        ignore_added,
        find_nothing,
        texts,
        tables,
        queue,
        state,
        None,
    )
