r"""Chunks of text between white space, found ahead of their use, while memory is fetched for them.

A lookup in a large table waits for memory. So some forty chunks are found first, also of several
texts, then all their keys, and then their records in the cache:

    "a cat,  sat\n"   queue_words             a | cat, | sat
                      queue_stretches         a | _cat | , | _ | _sat | \n
                      find_keys               key or hash; starts to fetch bucket or slots
                      find_record_ahead       where the tokens are; starts to fetch them

White space, and for ``queue_stretches`` the punctuation of ASCII, is found 64 bytes at a time, as
bits of a word. So is wide punctuation: Japanese and Chinese without white space are phrases then,
which are looked up as a whole. Where lines were cut into pieces or runs first, 9 MB of Japanese ran
at 185 MB/s a core with BERT's WordPiece, and run at 405; with GPT-4o's BPE at 170, and at 420; with
DeepSeek's three levels of patterns at 90, and at 370.

Keys are found while texts are cut, and records a few chunks before their use. Two loops for these,
over the whole queue, took a seventh more for English: processors fetch few lines at a time, and must
have other work meanwhile.
"""

from typing import Any, NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64, UInt64
from tokkit.kernels.encode.cut_rules import (
    COLUMN_BITS,
    CUT,
    LOOK,
    SINGLE,
    SPACE,
    can_cut,
    can_cut_run,
)
from tokkit.kernels.encode.long_words import fetch_record, fetch_slots, find_record, hash_long
from tokkit.kernels.encode.word_cache import (
    CHUNK,
    SHORT_KEY,
    TokenBuffer,
    WordCache,
    fetch_spill,
    find_bucket,
    short_key,
)
from tokkit.kernels.jit import splice
from tokkit.kernels.memory import (
    decode_character,
    find_either,
    find_small,
    find_wide_marks,
    prefetch,
    trailing_zeros,
)

# A chunk in the queue is four words: its key, or its hash and its stop; its start; and one of
#     the index of its bucket
#     IS_LONG plus the position of a record that has its hash, or plus 0
#     NOT_KEPT, since it is too long
#     IS_ADDED: it is a text that is an added token, whose id is first
#     IS_END: it is no chunk, but the end of a text
Queue = UInt64
FIRST, SECOND, START, PLACE = np.arange(4, dtype=np.uint64)
CHUNK_WORDS = np.uint64(4)
IS_LONG = np.uint64(1 << 63)
NOT_KEPT = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
IS_ADDED = NOT_KEPT - np.uint64(1)
IS_END = NOT_KEPT - np.uint64(2)

# Limits of bytes where texts are looked at. Words and the punctuation behind them are fewer than words
# with punctuation: 117 MB of English have 255,000 and 637,000, and GPT-2's took 257 and 194 MB/s.
WHITE_SPACE = 33
PUNCTUATION = 64

LONG_CHUNK = 255  # most bytes of a chunk that is looked up as a whole
# Least bytes before wide punctuation where text is cut. Warm, of GPT-4o's rate over Japanese and Chinese
# with whole lines and their pieces, phrases of any length reached 1.7 and 0.8, of at least 24 bytes
# 2.5 and 1.2, of 40 bytes 2.5 and 1.4, of 80 bytes 2.6 and 1.5; but longer ones seldom come again
# in new text, which takes up to a sixth longer than with pieces alone in Japanese.
_SHORTEST_PHRASE = 40
_AHEAD = 32
_BLOCK = 64
_ONE = np.uint64(1)
_SPACE = np.uint64(32)
_WIDE = np.uint64(0x80)
# What wide punctuation begins with.
_MARK = 0xE3
_OTHER_MARK = 0xEF

# Where a text was read to, and where the unfinished chunk begins.
Cursor = tuple[int, int]


class Texts(NamedTuple):
    """Texts to process.

    Attributes:
        values: uint8, valid UTF-8.
        offsets: int64 ``[num_texts + 1]``, into ``values``.
        added: int64 ``[num_texts]``, -1, or the id of the added token that a text is; empty if there
            are none.
        rules: ``CutRules``; or for ``queue_words`` the ``kinds`` of characters, and ``is_space`` of
            those of one byte.
        limit: texts are cut before and behind bytes below it, at most 64.
        has_marks: whether they are cut before wide punctuation, too.
        longest: most bytes of a chunk that is looked up, at least 15.
    """

    values: Bytes
    offsets: Int64
    added: Int64
    rules: Any
    limit: int
    has_marks: bool
    longest: int


def new_queue() -> Queue:
    """Return an empty queue; a block of text adds at most one chunk per byte, and one more."""
    return np.zeros((_AHEAD + 2 * _BLOCK) * int(CHUNK_WORDS), np.uint64)


@splice
def is_short(place: np.uint64) -> bool:
    """Return whether a chunk has at most 15 bytes, so that its key has its bytes."""
    return bool(place < IS_LONG)


@splice
def is_long(place: np.uint64) -> bool:
    """Return whether a chunk is looked up by its hash."""
    return bool(IS_LONG <= place < IS_END)


@splice
def fill_queue(
    queue_chunks: Any, texts: Texts, text: int, cursor: Cursor, cache: WordCache, queue: Queue
) -> tuple[int, int, Cursor]:
    """Queue some forty chunks.

    Args:
        queue_chunks: ``queue_words`` or ``queue_stretches``.
        texts: the texts.
        text: number of the text to go on in.
        cursor: where to go on.
        cache: whose lines are fetched.
        queue: the chunks are written to it.

    Returns:
        The number of chunks in the queue, and the text and cursor for the next call.
    """
    count = 0
    while count < _AHEAD and text < texts.offsets.size - 1:
        stop = texts.offsets[text + 1]
        _, start = cursor
        if start < stop and texts.added.size and texts.added[text] >= 0:
            _queue_other(IS_ADDED, texts.added[text], queue, count)
            count += 1
        elif start < stop:
            count, cursor = queue_chunks(texts, cursor, stop, cache, queue, count)
            _, start = cursor
            if start < stop:
                break
        _queue_other(IS_END, 0, queue, count)
        count += 1
        text += 1
        cursor = (stop, stop)
    return count, text, cursor


@splice
def queue_words(
    texts: Texts, cursor: Cursor, stop: int, cache: WordCache, queue: Queue, count: int
) -> tuple[int, Cursor]:
    """Queue the chunks between white space, for a tokenizer that drops white space.

    Args:
        texts: the texts.
        cursor: where to go on.
        stop: where the text ends.
        cache: whose lines are fetched.
        queue: the chunks are written to it.
        count: number of chunks that are in it.

    Returns:
        The new number of chunks, and the cursor for the next call.
    """
    values, rules = texts.values, texts.rules
    position, start = cursor
    while count < _AHEAD and start < stop:
        small = find_small(values, position, stop, texts.limit)
        if texts.has_marks:
            small |= _find_marks(values, position, stop)
        while small:
            end = position + trailing_zeros(small)
            small &= small - _ONE
            if texts.has_marks and end < stop and values[end] >= _WIDE:
                code, _ = decode_character(values, end)
                kind = rules.kinds[code]
                if end - start >= _SHORTEST_PHRASE and (kind == SINGLE or kind == SPACE):
                    _queue_chunk(texts, start, end, cache, queue, count)
                    count += 1
                    start = end
                continue
            if end < stop and not rules.is_space[values[end]]:
                continue
            _queue_chunk(texts, start, end, cache, queue, count)
            count += end > start
            start = end + 1
        position += _BLOCK
    return count, (position, start)


@splice
def queue_stretches(
    texts: Texts, cursor: Cursor, stop: int, cache: WordCache, queue: Queue, count: int
) -> tuple[int, Cursor]:
    """Queue the whole text, cut before and behind bytes below a limit where the rules allow it.

    Args and returns are those of ``queue_words``.
    """
    values, rules = texts.values, texts.rules
    position, start = cursor
    while count < _AHEAD and start < stop:
        small = find_small(values, position, stop, texts.limit)
        if texts.has_marks:
            small |= _find_marks(values, position, stop)
        while small:
            end = position + trailing_zeros(small)
            small &= small - _ONE
            if end == stop:
                _queue_chunk(texts, start, end, cache, queue, count)
                count += end > start
                start = end
                break
            byte = np.uint64(values[end])
            if texts.has_marks and byte >= _WIDE:
                if end - start >= _SHORTEST_PHRASE and can_cut(values, end, rules):
                    _queue_chunk(texts, start, end, cache, queue, count)
                    count += 1
                    start = end
                continue
            cuts = False
            if end > start:
                last = np.uint64(values[end - 1])
                rule = rules.before[last << COLUMN_BITS | byte]
                cuts = rule == CUT or (rule == LOOK and can_cut(values, end, rules))
                if byte == _SPACE and last <= _SPACE and end + 1 < stop:
                    cuts = cuts or can_cut_run(values, end, rules)
                if cuts:
                    _queue_chunk(texts, start, end, cache, queue, count)
                    count += 1
                    start = end
            # After a space that begins a chunk, another cut is seldom found.
            if not (cuts and byte == _SPACE) and end + 1 < stop:
                rule = rules.after[byte << np.uint64(8) | np.uint64(values[end + 1])]
                if rule == CUT or (rule == LOOK and can_cut(values, end + 1, rules)):
                    _queue_chunk(texts, start, end + 1, cache, queue, count)
                    count += 1
                    start = end + 1
        position += _BLOCK
    return count, (position, start)


@splice
def _find_marks(values: Bytes, position: int, stop: int) -> np.uint64:
    """Return a bit for each of 64 bytes where wide punctuation begins before ``stop``."""
    if position + _BLOCK >= values.size or not find_either(values, position, _MARK, _OTHER_MARK):
        return np.uint64(0)
    marks: np.uint64 = find_wide_marks(values, position)
    if stop - position < _BLOCK:
        marks &= (_ONE << np.uint64(stop - position)) - _ONE
    return marks


@splice
def _queue_chunk(
    texts: Texts, start: int, stop: int, cache: WordCache, queue: Queue, count: int
) -> None:
    """Put a chunk behind ``count`` others, and fetch its bucket or slots."""
    entry = np.uint64(count) * CHUNK_WORDS
    queue[entry + START] = np.uint64(start)
    if stop - start <= SHORT_KEY:
        first, second = short_key(texts.values, start, np.uint64(stop - start))
        bucket = find_bucket(first, second, cache.short_shift)
        prefetch(cache.short, bucket)
        queue[entry + FIRST] = first
        queue[entry + SECOND] = second
        queue[entry + PLACE] = np.uint64(bucket)
        return
    queue[entry + SECOND] = np.uint64(stop)
    queue[entry + PLACE] = NOT_KEPT
    if stop - start <= texts.longest:
        mixed = hash_long(texts.values, start, stop, CHUNK)
        fetch_slots(cache.long, mixed)
        queue[entry + FIRST] = mixed
        queue[entry + PLACE] = IS_LONG


@splice
def _queue_other(kind: np.uint64, number: int, queue: Queue, count: int) -> None:
    """Put ``IS_ADDED`` and an id, or ``IS_END``, behind ``count`` chunks."""
    entry = np.uint64(count) * CHUNK_WORDS
    queue[entry + FIRST] = np.uint64(number)
    queue[entry + PLACE] = kind


@splice
def find_record_ahead(tables: tuple[Any, WordCache, TokenBuffer], queue: Queue, index: int) -> None:
    """Fetch the tokens of a chunk, and fill in where those of a long one are."""
    _, cache, out = tables
    entry = np.uint64(index) * CHUNK_WORDS
    place = queue[entry + PLACE]
    if is_short(place):
        fetch_spill(cache, place, queue[entry + FIRST], queue[entry + SECOND], out)
    elif place == IS_LONG:
        record = find_record(cache.long, queue[entry + FIRST])
        fetch_record(cache.long, record)
        queue[entry + PLACE] = IS_LONG | record


@splice
def find_nothing(_tables: tuple[Any, WordCache, Any], _queue: Queue, _index: int) -> None:
    """Leave a chunk as it is."""
