"""A cache from the bytes of a word to its token ids and word starts, and the buffer for both.

A key is up to 15 bytes in two 64-bit words, with its length in the last byte. Their table has cache
lines; longer words are kept elsewhere (``long_words``):

    a bucket of 64 bytes    key (2 words) value (2)  |  key (2) value (2)
    value                   count (8 bits), word starts (24), ids (32)  |  ids (64)

A value has three ids, or six of 16 bits. The others are in a spill row per slot, which is not fetched
in advance: with three ids of 16 bits, too, a tenth of the time of English prose went there. Tables
never grow: a key that finds no free slot replaces another, so a text whose words are all new costs
time and no memory, and a frequent word that was replaced is soon back.

Word starts are a bit per token in 64-bit words, Arrow's layout of booleans:

    num_tokens 3     ids  7 9 4 . . .      starts  1 0 1 | 0 0 0 …
    append_starts(starts, 3, 2, 0b01)              1 0 1 1 0 | 0 …

Bits beyond the last token are zero within its 64-bit word, and the next word is written when it is
reached, so only the first one has to be cleared beforehand.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Ids, Int64, UInt32, UInt64
from tokkit.kernels.encode.long_words import (
    LONG_KEY,
    MAX_IDS,
    LongWords,
    add_long,
    aligned_zeros,
    find_ids,
    find_record,
    find_starts,
    hash_long,
    holds_word,
    new_long_words,
)
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import (
    HASH_PRIME,
    HASH_PRIME_2,
    item_bytes,
    load_last_word,
    load_word,
    prefetch,
    signed,
    store_word,
)

SHORT_KEY = 15
SPILL = 24  # most ids of a short slot: as many as a value has bits for word starts
SPARE_IDS = 6  # room behind a text's ids, since more may be written than a word has
UNKNOWN = -1
# Added to the second word of a short key, to keep kinds of keys apart.
CHUNK = np.uint64(0)
PIECE = np.uint64(1 << 63)
PART = np.uint64(1 << 62)  # of a piece

# Indices into ``counters``: lookups of chunks, and of words in chunks that were not found.
CHUNK_HITS = 0
CHUNK_MISSES = 1
WORD_HITS = 2
WORD_MISSES = 3
NUM_COUNTERS = 4

_LINE_WORDS = 8  # of a cache line
_SLOT_WORDS = 4
_QUEUE_SIZE = 160
# Masks for the bytes of a key in its first and second word, by the key's length.
_FIRST_BYTES = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(17)], np.uint64)
_SECOND_BYTES = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(17)], np.uint64)
_LENGTH_SHIFT = np.uint64(56)
_HALF = np.uint64(32)
_HALF_BYTES = 4
_WORD_BYTES = 8
_SHORT_ID = 2  # bytes
_ID_SHIFT = np.uint64(48)
# Bits of counts beyond three ids, or beyond seven of 16 bits.
_LARGE_COUNTS = np.uint64(0xFC)
_LARGE_SHORT_COUNTS = np.uint64(0xF8)


class TokenBuffer(NamedTuple):
    """Memory that tokens are written to.

    Attributes:
        ids: the token ids.
        starts: uint64, a bit for each token, set where a word starts.
    """

    ids: Ids
    starts: UInt64


class WordCache(NamedTuple):
    """The tables.

    Attributes:
        short: uint64 ``[num_buckets * 8]``, aligned to cache lines.
        short_shift: 64 less the binary logarithm of the number of buckets.
        short_spill: uint32 ``[num_buckets * 2, SPILL]``.
        long: words of 16 bytes and more.
        queue: uint64 ``[160]``, words to look up; see ``word_queue``.
        counters: int64 ``[NUM_COUNTERS]``.
    """

    short: UInt64
    short_shift: int
    short_spill: UInt32
    long: LongWords
    queue: UInt64
    counters: Int64


def new_cache(short_bits: int, index_bits: int, arena_bits: int) -> WordCache:
    """Return an empty cache of ``2 ** short_bits`` buckets; see ``new_long_words`` for the others."""
    return WordCache(
        aligned_zeros(_LINE_WORDS << short_bits),
        64 - short_bits,
        np.zeros((2 << short_bits, SPILL), np.uint32),
        new_long_words(index_bits, arena_bits),
        np.zeros(_QUEUE_SIZE, np.uint64),
        np.zeros(NUM_COUNTERS, np.int64),
    )


@splice
def append_starts(starts: UInt64, num_tokens: int, bits: np.uint64) -> None:
    """Set the bits of at most 63 tokens that follow ``num_tokens`` others."""
    word = np.uint64(num_tokens >> 6)
    shift = np.uint64(num_tokens & 63)
    starts[word] |= bits << shift
    starts[word + np.uint64(1)] = (bits >> np.uint64(1)) >> (np.uint64(63) - shift)


@splice
def _read_starts(starts: UInt64, first: int, count: int) -> np.uint64:
    """Return the bits of ``count`` tokens, at most 63, from ``first`` on."""
    word = first >> 6
    shift = np.uint64(first & 63)
    both: np.uint64 = (starts[word] >> shift) | (
        (starts[word + 1] << np.uint64(1)) << (np.uint64(63) - shift)
    )
    return both & np.uint64((np.uint64(1) << np.uint64(count)) - np.uint64(1))


@splice
def drop_starts(starts: UInt64, num_tokens: int) -> None:
    """Clear the bits of all tokens after the first ``num_tokens``."""
    starts[num_tokens >> 6] &= (np.uint64(1) << np.uint64(num_tokens & 63)) - np.uint64(1)


@kernel
def append_tokens(
    ids: Ids, starts: Bools, num_tokens: int, out_ids: Ids, out_starts: UInt64
) -> None:
    """Append tokens that the library made.

    Args:
        ids: ``[n]``.
        starts: bool ``[n]``, whether each starts a word.
        num_tokens: number of tokens in the buffer.
        out_ids: ids of a ``TokenBuffer``, with room for ``n`` more.
        out_starts: word starts of a ``TokenBuffer``, with room for ``n`` more.
    """
    drop_starts(out_starts, num_tokens)
    for index in range(ids.size):
        out_ids[num_tokens + index] = ids[index]
        append_starts(out_starts, num_tokens + index, np.uint64(starts[index]))


@splice
def short_key(values: Bytes, start: int, length: np.uint64) -> tuple[np.uint64, np.uint64]:
    """Return the key of at most 15 bytes; for more, words that equal no key."""
    if start + 16 <= values.size:
        first, second = load_word(values, start), load_word(values, start + 8)
    else:
        first, second = load_last_word(values, start), load_last_word(values, start + 8)
    bounded = min(length, np.uint64(16))
    first &= _FIRST_BYTES[bounded]
    second &= _SECOND_BYTES[bounded]
    return first, second | length << _LENGTH_SHIFT


@splice
def key_length(second: np.uint64) -> int:
    """Return the number of bytes of the key with this second word."""
    return signed(second >> _LENGTH_SHIFT)


@splice
def find_bucket(first: np.uint64, second: np.uint64, shift: int) -> int:
    """Return the index of the bucket of a short key."""
    mixed = first * HASH_PRIME
    mixed = ((mixed ^ (mixed >> _HALF)) + second) * HASH_PRIME_2
    return signed(mixed >> np.uint64(shift)) * _LINE_WORDS


@splice
def find_short(short: UInt64, bucket: int, first: np.uint64, second: np.uint64) -> int:
    """Return the index of the slot with a short key, or -1.

    Selects one of the two slots without a branch, which would often be mispredicted.
    """
    place = np.uint64(bucket)
    is_other = (short[place + np.uint64(4)] == first) & (short[place + np.uint64(5)] == second)
    place += np.uint64(_SLOT_WORDS) * np.uint64(is_other)
    is_there = (short[place] == first) & (short[place + np.uint64(1)] == second)
    return signed(place) if is_there else -1


@splice
def fetch_spill(
    cache: WordCache, bucket: np.uint64, first: np.uint64, second: np.uint64, out: TokenBuffer
) -> None:
    """Fetch the ids of a short key that its value has no room for.

    Japanese waited for them a tenth of the time. Few English words have any, so all that they cost
    is a look at both counts of the bucket.
    """
    counts = cache.short[bucket + np.uint64(2)] | cache.short[bucket + np.uint64(6)]
    is_large = _LARGE_SHORT_COUNTS if item_bytes(out.ids) == _SHORT_ID else _LARGE_COUNTS
    if counts & is_large:
        slot = find_short(cache.short, signed(bucket), first, second)
        if slot >= 0:
            num_ids = 3 * (_HALF_BYTES // item_bytes(out.ids))
            prefetch(cache.short_spill, (slot >> 2) * SPILL + num_ids)


@splice
def _append_value(
    table: UInt64, value: int, spill: UInt32, row: int, num_tokens: int, out: TokenBuffer
) -> int:
    """Append the tokens of a slot; returns the new number of tokens."""
    low = table[value]
    append_starts(out.starts, num_tokens, (low >> np.uint64(8)) & np.uint64(0xFF_FFFF))
    return append_ids(table, value, spill, row, num_tokens, out)


@splice
def append_ids(
    table: UInt64, value: int, spill: UInt32, row: int, num_tokens: int, out: TokenBuffer
) -> int:
    """Append the ids of a slot; returns the new number of tokens.

    Always writes all ids of the value: a branch that is often mispredicted costs more.
    """
    low, high = table[value], table[value + 1]
    count = signed(low & np.uint64(0xFF))
    place = np.uint64(num_tokens)
    out.ids[place] = low >> _HALF
    if item_bytes(out.ids) == _SHORT_ID:
        out.ids[place + np.uint64(1)] = low >> _ID_SHIFT
    num_ids = _HALF_BYTES // item_bytes(out.ids)
    store_word(out.ids, num_tokens + num_ids, high)
    for index in range(3 * num_ids, count):
        out.ids[num_tokens + index] = spill[row, index]
    return num_tokens + count


@splice
def _put_value(
    table: UInt64, value: int, spill: UInt32, row: int, first: int, last: int, out: TokenBuffer
) -> None:
    """Store the tokens from ``first`` to ``last`` in a slot.

    Where they are fewer than a value has room for, it gets whatever is behind them.
    """
    count = last - first
    num_ids = _HALF_BYTES // item_bytes(out.ids)
    low = np.uint64(count) | _read_starts(out.starts, first, count) << np.uint64(8)
    table[value] = low | load_word(out.ids, first) << _HALF
    table[value + 1] = load_word(out.ids, first + num_ids)
    for index in range(3 * num_ids, count):
        spill[row, index] = out.ids[first + index]


@splice
def append_short(cache: WordCache, slot: int, num_tokens: int, out: TokenBuffer) -> int:
    """Append the tokens of a slot with a short key; returns the new number of tokens."""
    return _append_value(cache.short, slot + 2, cache.short_spill, slot >> 2, num_tokens, out)


@splice
def append_long(
    cache: WordCache,
    values: Bytes,
    start: int,
    stop: int,
    kind: np.uint64,
    mixed: np.uint64,
    num_tokens: int,
    out: TokenBuffer,
) -> int:
    """Append the tokens of 16 to 255 bytes with this hash if they are in the cache.

    Returns:
        The new number of tokens, or ``UNKNOWN``.
    """
    record = find_record(cache.long, mixed)
    return append_record(cache, values, start, stop, kind, record, num_tokens, out)


@splice
def append_record(
    cache: WordCache,
    values: Bytes,
    start: int,
    stop: int,
    kind: np.uint64,
    record: np.uint64,
    num_tokens: int,
    out: TokenBuffer,
) -> int:
    """Append the tokens of 16 to 255 bytes if they are those of a record; see ``append_long``."""
    if not holds_word(cache.long, record, values, start, stop, kind):
        return UNKNOWN
    arena = cache.long.arena
    place = find_starts(cache.long, record)
    append_starts(out.starts, num_tokens, arena[place])
    place, count = find_ids(cache.long, record)
    for index in range(0, count, _WORD_BYTES // item_bytes(out.ids)):
        store_word(out.ids, num_tokens + index, arena[place])
        place += 1
    return num_tokens + count


@splice
def put_short(
    cache: WordCache,
    values: Bytes,
    start: int,
    stop: int,
    kind: np.uint64,
    first: int,
    last: int,
    out: TokenBuffer,
) -> None:
    """Store the tokens from ``first`` to ``last`` under at most 15 bytes, if they fit."""
    if last - first <= SPILL:
        low, high = short_key(values, start, np.uint64(stop - start))
        high |= kind
        slot = find_bucket(low, high, cache.short_shift)
        # An empty slot has no length. If both are taken, the parity of a counter selects one.
        is_other = cache.short[slot + 5] == 0 or cache.counters[WORD_MISSES] & 1
        if cache.short[slot + 1] != 0 and is_other:
            slot += _SLOT_WORDS
        cache.short[slot] = low
        cache.short[slot + 1] = high
        _put_value(cache.short, slot + 2, cache.short_spill, slot >> 2, first, last, out)


@splice
def put_word(
    cache: WordCache,
    values: Bytes,
    start: int,
    stop: int,
    kind: np.uint64,
    first: int,
    last: int,
    out: TokenBuffer,
) -> None:
    """Store the tokens from ``first`` to ``last`` under a word, if both fit."""
    count = last - first
    if stop - start <= SHORT_KEY:
        put_short(cache, values, start, stop, kind, first, last, out)
    elif stop - start <= LONG_KEY and count <= MAX_IDS:
        arena, mixed = cache.long.arena, hash_long(values, start, stop, kind)
        num_ids = _WORD_BYTES // item_bytes(out.ids)
        num_words = (count + num_ids - 1) // num_ids
        starts, place = add_long(cache.long, values, start, stop, kind, mixed, count, num_words)
        arena[starts] = _read_starts(out.starts, first, count)
        for index in range(num_words):
            arena[place + index] = load_word(out.ids, first + index * num_ids)
