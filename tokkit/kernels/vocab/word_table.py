"""Hash tables of words and of chunks of text, with the number of their occurrences.

    arena   t h e c a t ...
    slot    hash, start of the word in the arena, its length, its count

A word is first written behind the others and then looked up: if it is there already, the next word
overwrites it. Chunks of up to 15 bytes have their bytes in their slot, as in ``word_cache``:

    slot    first word of the key, second word of the key, count, unused

When chunks are taken out of their table, those that are words as they stand can become slots of words
where they are, without a lookup. A word may have two slots then, one in each table.

Both tables use linear probing. Neither grows: the caller empties a table that is full.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64, UInt64
from tokkit.kernels.encode.long_words import aligned_zeros
from tokkit.kernels.encode.split_text import Splitter, next_piece, start_pieces
from tokkit.kernels.encode.word_cache import WordCache, key_length, new_cache
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import (
    HASH_PRIME,
    HASH_PRIME_2,
    copy_values,
    load_word,
    signed,
    store_word,
)

# Longer words are cut, since the trainers' time grows with a word's length.
LONGEST_WORD = 1 << 14
# Room for one more word, with the bytes of a character too many and those loaded beyond the end.
WORD_ROOM = LONGEST_WORD + 64

# Indices into ``filled``.
NUM_WORDS = 0
NUM_BYTES = 1
NUM_CHUNKS = 2
NUM_KEPT = 3
NUM_FILLED = 4

# Parts of a slot of the table of words.
SLOT_WORDS = 4
_HASH, START, LENGTH, COUNT = np.arange(SLOT_WORDS, dtype=np.int64)


class WordTable(NamedTuple):
    """The tables.

    Attributes:
        entries: uint64, both tables: the slots of words, then those of chunks.
        slots: uint64 ``[num_slots * 4]``, a power of two.
        arena: uint8, the words' bytes.
        chunks: a ``WordCache`` of which only the short table is used.
        filled: int64 ``[NUM_FILLED]``: number of words, bytes of the arena, chunks, and words that
            are slots of the table of chunks.
    """

    entries: UInt64
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
    num_words = SLOT_WORDS << word_bits
    entries = aligned_zeros(num_words + (SLOT_WORDS << chunk_bits))
    chunks = new_cache(0, 1, 1)._replace(short=entries[num_words:], short_shift=64 - chunk_bits + 1)
    return WordTable(
        entries,
        entries[:num_words],
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
def load_masked(values: Bytes, position: int, stop: int) -> np.uint64:
    """Return up to eight bytes before ``stop``, then zeros; the array must go on for eight bytes."""
    word: np.uint64 = load_word(values, position)
    rest = stop - position
    if rest < 8:
        word &= (np.uint64(1) << np.uint64(8 * rest)) - np.uint64(1)
    return word


@inline
def is_same(values: Bytes, one: int, other: int, length: int) -> bool:
    """Return whether two words of the same length are equal."""
    for index in range(0, length, 8):
        if load_masked(values, one + index, one + length) != load_masked(
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
        mixed = (mixed ^ load_masked(arena, position, stop)) * HASH_PRIME
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
            and is_same(arena, signed(slots[place + START]), start, length)
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
    table: WordTable, place: int, out_values: Bytes, out_offsets: Int64, out_counts: Int64
) -> tuple[int, int]:
    """Take chunks out of their table, as many as there is room for, and empty their slots.

    Args:
        table: the table.
        place: index of the slot of a chunk to begin with.
        out_values: uint8 ``[16 * num_chunks]``.
        out_offsets: int64 ``[num_chunks + 1]``.
        out_counts: int64 ``[num_chunks]``.

    Returns:
        The index of the slot to go on with, and the number of chunks.
    """
    short = table.chunks.short
    count = 0
    out_offsets[0] = 0
    while place < short.size and count < out_counts.size:
        if short[place + 1] != 0:
            _take_chunk(short, place, count, out_values, out_offsets, out_counts)
            count += 1
        place += SLOT_WORDS
    return place, count


@kernel
def take_split_chunks(
    splitter: Splitter,
    table: WordTable,
    place: int,
    out_values: Bytes,
    out_offsets: Int64,
    out_counts: Int64,
) -> tuple[int, int]:
    """Take the chunks that are split out of their table; those that are pieces become words there.

    Most chunks are pieces. To look all of them up in the table of words, which they filled, took a
    third of the time in which words that begin with spaces are counted.

    Args and returns are those of ``take_chunks``; ``splitter`` splits the chunks.
    """
    arena, short = table.arena, table.chunks.short
    count = 0
    out_offsets[0] = 0
    while place < short.size and count < out_counts.size:
        if short[place + 1] != 0:
            chunk_count = short[place + 2]
            _take_chunk(short, place, count, out_values, out_offsets, out_counts)
            start, stop = out_offsets[count], out_offsets[count + 1]
            start_pieces(splitter, start)
            first, end, unseen = next_piece(out_values, start, stop, splitter)
            base = table.filled[NUM_BYTES]
            if first == start and end == stop and unseen < 0 and base + WORD_ROOM <= arena.size:
                copy_values(out_values, start, arena, base, stop - start)
                short[place + START] = np.uint64(base)
                short[place + LENGTH] = np.uint64(stop - start)
                short[place + COUNT] = chunk_count
                table.filled[NUM_BYTES] += stop - start
                table.filled[NUM_KEPT] += 1
            else:
                count += 1
        place += SLOT_WORDS
    return place, count


@splice
def _take_chunk(
    short: UInt64,
    place: int,
    count: int,
    out_values: Bytes,
    out_offsets: Int64,
    out_counts: Int64,
) -> None:
    """Move a chunk behind ``count`` others."""
    stop = out_offsets[count]
    store_word(out_values, stop, short[place])
    store_word(out_values, stop + 8, short[place + 1])
    out_offsets[count + 1] = stop + key_length(short[place + 1])
    out_counts[count] = signed(short[place + 2])
    for index in range(SLOT_WORDS):
        short[place + index] = np.uint64(0)
