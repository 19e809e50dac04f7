"""The loop over chunks of text that encoding and counting kernels share.

``process_chunks`` stops where a kernel cannot go on alone: at a character that its table does not
know, at a chunk that only the library can encode, at a full table. It returns the reason and keeps
its position in a state. The caller does what is needed and calls the kernel again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.encode.chunk_queue import (
    CHUNK_WORDS,
    FIRST,
    IS_ADDED,
    IS_END,
    IS_LONG,
    PLACE,
    SECOND,
    START,
    Cursor,
    Queue,
    Texts,
    fill_queue,
    is_long,
    is_short,
)
from tokkit.kernels.encode.word_cache import (
    CHUNK,
    CHUNK_HITS,
    CHUNK_MISSES,
    UNKNOWN,
    TokenBuffer,
    WordCache,
    append_record,
    append_short,
    append_starts,
    find_short,
    key_length,
)
from tokkit.kernels.jit import splice
from tokkit.kernels.memory import signed

# Indices into the state of a kernel.
TEXT = 0  # number of the text that it is in
POSITION = 1
NUM_TOKENS = 2
DETAIL = 3
CHUNK_STOP = 4  # of the chunk where a kernel stopped
STATE_SIZE = 5

# Reasons to return, and the detail of each.
DONE = 0
UNSEEN_CHARACTER = 1  # a code point that the table does not know: add it, then call again
NEEDS_LIBRARY = 2  # end of a chunk that only the library can split: skip it, then call again
LONG_WORD = 3  # number of bytes of a word: make room for it, then call again
FULL_CHUNKS = 4  # no detail: split the chunks that were counted, then call again
FULL_WORDS = 5  # no detail: take the words out of the table, then call again

# Chunks between finding a record and its use.
_NUM_AHEAD = 8

NO_ADDED = np.zeros(0, np.int64)

# The new number of tokens, where a function stopped, the reason, and its detail.
Progress = tuple[int, int, int, int]


class Chunk(NamedTuple):
    """A chunk from the queue.

    Attributes:
        start: where it begins in ``values``.
        stop: where it ends.
        text_stop: where its text ends.
        first: first word of its key, or the hash of a long one.
        second: second word of its key.
        place: where its tokens may be; see ``chunk_queue``.
    """

    start: int
    stop: int
    text_stop: int
    first: np.uint64
    second: np.uint64
    place: np.uint64


def new_state(start: int) -> Int64:
    """Return the state before the first text, which begins at byte ``start``."""
    state = np.zeros(STATE_SIZE, np.int64)
    state[POSITION] = start
    return state


@splice
def process_chunks(
    queue_chunks: Callable[..., tuple[int, Cursor]],
    take_known: Callable[..., int],
    take_new: Callable[..., Progress],
    take_added: Callable[..., int],
    find_ahead: Callable[..., None],
    texts: Texts,
    tables: tuple[Any, WordCache, Any],
    queue: Queue,
    state: Int64,
    out_offsets: Int64 | None,
) -> int:
    """Process texts chunk by chunk, from where ``state`` stands.

    Args:
        queue_chunks: ``queue_words`` or ``queue_stretches``.
        take_known: ``take_known(tables, values, chunk, num_tokens)`` processes a chunk if the tables
            know it. Returns the new number of tokens, or ``UNKNOWN``.
        take_new: ``take_new(tables, values, chunk, num_tokens)`` processes any chunk. Returns the
            new number of tokens; where it stopped, which is beyond the chunk where white space goes
            on; ``DONE`` or another reason; and its detail.
        take_added: ``take_added(tables, added, num_tokens)`` processes a text that is an added token.
            Returns the new number of tokens.
        find_ahead: ``find_ahead(tables, queue, index)`` prepares a chunk in the queue.
        texts: the texts.
        tables: passed to these functions. The second is the cache whose buckets are
            fetched, and whose lookups of chunks are counted.
        queue: memory for this call.
        state: int64 ``[STATE_SIZE]``, updated.
        out_offsets: int64 ``[num_texts + 1]``, number of tokens up to the end of each text; or
            None.

    Returns:
        ``DONE``, or why it stopped before the last text; ``state`` is then at the chunk.
    """
    _, cache, _ = tables
    num_texts = texts.offsets.size - 1
    text = state[TEXT]
    start = state[POSITION]
    num_tokens = state[NUM_TOKENS]
    num_hits = 0
    num_misses = 0
    reason = DONE
    next_text = text  # to queue
    cursor = (start, start)
    while text < num_texts and reason == DONE:
        count, next_text, cursor = fill_queue(queue_chunks, texts, next_text, cursor, cache, queue)
        for index in range(min(count, _NUM_AHEAD)):
            find_ahead(tables, queue, index)
        for index in range(count):
            if index + _NUM_AHEAD < count:
                find_ahead(tables, queue, index + _NUM_AHEAD)
            entry = np.uint64(index) * CHUNK_WORDS
            place = queue[entry + PLACE]
            first, second = queue[entry + FIRST], queue[entry + SECOND]
            if place == IS_END:
                text += 1
                state[TEXT] = text
                if out_offsets is not None:
                    out_offsets[text] = num_tokens
                continue
            if place == IS_ADDED:
                num_tokens = take_added(tables, signed(first), num_tokens)
                continue
            start = signed(queue[entry + START])
            stop = start + key_length(second) if is_short(place) else signed(second)
            chunk = Chunk(start, stop, texts.offsets[text + 1], first, second, place)
            end = take_known(tables, texts.values, chunk, num_tokens)
            if end != UNKNOWN:
                num_tokens = end
                num_hits += 1
                continue
            num_misses += 1
            num_tokens, reached, reason, detail = take_new(tables, texts.values, chunk, num_tokens)
            if reason != DONE or reached != stop:
                state[DETAIL] = detail
                state[CHUNK_STOP] = stop
                next_text = text
                cursor = (reached, reached)
                break
    cache.counters[CHUNK_HITS] += num_hits
    cache.counters[CHUNK_MISSES] += num_misses
    _, start = cursor
    state[TEXT] = text
    state[POSITION] = start
    state[NUM_TOKENS] = num_tokens
    return reason


@splice
def append_known(
    tables: tuple[Any, WordCache, TokenBuffer], values: Bytes, chunk: Chunk, num_tokens: int
) -> int:
    """Append the tokens of a chunk from the cache.

    Returns:
        The new number of tokens, or ``UNKNOWN``.
    """
    _, cache, out = tables
    first, second, place = chunk.first, chunk.second, chunk.place
    if is_short(place):
        slot = find_short(cache.short, signed(place), first, second)
        return append_short(cache, slot, num_tokens, out) if slot >= 0 else UNKNOWN
    if not is_long(place):
        return UNKNOWN
    start, stop, record = chunk.start, chunk.stop, place ^ IS_LONG
    return append_record(cache, values, start, stop, CHUNK, record, num_tokens, out)


@splice
def append_added(tables: tuple[Any, WordCache, TokenBuffer], added: int, num_tokens: int) -> int:
    """Append an added token, which is a word; returns the new number of tokens."""
    _, _, out = tables
    out.ids[num_tokens] = added
    append_starts(out.starts, num_tokens, np.uint64(1))
    return num_tokens + 1


@splice
def ignore_added(_tables: tuple[Any, WordCache, Any], _added: int, num_tokens: int) -> int:
    """Leave out an added token; returns the number of tokens."""
    return num_tokens
