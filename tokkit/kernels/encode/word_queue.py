"""The words of a chunk, looked up in the cache together.

A chunk without spaces may have hundreds of words. Some of them are queued, while the cache lines of
their slots and then those of their records are fetched, and then taken:

    queue_word, queue_id    start, stop, key or hash, and bucket of each; or an id that is known
    fetch_queued            the records of long words
    append_queued           the tokens of each, in order
"""

import numpy as np

from tokkit.kernels.arrays import Bytes
from tokkit.kernels.encode.long_words import (
    LONG_KEY,
    fetch_record,
    fetch_slots,
    find_record,
    hash_long,
)
from tokkit.kernels.encode.word_cache import (
    SHORT_KEY,
    UNKNOWN,
    WORD_HITS,
    WORD_MISSES,
    TokenBuffer,
    WordCache,
    append_record,
    append_short,
    append_starts,
    find_bucket,
    find_short,
    short_key,
)
from tokkit.kernels.jit import splice
from tokkit.kernels.memory import prefetch, signed

NUM_QUEUED = 32
_START, _STOP, _FIRST, _SECOND, _BUCKET = np.arange(5, dtype=np.uint64)
_QUEUED_WORDS = np.uint64(5)
_LONG_BUCKET = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
_NO_BUCKET = _LONG_BUCKET - np.uint64(1)
_ID_BUCKET = _LONG_BUCKET - np.uint64(2)  # not a word to look up, but an id


@splice
def append_word(
    cache: WordCache,
    values: Bytes,
    start: int,
    stop: int,
    kind: np.uint64,
    num_tokens: int,
    out: TokenBuffer,
) -> int:
    """Append the tokens of a word if it is in the cache, as a ``CHUNK`` or a ``PIECE``.

    Returns:
        The new number of tokens, or ``UNKNOWN``.
    """
    queue_word(cache, values, start, stop, kind, 0)
    fetch_queued(cache, 1)
    return append_queued(cache, values, kind, 0, num_tokens, out)


@splice
def queue_word(
    cache: WordCache, values: Bytes, start: int, stop: int, kind: np.uint64, count: int
) -> None:
    """Put a word behind ``count`` others and fetch its bucket or slots."""
    queue, place = cache.queue, np.uint64(count) * _QUEUED_WORDS
    queue[place + _START] = np.uint64(start)
    queue[place + _STOP] = np.uint64(stop)
    if stop - start <= SHORT_KEY:
        first, second = short_key(values, start, np.uint64(stop - start))
        second |= kind
        bucket = find_bucket(first, second, cache.short_shift)
        prefetch(cache.short, bucket)
        queue[place + _FIRST] = first
        queue[place + _SECOND] = second
        queue[place + _BUCKET] = np.uint64(bucket)
    elif stop - start <= LONG_KEY:
        mixed = hash_long(values, start, stop, kind)
        fetch_slots(cache.long, mixed)
        queue[place + _FIRST] = mixed
        queue[place + _BUCKET] = _LONG_BUCKET
    else:
        queue[place + _BUCKET] = _NO_BUCKET


@splice
def queue_id(cache: WordCache, token: int, count: int) -> None:
    """Put an id, which starts a word, behind ``count`` words."""
    place = np.uint64(count) * _QUEUED_WORDS
    cache.queue[place + _FIRST] = np.uint64(token)
    cache.queue[place + _BUCKET] = _ID_BUCKET


@splice
def fetch_queued(cache: WordCache, count: int) -> None:
    """Fetch the records of ``count`` words."""
    for index in range(count):
        place = np.uint64(index) * _QUEUED_WORDS
        if cache.queue[place + _BUCKET] == _LONG_BUCKET:
            record = find_record(cache.long, cache.queue[place + _FIRST])
            fetch_record(cache.long, record)
            cache.queue[place + _SECOND] = record


@splice
def queued_word(cache: WordCache, index: int) -> tuple[int, int]:
    """Return where a queued word begins and ends."""
    place = np.uint64(index) * _QUEUED_WORDS
    return signed(cache.queue[place + _START]), signed(cache.queue[place + _STOP])


@splice
def append_queued(
    cache: WordCache,
    values: Bytes,
    kind: np.uint64,
    index: int,
    num_tokens: int,
    out: TokenBuffer,
) -> int:
    """Append the tokens of a queued word; see ``append_word``."""
    queue, place = cache.queue, np.uint64(index) * _QUEUED_WORDS
    bucket = queue[place + _BUCKET]
    if bucket == _ID_BUCKET:
        out.ids[num_tokens] = queue[place + _FIRST]
        append_starts(out.starts, num_tokens, np.uint64(1))
        return num_tokens + 1
    last = UNKNOWN
    if bucket == _LONG_BUCKET:
        start, stop = signed(queue[place + _START]), signed(queue[place + _STOP])
        record = queue[place + _SECOND]
        last = append_record(cache, values, start, stop, kind, record, num_tokens, out)
    elif bucket != _NO_BUCKET:
        first, second = queue[place + _FIRST], queue[place + _SECOND]
        slot = find_short(cache.short, signed(bucket), first, second)
        if slot >= 0:
            last = append_short(cache, slot, num_tokens, out)
    if last == UNKNOWN:
        cache.counters[WORD_MISSES] += 1
    else:
        cache.counters[WORD_HITS] += 1
    return last
