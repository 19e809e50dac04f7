"""What a short stretch of text came to when it was last seen: ids and word starts, by its bytes.

A key is up to 15 bytes in two 64-bit words, its length in the last byte; or up to 111 bytes in 14,
for languages that put no spaces between words. There is a table of each kind, of cache lines:

    short   a bucket of 64 bytes    key (2 words) value (2)  |  key (2) value (2)
    long    a slot of 128 bytes     key (14 words) value (2)

    value   count (8 bits), word starts (24), first id (32)  |  second id (32), third id (32)

Ids beyond the third stand in a row of their own, which few slots have a use for. Tables never
grow: a key that finds no place takes that of another, so a text whose words are all new costs time
and no memory, and a frequent word that lost its place is soon back.

Token ids and word starts as they come out, a word start being a bit of a 64-bit word.

    num_tokens 3     ids  7 9 4 . . .      bits  1 0 1 | 0 0 0 …
    append_starts(bits, 3, 2, 0b01)              1 0 1 1 0 | 0 …

That is Arrow's layout of booleans. What lies beyond the tokens is zero within their last 64-bit
word, and the next is written when it is reached, so nothing needs to be cleared beforehand but
the first.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import inline, kernel, splice, tuple_splice
from tokkit.kernels.memory import Bytes, load_last_word, load_word, signed

Bits = NDArray[np.uint64]
Ids = NDArray[np.unsignedinteger[Any]]


@splice
def append_starts(bits: Bits, num_tokens: int, starts: np.uint64) -> None:
    """Set the bits of at most 63 tokens that come after ``num_tokens`` others."""
    word = np.uint64(num_tokens >> 6)
    shift = np.uint64(num_tokens & 63)
    bits[word] |= starts << shift
    bits[word + np.uint64(1)] = (starts >> np.uint64(1)) >> (np.uint64(63) - shift)


@tuple_splice
def read_starts(bits: Bits, first: int, count: int) -> np.uint64:
    """The bits of ``count`` tokens, at most 63, from ``first`` on."""
    word = first >> 6
    shift = np.uint64(first & 63)
    both: np.uint64 = (bits[word] >> shift) | (
        (bits[word + 1] << np.uint64(1)) << (np.uint64(63) - shift)
    )
    return both & np.uint64((np.uint64(1) << np.uint64(count)) - np.uint64(1))


@tuple_splice
def drop_starts(bits: Bits, num_tokens: int) -> None:
    """Forget the bits of all tokens but ``num_tokens``."""
    word = num_tokens >> 6
    bits[word] &= (np.uint64(1) << np.uint64(num_tokens & 63)) - np.uint64(1)


@kernel
def append_tokens(
    ids: Ids, starts: NDArray[np.bool_], num_tokens: int, out_ids: Ids, out_bits: Bits
) -> None:
    """Append tokens that were made elsewhere.

    Args:
        ids: ``[n]``.
        starts: bool ``[n]``.
        num_tokens: how many there are.
        out_ids: as ``ids``, with room for ``n`` more.
        out_bits: likewise.
    """
    drop_starts(out_bits, num_tokens)
    for index in range(ids.size):
        out_ids[num_tokens + index] = ids[index]
        append_starts(out_bits, num_tokens + index, np.uint64(starts[index]))


Words = NDArray[np.uint64]

SHORT_KEY = 15
LONG_KEY = 111
SPILL = 24  # ids of a short slot at most: as many as a value has bits for word starts
LONG_SPILL = 32  # ids of a long one, which is one word
UNKNOWN = -1

# By index into ``counters``: how often the cache was asked for a chunk or for a word of one.
CHUNK_HITS = 0
CHUNK_MISSES = 1
WORD_HITS = 2
WORD_MISSES = 3
NUM_COUNTERS = 4

_LINE_WORDS = 8  # a cache line
_SLOT_WORDS = 4
_LONG_SLOT_WORDS = 16
_LENGTH_WORD = 13  # of a long key
# The bytes of a key that are in its first and second word, by its length.
_FIRST_BYTES = np.array([(1 << 8 * min(n, 8)) - 1 for n in range(17)], np.uint64)
_SECOND_BYTES = np.array([(1 << 8 * max(n - 8, 0)) - 1 for n in range(17)], np.uint64)
_LENGTH = np.uint64(56)
_PRIME_1 = np.uint64(0x9E37_79B9_7F4A_7C15)
_PRIME_2 = np.uint64(0xD6E8_FEB8_6659_FD93)


class WordCache(NamedTuple):
    """The tables.

    Attributes:
        short: uint64 ``[num_buckets * 8]``, aligned to cache lines.
        short_shift: 64 less the binary logarithm of the number of buckets.
        short_spill: uint32 ``[num_buckets * 2, SPILL]``.
        long: uint64 ``[num_slots * 16]``, likewise.
        long_shift: 64 less the binary logarithm of the number of slots.
        long_spill: uint32 ``[num_slots, LONG_SPILL]``.
        key: uint64 ``[14]``, a long key in the making.
        counters: int64 ``[NUM_COUNTERS]``.
    """

    short: Words
    short_shift: int
    short_spill: NDArray[np.uint32]
    long: Words
    long_shift: int
    long_spill: NDArray[np.uint32]
    key: Words
    counters: NDArray[np.int64]


def new_cache(short_bits: int, long_bits: int) -> WordCache:
    """An empty cache of ``2 ** short_bits`` buckets and ``2 ** long_bits`` slots."""
    return WordCache(
        aligned(_LINE_WORDS << short_bits),
        64 - short_bits,
        np.zeros((2 << short_bits, SPILL), np.uint32),
        aligned(_LONG_SLOT_WORDS << long_bits),
        64 - long_bits,
        np.zeros((1 << long_bits, LONG_SPILL), np.uint32),
        np.zeros(_LENGTH_WORD + 1, np.uint64),
        np.zeros(NUM_COUNTERS, np.int64),
    )


def aligned(size: int) -> Words:
    """Zeros that begin at a cache line."""
    words = np.zeros(size + _LINE_WORDS, np.uint64)
    start = -words.ctypes.data % 64 // 8
    return words[start : start + size]


@splice
def short_key(values: Bytes, start: int, length: np.uint64) -> tuple[np.uint64, np.uint64]:
    """The key of at most 15 bytes; of more, words that are no key."""
    if start + 16 <= values.size:
        first, second = load_word(values, start), load_word(values, start + 8)
    else:
        first, second = load_last_word(values, start), load_last_word(values, start + 8)
    bounded = min(length, np.uint64(16))
    first &= _FIRST_BYTES[bounded]
    second &= _SECOND_BYTES[bounded]
    return first, second | length << _LENGTH


@tuple_splice
def key_length(second: np.uint64) -> int:
    """How many bytes have the key whose second word this is."""
    return signed(second >> _LENGTH)


@splice
def find_bucket(first: np.uint64, second: np.uint64, shift: int) -> int:
    """Index of the bucket of a short key."""
    mixed = first * _PRIME_1
    mixed = ((mixed ^ (mixed >> np.uint64(32))) + second) * _PRIME_2
    return signed(mixed >> np.uint64(shift)) * _LINE_WORDS


@splice
def find_short(short: Words, bucket: int, first: np.uint64, second: np.uint64) -> int:
    """Index of the slot with a key, or -1.

    Which of the two slots it is is not told by a branch, which would often be mispredicted.
    """
    place = np.uint64(bucket)
    is_other = (short[place + np.uint64(4)] == first) & (short[place + np.uint64(5)] == second)
    place += np.uint64(_SLOT_WORDS) * np.uint64(is_other)
    is_there = (short[place] == first) & (short[place + np.uint64(1)] == second)
    return signed(place) if is_there else -1


@inline
def find_long(
    key: Words, table: Words, shift: int, values: Bytes, start: int, stop: int
) -> tuple[int, bool]:
    """Index of the slot for 16 to 111 bytes, and whether they are in it; ``key`` gets their key.

    Words of the key between its bytes and its length stay what they were, and are not compared.
    """
    num_words = (stop - start + 7) >> 3
    key[_LENGTH_WORD] = np.uint64(0)
    mixed = np.uint64(stop - start)
    for index in range(num_words):
        position = start + 8 * index
        if position + 8 <= values.size:
            word = load_word(values, position)
        else:
            word = load_last_word(values, position)
        word &= _FIRST_BYTES[min(stop - position, 8)]
        key[index] = word
        mixed = (mixed ^ word) * _PRIME_1
        mixed ^= mixed >> np.uint64(29)
    key[_LENGTH_WORD] |= np.uint64(stop - start) << _LENGTH
    slot = signed((mixed * _PRIME_2) >> np.uint64(shift)) * _LONG_SLOT_WORDS
    if table[slot + _LENGTH_WORD] != key[_LENGTH_WORD]:
        return slot, False
    for index in range(num_words):
        if table[slot + index] != key[index]:
            return slot, False
    return slot, True


@splice
def _append_value(
    table: Words,
    value: int,
    spill: NDArray[np.uint32],
    row: int,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> int:
    """Write the tokens of a slot; returns how many there are then.

    Three ids are written whether there are as many or not: a branch that is often mispredicted
    costs more.
    """
    low, high = table[np.uint64(value)], table[np.uint64(value + 1)]
    count = signed(low & np.uint64(0xFF))
    place = np.uint64(num_tokens)
    append_starts(out_bits, num_tokens, (low >> np.uint64(8)) & np.uint64(0xFF_FFFF))
    out_ids[place] = low >> np.uint64(32)
    out_ids[place + np.uint64(1)] = high & np.uint64(0xFFFF_FFFF)
    out_ids[place + np.uint64(2)] = high >> np.uint64(32)
    for index in range(3, count):
        out_ids[num_tokens + index] = spill[row, index]
    return num_tokens + count


@tuple_splice
def _put_value(
    table: Words,
    value: int,
    spill: NDArray[np.uint32],
    row: int,
    first: int,
    num_tokens: int,
    ids: Ids,
    bits: Bits,
) -> None:
    """Keep the tokens from ``first`` to ``num_tokens`` in a slot."""
    count = num_tokens - first
    starts = read_starts(bits, first, min(count, SPILL))  # of one word none begins later
    low = np.uint64(count) | starts << np.uint64(8)
    high = np.uint64(0)
    if count > 0:
        low |= np.uint64(ids[first]) << np.uint64(32)
    if count > 1:
        high = np.uint64(ids[first + 1])
    if count > 2:
        high |= np.uint64(ids[first + 2]) << np.uint64(32)
    table[value] = low
    table[value + 1] = high
    for index in range(3, count):
        spill[row, index] = ids[first + index]


@tuple_splice
def append_short(cache: WordCache, slot: int, num_tokens: int, out_ids: Ids, out_bits: Bits) -> int:
    """Write the tokens of a slot with a short key; returns how many there are then."""
    return _append_value(
        cache.short, slot + 2, cache.short_spill, slot >> 2, num_tokens, out_ids, out_bits
    )


@tuple_splice
def append_word(
    cache: WordCache,
    values: Bytes,
    start: int,
    stop: int,
    num_tokens: int,
    out_ids: Ids,
    out_bits: Bits,
) -> int:
    """Write the tokens of the bytes from ``start`` to ``stop``, if they are known.

    Returns:
        How many tokens there are then, or ``UNKNOWN``.
    """
    length = stop - start
    if length <= SHORT_KEY:
        first, second = short_key(values, start, np.uint64(length))
        slot = find_short(cache.short, find_bucket(first, second, cache.short_shift), first, second)
        if slot >= 0:
            cache.counters[WORD_HITS] += 1
            return append_short(cache, slot, num_tokens, out_ids, out_bits)
    elif length <= LONG_KEY:
        slot, is_there = find_long(cache.key, cache.long, cache.long_shift, values, start, stop)
        if is_there:
            cache.counters[WORD_HITS] += 1
            return _append_value(
                cache.long, slot + 14, cache.long_spill, slot >> 4, num_tokens, out_ids, out_bits
            )
    cache.counters[WORD_MISSES] += 1
    return UNKNOWN


@tuple_splice
def put_short(
    cache: WordCache,
    values: Bytes,
    start: int,
    stop: int,
    first: int,
    num_tokens: int,
    ids: Ids,
    bits: Bits,
) -> None:
    """Keep what at most 15 bytes came to: the tokens from ``first`` to ``num_tokens``.

    Where there are more than a slot holds they are not kept.
    """
    if num_tokens - first <= SPILL:
        low, high = short_key(values, start, np.uint64(stop - start))
        slot = find_bucket(low, high, cache.short_shift)
        # An empty slot has no length. Else one of two gives way, by the parity of a counter.
        is_other = cache.short[slot + 5] == 0 or cache.counters[WORD_MISSES] & 1
        if cache.short[slot + 1] != 0 and is_other:
            slot += _SLOT_WORDS
        cache.short[slot] = low
        cache.short[slot + 1] = high
        _put_value(
            cache.short, slot + 2, cache.short_spill, slot >> 2, first, num_tokens, ids, bits
        )


@tuple_splice
def put_word(
    cache: WordCache,
    values: Bytes,
    start: int,
    stop: int,
    first: int,
    num_tokens: int,
    ids: Ids,
    bits: Bits,
) -> None:
    """Keep what the one word from ``start`` to ``stop`` came to, if there is a place for so much."""
    length = stop - start
    if length <= SHORT_KEY:
        put_short(cache, values, start, stop, first, num_tokens, ids, bits)
    elif length <= LONG_KEY and num_tokens - first <= LONG_SPILL:
        slot, _ = find_long(cache.key, cache.long, cache.long_shift, values, start, stop)
        for index in range(_LENGTH_WORD + 1):
            cache.long[slot + index] = cache.key[index]
        _put_value(cache.long, slot + 14, cache.long_spill, slot >> 4, first, num_tokens, ids, bits)
