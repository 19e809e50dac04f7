r"""The loop over chunks of text between white space that encoding and counting kernels share.

A lookup in a large table waits for memory. So some forty chunks are found first, also of several
texts, while the cache lines of their slots are fetched, and then taken from a queue:

    "a cat,  sat\n"   queue_words             a | cat, | sat
                      queue_stretches         a | _cat | , | _ | _sat | \n

White space, and for ``queue_stretches`` the punctuation of ASCII, is found 64 bytes at a time, as
bits of a word.

``process_chunks`` stops where a kernel cannot go on alone: at a character that its table does not
know, at a chunk that only the library can encode, at a full table. It returns the reason and keeps
its position in a state. The caller does what is needed and calls the kernel again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64, UInt64
from tokkit.kernels.encode.cut_rules import COLUMN_BITS, CUT, LOOK, can_cut, can_cut_run
from tokkit.kernels.encode.long_words import fetch_record, fetch_slots, hash_long
from tokkit.kernels.encode.word_cache import (
    CHUNK,
    CHUNK_HITS,
    CHUNK_MISSES,
    SHORT_KEY,
    UNKNOWN,
    TokenBuffer,
    WordCache,
    append_short,
    append_starts,
    find_bucket,
    find_short,
    key_length,
    short_key,
)
from tokkit.kernels.jit import tuple_splice
from tokkit.kernels.memory import (
    find_small,
    prefetch,
    signed,
    trailing_zeros,
)

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

# A chunk in the queue is four words: key and bucket of a short one, with its start; else its hash, if
# it is looked up at all, its start and stop.
Queue = UInt64
_FIRST, _SECOND, _START, _BUCKET = np.arange(4, dtype=np.uint64)
_CHUNK_WORDS = np.uint64(4)
NO_BUCKET = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
# In place of a bucket: a text that is an added token, whose id is first; and the end of a text.
_ADDED = NO_BUCKET - np.uint64(1)
_END = NO_BUCKET - np.uint64(2)
NO_ADDED = np.zeros(0, np.int64)

# Limits of bytes where texts are looked at. Words and the punctuation behind them are fewer than words
# with punctuation: 117 MB of English have 255,000 and 637,000, and GPT-2's took 257 and 194 MB/s.
WHITE_SPACE = 33
PUNCTUATION = 64

# Kinds of characters that the tables of all tokenizers have; each adds its own.
UNSEEN = 0  # not in the table yet
SPACE = 3

_RECORDS_AHEAD = np.uint64(8)  # chunks between the fetching of a record and its use
LONG_CHUNK = 63  # most bytes of a chunk that is looked up as a whole
_AHEAD = 32
_BLOCK = 64
_ONE = np.uint64(1)
_SPACE = np.uint64(32)


# Where a text was read to, and where the unfinished chunk begins.
Cursor = tuple[int, int]
# The new number of tokens, where a function stopped, the reason, and its detail.
Progress = tuple[int, int, int, int]


class Texts(NamedTuple):
    """Texts to process.

    Attributes:
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        added: int64 ``[num_texts]``, -1, or the id of the added token that a text is; empty if there
            are none.
        rules: ``CutRules``; or for ``queue_words`` bool ``[256]``, white space of one byte, all
            below 33.
        limit: texts are cut before and behind bytes below it, at most 64.
    """

    values: Bytes
    offsets: Int64
    added: Int64
    rules: Any
    limit: int


class Chunk(NamedTuple):
    """A chunk from the queue.

    Attributes:
        start: where it begins in ``values``.
        stop: where it ends.
        text_stop: where its text ends.
        first: first word of its key, or the hash of a long one.
        second: second word of its key.
        bucket: of its key, or ``NO_BUCKET`` if it has more than 15 bytes.
    """

    start: int
    stop: int
    text_stop: int
    first: np.uint64
    second: np.uint64
    bucket: np.uint64


def new_queue() -> Queue:
    """Return an empty queue; a block of text adds at most one chunk per byte, and one more."""
    return np.zeros((_AHEAD + 2 * _BLOCK + int(_RECORDS_AHEAD)) * int(_CHUNK_WORDS), np.uint64)


def new_state(start: int) -> Int64:
    """Return the state before the first text, which begins at byte ``start``."""
    state = np.zeros(STATE_SIZE, np.int64)
    state[POSITION] = start
    return state


@tuple_splice
def process_chunks(
    queue_chunks: Callable[..., tuple[int, Cursor]],
    take_known: Callable[..., int],
    take_new: Callable[..., Progress],
    take_added: Callable[..., int],
    texts: Texts,
    tables: tuple[Any, WordCache, Any],
    queue: Queue,
    state: Int64,
    out_offsets: Int64 | None,
) -> int:
    """Process texts chunk by chunk, from where ``state`` stands.

    Args:
        queue_chunks: ``queue_words`` or ``queue_stretches``.
        take_known: ``take_known(tables, first, second, bucket, num_tokens)`` processes the chunk
            with this key if the tables know it. Returns the new number of tokens, or ``UNKNOWN``.
        take_new: ``take_new(tables, values, chunk, num_tokens)`` processes any chunk. Returns the
            new number of tokens; where it stopped, which is beyond the chunk where white space goes
            on; ``DONE`` or another reason; and its detail.
        take_added: ``take_added(tables, added, num_tokens)`` processes a text that is an added token.
            Returns the new number of tokens.
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
        count = 0
        while count < _AHEAD and next_text < num_texts:
            stop = texts.offsets[next_text + 1]
            _, start = cursor
            if start < stop and texts.added.size and texts.added[next_text] >= 0:
                _queue_mark(_ADDED, texts.added[next_text], queue, count)
                count += 1
            elif start < stop:
                count, cursor = queue_chunks(texts, cursor, stop, cache, queue, count)
                _, start = cursor
                if start < stop:
                    break
            _queue_mark(_END, 0, queue, count)
            count += 1
            next_text += 1
            cursor = (stop, stop)
        for index in range(count):
            place = np.uint64(index) * _CHUNK_WORDS
            first, second = queue[place + _FIRST], queue[place + _SECOND]
            bucket = queue[place + _BUCKET]
            behind = place + _RECORDS_AHEAD * _CHUNK_WORDS
            if queue[behind + _BUCKET] == NO_BUCKET:
                fetch_record(cache.long, queue[behind + _FIRST])
            if bucket == _END:
                text += 1
                state[TEXT] = text
                if out_offsets is not None:
                    out_offsets[text] = num_tokens
                continue
            if bucket == _ADDED:
                num_tokens = take_added(tables, signed(first), num_tokens)
                continue
            end = take_known(tables, first, second, bucket, num_tokens)
            if end != UNKNOWN:
                num_tokens = end
                num_hits += 1
                continue
            num_misses += 1
            chunk_start = signed(queue[place + _START])
            chunk_stop = chunk_start + key_length(second)
            if bucket == NO_BUCKET:
                chunk_stop = signed(second)
            stop = texts.offsets[text + 1]
            chunk = Chunk(chunk_start, chunk_stop, stop, first, second, bucket)
            num_tokens, reached, reason, detail = take_new(tables, texts.values, chunk, num_tokens)
            if reason != DONE or reached != chunk_stop:
                state[DETAIL] = detail
                state[CHUNK_STOP] = chunk_stop
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


@tuple_splice
def is_long_chunk(chunk: Chunk) -> bool:
    """Return whether a chunk is looked up among the long words."""
    return chunk.bucket == NO_BUCKET and chunk.stop - chunk.start <= LONG_CHUNK


@tuple_splice
def append_known(
    tables: tuple[Any, WordCache, TokenBuffer],
    first: np.uint64,
    second: np.uint64,
    bucket: np.uint64,
    num_tokens: int,
) -> int:
    """Append the tokens of a chunk from the cache.

    Returns:
        The new number of tokens, or ``UNKNOWN``.
    """
    _, cache, out = tables
    if bucket == NO_BUCKET:
        return UNKNOWN
    slot = find_short(cache.short, signed(bucket), first, second)
    if slot < 0:
        return UNKNOWN
    return append_short(cache, slot, num_tokens, out)


@tuple_splice
def append_added(tables: tuple[Any, WordCache, TokenBuffer], added: int, num_tokens: int) -> int:
    """Append an added token, which is a word; returns the new number of tokens."""
    _, _, out = tables
    out.ids[num_tokens] = added
    append_starts(out.starts, num_tokens, np.uint64(1))
    return num_tokens + 1


@tuple_splice
def ignore_added(_tables: tuple[Any, WordCache, Any], _added: int, num_tokens: int) -> int:
    """Leave out an added token; returns the number of tokens."""
    return num_tokens


@tuple_splice
def queue_words(
    texts: Texts, cursor: Cursor, stop: int, cache: WordCache, queue: Queue, count: int
) -> tuple[int, Cursor]:
    """Queue the chunks between white space, for a tokenizer that drops white space.

    Args:
        texts: the texts.
        cursor: where to go on.
        stop: where the text ends.
        cache: the table whose buckets are fetched.
        queue: the chunks are written to it.
        count: number of chunks that are in it.

    Returns:
        The new number of chunks, and the cursor for the next call.
    """
    values, _, _, is_space, limit = texts
    position, start = cursor
    while count < _AHEAD and start < stop:
        small = find_small(values, position, stop, limit)
        while small:
            end = position + trailing_zeros(small)
            small &= small - _ONE
            if end < stop and not is_space[values[np.uint64(end)]]:
                continue
            _queue_chunk(values, start, end, cache, queue, count)
            count += end > start
            start = end + 1
        position += _BLOCK
    return count, (position, start)


@tuple_splice
def queue_stretches(
    texts: Texts, cursor: Cursor, stop: int, cache: WordCache, queue: Queue, count: int
) -> tuple[int, Cursor]:
    """Queue the whole text, cut before and behind bytes below a limit where the rules allow it.

    Args and returns are those of ``queue_words``.
    """
    values, _, _, rules, limit = texts
    position, start = cursor
    while count < _AHEAD and start < stop:
        small = find_small(values, position, stop, limit)
        while small:
            end = position + trailing_zeros(small)
            small &= small - _ONE
            if end == stop:
                _queue_chunk(values, start, end, cache, queue, count)
                count += end > start
                start = end
                break
            byte = np.uint64(values[np.uint64(end)])
            cuts = False
            if end > start:
                last = np.uint64(values[np.uint64(end - 1)])
                rule = rules.before[last << COLUMN_BITS | byte]
                cuts = rule == CUT or (rule == LOOK and can_cut(values, end, rules))
                if byte == _SPACE and last <= _SPACE and end + 1 < stop:
                    cuts = cuts or can_cut_run(values, end, rules)
                if cuts:
                    _queue_chunk(values, start, end, cache, queue, count)
                    count += 1
                    start = end
            # After a space that begins a chunk, another cut is seldom found.
            if not (cuts and byte == _SPACE) and end + 1 < stop:
                rule = rules.after[byte << np.uint64(8) | np.uint64(values[np.uint64(end + 1)])]
                if rule == CUT or (rule == LOOK and can_cut(values, end + 1, rules)):
                    _queue_chunk(values, start, end + 1, cache, queue, count)
                    count += 1
                    start = end + 1
        position += _BLOCK
    return count, (position, start)


@tuple_splice
def _queue_mark(kind: np.uint64, number: int, queue: Queue, count: int) -> None:
    """Put ``_ADDED`` and an id, or ``_END``, behind ``count`` chunks."""
    place = np.uint64(count) * _CHUNK_WORDS
    queue[place + _FIRST] = np.uint64(number)
    queue[place + _BUCKET] = kind


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
    if not is_short and length <= np.uint64(LONG_CHUNK):
        first = hash_long(values, start, stop, CHUNK)
        fetch_slots(cache.long, first)
    place = np.uint64(count) * _CHUNK_WORDS
    queue[place + _FIRST] = first
    queue[place + _SECOND] = second if is_short else np.uint64(stop)
    queue[place + _START] = np.uint64(start)
    queue[place + _BUCKET] = np.uint64(bucket) if is_short else NO_BUCKET
