"""Hash tables of words and of chunks of text, with the number of their occurrences.

    arena   t h e c a t ...
    slot    hash, start of the word in the arena, its length, its count

A word is first written behind the others and then looked up: if it is there already, the next word
overwrites it. Chunks of up to 15 bytes have their bytes in their slot, as in ``word_cache``:

    slot    first word of the key, second word of the key, count, unused

Both tables use linear probing. Neither grows: the caller empties a table that is full.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64, UInt64
from tokkit.kernels.encode.long_words import aligned_zeros
from tokkit.kernels.encode.word_cache import WordCache, key_length, new_cache
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import HASH_PRIME, HASH_PRIME_2, load_word, signed

# Longer words are cut, since the trainers' time grows with a word's length.
LONGEST_WORD = 1 << 14
# Room for one more word, with the bytes of a character too many and those loaded beyond the end.
WORD_ROOM = LONGEST_WORD + 64

# Indices into ``filled``.
NUM_WORDS = 0
NUM_BYTES = 1
NUM_CHUNKS = 2
NUM_FILLED = 3

# Parts of a slot of the table of words.
SLOT_WORDS = 4
_HASH, START, LENGTH, COUNT = np.arange(SLOT_WORDS, dtype=np.int64)


class WordTable(NamedTuple):
    """The tables.

    Attributes:
        slots: uint64 ``[num_slots * 4]``, a power of two.
        arena: uint8, the words' bytes.
        chunks: a ``WordCache`` of which only the short table is used.
        filled: int64 ``[NUM_FILLED]``: number of words, bytes of the arena, and chunks.
    """

    slots: UInt64
    arena: Bytes
    chunks: WordCache
    filled: Int64


def new_table(memory: int) -> WordTable:
    """Return an empty table of about ``memory`` bytes, but at least 100 kB and at most 112 MB.

    English prose has 0.4 million distinct chunks and 0.1 million words in 64 MB. A table for four
    times as many words took a tenth longer to fill: most of the time is waiting for memory.
    """
    chunk_bits = min(max((memory // 4).bit_length() - 1, 12), 25) - 5
    word_bits = min(max((memory // 4).bit_length() - 1, 12), 24) - 5
    arena = min(max(memory // 4, 4 * WORD_ROOM), 64 << 20)
    chunks = new_cache(0, 1, 1)._replace(
        short=aligned_zeros(SLOT_WORDS << chunk_bits), short_shift=64 - chunk_bits + 1
    )
    return WordTable(
        aligned_zeros(SLOT_WORDS << word_bits),
        np.empty(arena, np.uint8),
        chunks,
        np.zeros(NUM_FILLED, np.int64),
    )


@splice
def has_room(table: WordTable) -> bool:
    """Return whether one more word fits, with at most 5 of 8 slots taken."""
    limit = table.slots.size // 32 * 5
    is_full: bool = (
        table.filled[NUM_WORDS] >= limit or table.filled[NUM_BYTES] + WORD_ROOM > table.arena.size
    )
    return not is_full


@inline
def _load_masked(values: Bytes, position: int, stop: int) -> np.uint64:
    """Return up to eight bytes before ``stop``, then zeros; the array must go on for eight bytes."""
    word: np.uint64 = load_word(values, position)
    rest = stop - position
    if rest < 8:
        word &= (np.uint64(1) << np.uint64(8 * rest)) - np.uint64(1)
    return word


@inline
def _is_same(values: Bytes, one: int, other: int, length: int) -> bool:
    """Return whether two words of the same length are equal."""
    for index in range(0, length, 8):
        if _load_masked(values, one + index, one + length) != _load_masked(
            values, other + index, other + length
        ):
            return False
    return True


@inline
def count_written(table: WordTable, length: int, count: int) -> None:
    """Count the word that was written behind the others; there must be room for it."""
    arena, slots = table.arena, table.slots
    start = table.filled[NUM_BYTES]
    stop = start + length
    mixed = np.uint64(length) * HASH_PRIME_2
    for position in range(start, stop, 8):
        mixed = (mixed ^ _load_masked(arena, position, stop)) * HASH_PRIME
        mixed ^= mixed >> np.uint64(32)
    mixed *= HASH_PRIME_2
    mask = slots.size // SLOT_WORDS - 1
    slot = signed(mixed >> np.uint64(24)) & mask
    while True:
        place = slot * SLOT_WORDS
        if slots[place + LENGTH] == 0:
            slots[place + _HASH] = mixed
            slots[place + START] = np.uint64(start)
            slots[place + LENGTH] = np.uint64(length)
            slots[place + COUNT] = np.uint64(count)
            table.filled[NUM_WORDS] += 1
            table.filled[NUM_BYTES] += length
            return
        if (
            slots[place + _HASH] == mixed
            and slots[place + LENGTH] == np.uint64(length)
            and _is_same(arena, signed(slots[place + START]), start, length)
        ):
            slots[place + COUNT] += np.uint64(count)
            return
        slot = (slot + 1) & mask


@inline
def count_bytes(table: WordTable, values: Bytes, start: int, stop: int, count: int) -> None:
    """Count a word of a text as it stands; there must be room for it."""
    place = table.filled[NUM_BYTES]
    for index in range(stop - start):
        table.arena[place + index] = values[start + index]
    count_written(table, stop - start, count)


@kernel
def count_words(values: Bytes, offsets: Int64, first: int, count: int, table: WordTable) -> int:
    """Count words, each ``count`` times, from the ``first`` on.

    Returns:
        The first word that did not fit, or the number of words.
    """
    for word in range(first, offsets.size - 1):
        if not has_room(table):
            return word
        count_bytes(table, values, offsets[word], offsets[word + 1], count)
    return offsets.size - 1


@splice
def find_chunk(short: UInt64, bucket: int, first: np.uint64, second: np.uint64) -> int:
    """Return the index of the slot of a chunk, or of an empty one for it."""
    place = bucket
    while short[place + 1] != 0 and (short[place] != first or short[place + 1] != second):
        place = (place + SLOT_WORDS) & (short.size - 1)
    return place


@splice
def put_chunk(table: WordTable, bucket: int, first: np.uint64, second: np.uint64) -> bool:
    """Add a chunk that is not in the table; returns False if too many slots are taken."""
    short = table.chunks.short
    if table.filled[NUM_CHUNKS] >= short.size // 32 * 5:
        return False
    table.filled[NUM_CHUNKS] += 1
    place = find_chunk(short, bucket, first, second)
    short[place] = first
    short[place + 1] = second
    short[place + 2] = 1
    return True


@kernel
def take_chunks(
    short: UInt64, place: int, out_values: Bytes, out_offsets: Int64, out_counts: Int64
) -> tuple[int, int]:
    """Take chunks out of their table, as many as there is room for, and empty their slots.

    Args:
        short: the table.
        place: index of the slot to begin with.
        out_values: uint8 ``[16 * num_chunks]``.
        out_offsets: int64 ``[num_chunks + 1]``.
        out_counts: int64 ``[num_chunks]``.

    Returns:
        The index of the slot to go on with, and the number of chunks.
    """
    count = 0
    stop = 0
    out_offsets[0] = 0
    while place < short.size and count < out_counts.size:
        if short[place + 1] != 0:
            length = key_length(short[place + 1])
            for index in range(length):
                word = short[place + (index >> 3)]
                out_values[stop + index] = (word >> np.uint64(8 * (index & 7))) & np.uint64(0xFF)
            stop += length
            out_counts[count] = signed(short[place + 2])
            count += 1
            out_offsets[count] = stop
            for index in range(SLOT_WORDS):
                short[place + index] = np.uint64(0)
        place += SLOT_WORDS
    return place, count
