r"""Counting the words of text whose characters, one by one, tell where words end.

    text      Thé cat, the cat
    chunks    Thé  cat,  the  cat          counted as they stand, in a table of short keys
    words     the 2   cat 2   , 1          of each distinct chunk, when that table is emptied

Longer chunks, and with them most text that puts no spaces between words, are split at once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.chunks import (
    DETAIL,
    DONE,
    NEEDS_LIBRARY,
    NO_BUCKET,
    POSITION,
    SENTENCE,
    UNSEEN_CHARACTER,
    Queue,
    queue_words,
    queued_bounds,
    queued_key,
)
from tokkit.kernels.encode.encode_wordpiece import (
    CONTEXT,
    SEVERAL,
    SINGLE,
    SPACE,
    UNSEEN,
    WORD,
    Characters,
)
from tokkit.kernels.jit import tuple_inline, tuple_kernel
from tokkit.kernels.memory import Bytes, decode_character, signed
from tokkit.kernels.vocab.word_table import (
    LONGEST_WORD,
    NUM_BYTES,
    WordTable,
    count_written,
    find_chunk,
    has_room,
    put_chunk,
)

# Why a kernel returned, beside the reasons in ``words``.
FULL_CHUNKS = 4  # the chunks must be split, then call again
FULL_WORDS = 5  # the words must be taken out, then call again


class Normalization(NamedTuple):
    """What becomes of text.

    Attributes:
        characters: what normalizer and pre-tokenizer make of each; of ``SINGLE`` the meaning is
            the code point that it is normalized to.
        loses: uint8 ``[0x110000]``: whether normalization removes the character, or a part of it.
        num_lost: int64 ``[0x110000]``: how often such a character was met; updated.
        cuts: a word that is too long is cut into several; else it is cut short.
    """

    characters: Characters
    loses: NDArray[np.uint8]
    num_lost: NDArray[np.int64]
    cuts: bool


@tuple_inline
def _write_character(arena: Bytes, place: int, code: int) -> int:
    """Write a code point in UTF-8; returns how many bytes it has."""
    if code < 0x80:
        arena[place] = code
        return 1
    if code < 0x800:
        arena[place] = 0xC0 | code >> 6
        arena[place + 1] = 0x80 | code & 0x3F
        return 2
    if code < 0x10000:
        arena[place] = 0xE0 | code >> 12
        arena[place + 1] = 0x80 | code >> 6 & 0x3F
        arena[place + 2] = 0x80 | code & 0x3F
        return 3
    arena[place] = 0xF0 | code >> 18
    arena[place + 1] = 0x80 | code >> 12 & 0x3F
    arena[place + 2] = 0x80 | code >> 6 & 0x3F
    arena[place + 3] = 0x80 | code & 0x3F
    return 4


@tuple_inline
def _count_run(
    values: Bytes, start: int, stop: int, count: int, rules: Normalization, table: WordTable
) -> None:
    """Count the one word, if any, that characters from ``start`` to ``stop`` are normalized to."""
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
                place += _write_character(table.arena, place, meaning)
            else:
                form = (meaning - SEVERAL) >> 4
                for index in range(meaning & 0xF):
                    if place <= limit:
                        place += _write_character(
                            table.arena, place, signed(characters.forms[form + index])
                        )
    if place > base:
        count_written(table, place - base, count)


@tuple_inline
def _split(
    values: Bytes, start: int, stop: int, count: int, rules: Normalization, table: WordTable
) -> tuple[int, int, int]:
    """Count the words of a stretch of text, each ``count`` times.

    Returns:
        Where it stopped; ``DONE``, or why; and the detail of that.
    """
    kinds = rules.characters.kinds
    position = start
    while position < stop:
        if not has_room(table):
            return position, FULL_WORDS, 0
        end = position
        asks = False
        while end < stop:
            code, size = decode_character(values, end)
            kind = kinds[code]
            if kind == UNSEEN:
                return position, UNSEEN_CHARACTER, code
            is_apart = kind == SPACE or kind == SINGLE
            if is_apart or (rules.cuts and end + size - position > LONGEST_WORD):
                if end == position:
                    end += size  # a space or a word by itself
                break
            asks |= kind == CONTEXT
            end += size
        if asks:
            return position, NEEDS_LIBRARY, end
        _count_run(values, position, end, count, rules, table)
        position = end
    return stop, DONE, 0


@tuple_kernel
def split_words(
    values: Bytes,
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
    rules: Normalization,
    table: WordTable,
    state: NDArray[np.int64],
) -> int:
    """Split texts into words, each counted as often as its text, from where ``state`` stands.

    Args:
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        counts: int64 ``[num_texts]``.
        rules: what becomes of them.
        table: gets the words.
        state: see ``words``; updated.

    Returns:
        ``DONE``, or ``UNSEEN_CHARACTER``, ``NEEDS_LIBRARY`` or ``FULL_WORDS``.
    """
    text = state[SENTENCE]
    position = state[POSITION]
    fault = DONE
    while text < counts.size:
        position, fault, detail = _split(
            values, position, offsets[text + 1], counts[text], rules, table
        )
        if fault != DONE:
            state[DETAIL] = detail
            break
        text += 1
    state[SENTENCE] = text
    state[POSITION] = position
    return fault


@tuple_kernel
def count_chunks_of_words(
    values: Bytes,
    offsets: NDArray[np.int64],
    rules: Normalization,
    table: WordTable,
    queue: Queue,
    state: NDArray[np.int64],
) -> int:
    """Count what stands between white space, from where ``state`` stands.

    Args:
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        rules: what becomes of them.
        table: gets the chunks, and the words of longer ones.
        queue: for this call alone.
        state: see ``words``; updated.

    Returns:
        ``DONE``, or ``UNSEEN_CHARACTER``, ``NEEDS_LIBRARY``, ``FULL_CHUNKS`` or ``FULL_WORDS``.
    """
    text = state[SENTENCE]
    start = state[POSITION]
    short = table.chunks.short
    fault = DONE
    while text < offsets.size - 1 and fault == DONE:
        stop = offsets[text + 1]
        ahead = start
        while start < stop and fault == DONE:
            count, ahead, start = queue_words(
                values, ahead, start, stop, rules.characters.is_space, table.chunks, queue
            )
            for index in range(count):
                first, second, bucket = queued_key(queue, index)
                if bucket != NO_BUCKET:
                    place = find_chunk(short, signed(bucket), first, second)
                    if short[np.uint64(place + 1)] != 0:
                        short[np.uint64(place + 2)] += np.uint64(1)
                        continue
                    if put_chunk(table, place, first, second):
                        continue
                    fault = FULL_CHUNKS
                    start, _ = queued_bounds(queue, index)
                    break
                chunk_start, chunk_stop = queued_bounds(queue, index)
                reached, fault, detail = _split(values, chunk_start, chunk_stop, 1, rules, table)
                if fault != DONE:
                    start = reached
                    state[DETAIL] = detail
                    break
        if fault == DONE:
            text += 1
            start = stop
    state[SENTENCE] = text
    state[POSITION] = start
    return fault
