r"""Counting the pieces of GPT-2's split pattern, as ``counting`` counts words.

text      I don't,  no
chunks    I | _don't, | _ | _no        a space goes with what follows; see ``chunks``
pieces    I | _don | 't | , | _ | _no
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.chunks import (
    DETAIL,
    DONE,
    NO_BUCKET,
    POSITION,
    SENTENCE,
    UNSEEN_CHARACTER,
    Queue,
    queue_spaced_words,
    queued_bounds,
    queued_key,
)
from tokkit.kernels.encode.encode_bpe import SPACE, UNSEEN, Classes, find_piece
from tokkit.kernels.jit import tuple_inline, tuple_kernel
from tokkit.kernels.memory import Bytes, decode_character, signed
from tokkit.kernels.vocab.count_words import FULL_CHUNKS, FULL_WORDS
from tokkit.kernels.vocab.word_table import (
    LONGEST_WORD,
    WordTable,
    count_bytes,
    find_chunk,
    has_room,
    put_chunk,
)


@tuple_inline
def _split(
    values: Bytes,
    start: int,
    stop: int,
    text_stop: int,
    count: int,
    classes: Classes,
    table: WordTable,
) -> tuple[int, int, int]:
    """Count the pieces of a stretch of text, each ``count`` times.

    A piece that is too long is cut as if the text ended there.

    Returns:
        Where it stopped, which is beyond ``stop`` where white space goes on; ``DONE``, or why; and
        the detail of that.
    """
    position = start
    while position < stop:
        if not has_room(table):
            return position, FULL_WORDS, 0
        limit = text_stop
        if limit - position > LONGEST_WORD:
            limit = position + LONGEST_WORD
            while values[limit] & 0xC0 == 0x80:
                limit -= 1
        end, kind = find_piece(values, position, limit, classes.classes)
        if kind == UNSEEN:
            return position, UNSEEN_CHARACTER, end
        count_bytes(table, values, position, end, count)
        position = end
    return position, DONE, 0


@tuple_inline
def _last_class(values: Bytes, start: int, stop: int, classes: NDArray[np.uint8]) -> int:
    """The class of a chunk's last character, if that has several bytes."""
    last = stop - 1
    if values[last] < 0x80:
        return -1
    while last > start and values[last] & 0xC0 == 0x80:
        last -= 1
    code, _ = decode_character(values, last)
    return signed(classes[code])


@tuple_kernel
def split_pieces(
    values: Bytes,
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
    classes: Classes,
    table: WordTable,
    state: NDArray[np.int64],
) -> int:
    """Split texts into pieces; see ``counting.split_words``."""
    text = state[SENTENCE]
    position = state[POSITION]
    fault = DONE
    while text < counts.size:
        stop = offsets[text + 1]
        position, fault, detail = _split(values, position, stop, stop, counts[text], classes, table)
        if fault != DONE:
            state[DETAIL] = detail
            break
        text += 1
    state[SENTENCE] = text
    state[POSITION] = position
    return fault


@tuple_kernel
def count_chunks_of_pieces(
    values: Bytes,
    offsets: NDArray[np.int64],
    classes: Classes,
    table: WordTable,
    queue: Queue,
    state: NDArray[np.int64],
) -> int:
    """Count chunks of text; see ``counting.count_chunks_of_words``.

    A chunk with white space of more bytes than one at its end is split at once, since what follows
    tells how.
    """
    text = state[SENTENCE]
    start = state[POSITION]
    short = table.chunks.short
    fault = DONE
    while text < offsets.size - 1 and fault == DONE:
        stop = offsets[text + 1]
        ahead = start
        body = start
        while start < stop and fault == DONE:
            count, ahead, start, body = queue_spaced_words(
                values, ahead, start, body, stop, classes.is_space, table.chunks, queue
            )
            for index in range(count):
                first, second, bucket = queued_key(queue, index)
                chunk_start, chunk_stop = queued_bounds(queue, index)
                if bucket != NO_BUCKET:
                    place = find_chunk(short, signed(bucket), first, second)
                    if short[np.uint64(place + 1)] != 0:
                        short[np.uint64(place + 2)] += np.uint64(1)
                        continue
                    last = _last_class(values, chunk_start, chunk_stop, classes.classes)
                    if last != SPACE and last != UNSEEN:
                        if put_chunk(table, place, first, second):
                            continue
                        fault = FULL_CHUNKS
                        start = ahead = body = chunk_start
                        break
                reached, fault, detail = _split(
                    values, chunk_start, chunk_stop, stop, 1, classes, table
                )
                if fault != DONE or reached != chunk_stop:
                    state[DETAIL] = detail
                    start = ahead = body = reached
                    break
        if fault == DONE:
            text += 1
            start = stop
    state[SENTENCE] = text
    state[POSITION] = start
    return fault
