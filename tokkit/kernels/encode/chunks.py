r"""What the encoding kernels have in common: how they stop, and how words come out of the cache.

Stretches of text between white space, found some ahead of where they are needed.

A look into a large table waits for memory. So chunks are found first, some forty of them, and the
cache lines of their slots are fetched meanwhile; then the queue is worked off.

    "a cat,  sat\n"   queue_words             a | cat, | sat
                      queue_spaced_words      a | _cat, | _ | _sat | \n

White space is found 64 bytes at a time, as bits of a word.
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.word_cache import (
    SHORT_KEY,
    UNKNOWN,
    Bits,
    Ids,
    WordCache,
    append_short,
    find_bucket,
    find_short,
    key_length,
    short_key,
)
from tokkit.kernels.jit import tuple_inline, tuple_splice
from tokkit.kernels.memory import (
    Bytes,
    find_last_small_bytes,
    find_small_bytes,
    prefetch,
    signed,
    trailing_zeros,
)

# A chunk is four words: the key of a short one and its bucket, with its start; or start and stop.
Queue = NDArray[np.uint64]
_FIRST, _SECOND, _START, _BUCKET = np.arange(4, dtype=np.uint64)
_CHUNK_WORDS = np.uint64(4)
NO_BUCKET = np.uint64(0xFFFF_FFFF_FFFF_FFFF)

_AHEAD = 32
_BLOCK = 64
_ONE = np.uint64(1)
_SPACE = 32


def new_queue() -> Queue:
    """An empty queue; a block of text adds one chunk a byte at most, and one more."""
    return np.zeros((_AHEAD + 2 * _BLOCK) * int(_CHUNK_WORDS), np.uint64)


@tuple_splice
def _queue_chunk(
    values: Bytes, start: int, stop: int, cache: WordCache, queue: Queue, count: int
) -> None:
    """Put a chunk behind ``count`` others and fetch its bucket."""
    length = np.uint64(stop - start)
    first, second = short_key(values, start, length)
    bucket = find_bucket(first, second, cache.short_shift)
    prefetch(cache.short, bucket)
    is_short = length <= np.uint64(SHORT_KEY)
    place = np.uint64(count) * _CHUNK_WORDS
    queue[place + _FIRST] = first
    queue[place + _SECOND] = second if is_short else np.uint64(stop)
    queue[place + _START] = np.uint64(start)
    queue[place + _BUCKET] = np.uint64(bucket) if is_short else NO_BUCKET


@tuple_inline
def _queue_white_space(
    values: Bytes, start: int, stop: int, cache: WordCache, queue: Queue, count: int
) -> tuple[int, int]:
    """Queue white space but for a space at its end; returns how many chunks, and where it ends."""
    last = stop - 1
    if last > start:
        _queue_chunk(values, start, last, cache, queue, count)
        count += 1
    if values[last] == _SPACE:
        return count, last
    _queue_chunk(values, last, stop, cache, queue, count)
    return count + 1, stop


@tuple_splice
def _queue_whole(start: int, stop: int, queue: Queue, count: int) -> None:
    """Put a chunk behind ``count`` others that is not to be looked for in the cache."""
    place = np.uint64(count) * _CHUNK_WORDS
    queue[place + _SECOND] = np.uint64(stop)
    queue[place + _START] = np.uint64(start)
    queue[place + _BUCKET] = NO_BUCKET


@tuple_splice
def queued_key(queue: Queue, index: int) -> tuple[np.uint64, np.uint64, np.uint64]:
    """Both words of a chunk's key and its bucket, which is ``NO_BUCKET`` where there is no key."""
    place = np.uint64(index) * _CHUNK_WORDS
    return queue[place + _FIRST], queue[place + _SECOND], queue[place + _BUCKET]


@tuple_splice
def queued_bounds(queue: Queue, index: int) -> tuple[int, int]:
    """Where a chunk begins and ends."""
    place = np.uint64(index) * _CHUNK_WORDS
    start = signed(queue[place + _START])
    second = queue[place + _SECOND]
    if queue[place + _BUCKET] == NO_BUCKET:
        return start, signed(second)
    return start, start + key_length(second)


@tuple_splice
def _find_spaces(values: Bytes, position: int, stop: int) -> np.uint64:
    """Of the 64 bytes from ``position`` on those below 33, and ``stop`` if it is one of them."""
    small: np.uint64
    if position + _BLOCK <= values.size:
        small = find_small_bytes(values, position)
    else:
        small = find_last_small_bytes(values, position)
    if stop - position < _BLOCK:
        last = _ONE << np.uint64(stop - position)
        small = (small & (last - _ONE)) | last
    return small


@tuple_splice
def queue_words(
    values: Bytes,
    position: int,
    start: int,
    stop: int,
    is_space: NDArray[np.bool_],
    cache: WordCache,
    queue: Queue,
) -> tuple[int, int, int]:
    """Queue what stands between white space, for a tokenizer that drops it.

    Args:
        values: the text.
        position: what lies before it was looked at.
        start: where the chunk begins that has not ended yet.
        stop: where the sentence ends.
        is_space: bool ``[256]``: white space of one byte, all below 33.
        cache: whose buckets are fetched.
        queue: gets the chunks.

    Returns:
        How many chunks, and ``position`` and ``start`` for the next call.
    """
    count = 0
    while count < _AHEAD and start < stop:
        small = _find_spaces(values, position, stop)
        while small:
            end = position + trailing_zeros(small)
            small &= small - _ONE
            if end < stop and not is_space[values[np.uint64(end)]]:
                continue
            _queue_chunk(values, start, end, cache, queue, count)
            count += end > start
            start = end + 1
        position += _BLOCK
    return count, position, start


@tuple_splice
def queue_spaced_words(
    values: Bytes,
    position: int,
    start: int,
    body: int,
    stop: int,
    is_space: NDArray[np.bool_],
    cache: WordCache,
    queue: Queue,
) -> tuple[int, int, int, int]:
    r"""Queue all of a sentence, for GPT-2's split pattern: a word takes the space before it along.

    Of longer white space all but the last character are a chunk, and the last is one too unless it
    is a space. That holds for white space of one byte each; where a character follows that may be
    white space of more bytes, a chunk without a bucket is queued from where the white space begins.

    Args:
        values: the text.
        position: what lies before it was looked at.
        start: where the chunk begins that has not ended yet.
        body: where its white space ends, as far as it was looked at.
        stop: where the sentence ends.
        is_space: bool ``[256]``: white space of one byte, all below 33.
        cache: whose buckets are fetched.
        queue: gets the chunks.

    Returns:
        How many chunks, and ``position``, ``start`` and ``body`` for the next call.
    """
    count = 0
    while count < _AHEAD and start < stop:
        small = _find_spaces(values, position, stop)
        while small:
            end = position + trailing_zeros(small)
            small &= small - _ONE
            if end < stop:
                if not is_space[values[np.uint64(end)]]:
                    continue
                if end == body:
                    body = end + 1
                    continue
            spaces = body - start
            is_plain = spaces == 0 or (spaces == 1 and values[start] == _SPACE)
            if not is_plain and body < stop:
                if values[body] >= 0x80:
                    _queue_whole(start, end, queue, count)
                    count += 1
                    start = end
                    body = end + 1
                    continue
                count, start = _queue_white_space(values, start, body, cache, queue, count)
            _queue_chunk(values, start, end, cache, queue, count)
            count += 1
            start = end
            body = end + 1
        position += _BLOCK
    return count, position, start, body


# Where a kernel stands, by index into its state, and what the one who called it must know.
SENTENCE = 0
POSITION = 1
NUM_TOKENS = 2
DETAIL = 3
STATE_SIZE = 4

# Why it returned.
DONE = 0
UNSEEN_CHARACTER = 1  # whose code point is the detail: the table must be told, then call again
NEEDS_LIBRARY = 2  # the chunk up to the detail must be encoded otherwise, then go on there
LONG_WORD = 3  # of as many bytes as the detail: make room for it, then call again


def new_state(start: int) -> NDArray[np.int64]:
    """Before the first sentence, which begins at byte ``start``."""
    state = np.zeros(STATE_SIZE, np.int64)
    state[POSITION] = start
    return state


@tuple_splice
def append_queued(
    queue: Queue,
    index: int,
    cache: WordCache,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> int:
    """Append the tokens of a queued chunk from the cache.

    Returns:
        How many tokens there are then, or ``UNKNOWN``.
    """
    first, second, bucket = queued_key(queue, index)
    if bucket == NO_BUCKET:
        return UNKNOWN
    slot = find_short(cache.short, signed(bucket), first, second)
    if slot < 0:
        return UNKNOWN
    return append_short(cache, slot, num_tokens, out_ids, out_bits)
