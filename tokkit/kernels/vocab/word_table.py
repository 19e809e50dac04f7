"""Tables that grow with a text: words and chunks, and how often they occurred.

    arena   t h e c a t ...
    slot    hash, where the word begins in the arena, its length, its count

A word is written behind the others first and then looked for: where it is there already, the next
one overwrites it. Chunks of up to 15 bytes have their bytes in their slot, as in ``wordcache``:

    slot    first word of the key, second word of the key, count, nothing

Both are open-addressing tables that take the next slot where one is taken. Neither grows: the
caller empties a table that is full.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.word_cache import WordCache, Words, aligned, key_length, new_cache
from tokkit.kernels.jit import inline, kernel, tuple_inline, tuple_kernel, tuple_splice
from tokkit.kernels.memory import Bytes, load_word, signed

# The trainers' time grows with a word's length. A longer word is cut.
LONGEST_WORD = 1 << 14

NUM_WORDS = 0
NUM_BYTES = 1
NUM_CHUNKS = 2
NUM_FILLED = 3

_SLOT_WORDS = 4
_HASH, _START, _LENGTH, _COUNT = np.arange(_SLOT_WORDS, dtype=np.int64)
_PRIME_1 = np.uint64(0x9E37_79B9_7F4A_7C15)
_PRIME_2 = np.uint64(0xD6E8_FEB8_6659_FD93)
# A word beside what is there, the bytes of a character too many, and what is loaded beyond.
WORD_ROOM = LONGEST_WORD + 64


class WordTable(NamedTuple):
    """Words and chunks with their counts.

    Attributes:
        slots: uint64 ``[num_slots * 4]``, a power of two.
        arena: uint8, the words' bytes.
        chunks: a ``WordCache`` of which only the short table is used.
        filled: int64 ``[NUM_FILLED]``: words, bytes of the arena and chunks so far.
    """

    slots: Words
    arena: Bytes
    chunks: WordCache
    filled: NDArray[np.int64]


def new_table(memory: int) -> WordTable:
    """An empty table of about so many bytes, though of 100 kB at least and 112 MB at most.

    English prose has 0.4 million distinct chunks and 0.1 million words in 64 MB. A table for four
    times as many words took a tenth longer to fill, most of whose time is waiting for memory.
    """
    chunk_bits = min(max((memory // 4).bit_length() - 1, 12), 25) - 5
    word_bits = min(max((memory // 4).bit_length() - 1, 12), 24) - 5
    arena = min(max(memory // 4, 4 * WORD_ROOM), 64 << 20)
    chunks = new_cache(0, 0)._replace(
        short=aligned(_SLOT_WORDS << chunk_bits), short_shift=64 - chunk_bits + 1
    )
    return WordTable(
        aligned(_SLOT_WORDS << word_bits),
        np.empty(arena, np.uint8),
        chunks,
        np.zeros(NUM_FILLED, np.int64),
    )


@tuple_splice
def has_room(table: WordTable) -> bool:
    """Whether one more word fits, at 5 of 8 slots taken at most."""
    limit = table.slots.size // 32 * 5
    is_full: bool = (
        table.filled[NUM_WORDS] >= limit or table.filled[NUM_BYTES] + WORD_ROOM > table.arena.size
    )
    return not is_full


@inline
def _load_masked(values: Bytes, position: int, stop: int) -> np.uint64:
    """Up to eight bytes before ``stop``, zeros behind; the array goes on for eight at least."""
    word: np.uint64 = load_word(values, position)
    rest = stop - position
    if rest < 8:
        word &= (np.uint64(1) << np.uint64(8 * rest)) - np.uint64(1)
    return word


@inline
def _is_same(values: Bytes, one: int, other: int, length: int) -> bool:
    """Whether two words of a length are the same."""
    for index in range(0, length, 8):
        if _load_masked(values, one + index, one + length) != _load_masked(
            values, other + index, other + length
        ):
            return False
    return True


@tuple_inline
def count_written(table: WordTable, length: int, count: int) -> None:
    """Count the word that was written behind the others; there is room for it."""
    arena, slots = table.arena, table.slots
    start = table.filled[NUM_BYTES]
    stop = start + length
    mixed = np.uint64(length) * _PRIME_2
    for position in range(start, stop, 8):
        mixed = (mixed ^ _load_masked(arena, position, stop)) * _PRIME_1
        mixed ^= mixed >> np.uint64(32)
    mixed *= _PRIME_2
    mask = slots.size // _SLOT_WORDS - 1
    slot = signed(mixed >> np.uint64(24)) & mask
    while True:
        place = slot * _SLOT_WORDS
        if slots[place + _LENGTH] == 0:
            slots[place + _HASH] = mixed
            slots[place + _START] = np.uint64(start)
            slots[place + _LENGTH] = np.uint64(length)
            slots[place + _COUNT] = np.uint64(count)
            table.filled[NUM_WORDS] += 1
            table.filled[NUM_BYTES] += length
            return
        if (
            slots[place + _HASH] == mixed
            and slots[place + _LENGTH] == np.uint64(length)
            and _is_same(arena, signed(slots[place + _START]), start, length)
        ):
            slots[place + _COUNT] += np.uint64(count)
            return
        slot = (slot + 1) & mask


@tuple_inline
def count_bytes(table: WordTable, values: Bytes, start: int, stop: int, count: int) -> None:
    """Count a word of a text as it stands; there is room for it."""
    place = table.filled[NUM_BYTES]
    for index in range(stop - start):
        table.arena[place + index] = values[start + index]
    count_written(table, stop - start, count)


@tuple_kernel
def count_words(
    values: Bytes,
    offsets: NDArray[np.int64],
    first: int,
    count: int,
    table: WordTable,
) -> int:
    """Count words that are known to be words, each ``count`` times, from the ``first`` on.

    Returns:
        The first that did not fit, or how many there are.
    """
    for word in range(first, offsets.size - 1):
        if not has_room(table):
            return word
        count_bytes(table, values, offsets[word], offsets[word + 1], count)
    return offsets.size - 1


@tuple_splice
def find_chunk(short: Words, bucket: int, first: np.uint64, second: np.uint64) -> int:
    """Index of the slot of a chunk, or of an empty one for it."""
    place = bucket
    while short[np.uint64(place + 1)] != 0 and (
        short[np.uint64(place)] != first or short[np.uint64(place + 1)] != second
    ):
        place = (place + _SLOT_WORDS) & (short.size - 1)
    return place


@tuple_splice
def put_chunk(table: WordTable, place: int, first: np.uint64, second: np.uint64) -> bool:
    """Take an empty slot for a chunk; False where too many are taken."""
    short = table.chunks.short
    if table.filled[NUM_CHUNKS] >= short.size // 32 * 5:
        return False
    table.filled[NUM_CHUNKS] += 1
    short[place] = first
    short[place + 1] = second
    short[place + 2] = 1
    return True


@kernel
def take_chunks(
    short: Words,
    place: int,
    out_values: Bytes,
    out_offsets: NDArray[np.int64],
    out_counts: NDArray[np.int64],
) -> tuple[int, int]:
    """Take chunks out of their table, as many as there is room for, and empty their slots.

    Args:
        short: the table.
        place: index of the slot to begin with.
        out_values: uint8 ``[16 * num_chunks]``.
        out_offsets: int64 ``[num_chunks + 1]``.
        out_counts: int64 ``[num_chunks]``.

    Returns:
        The index of the slot to go on with, and how many chunks there are.
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
            for index in range(_SLOT_WORDS):
                short[place + index] = np.uint64(0)
        place += _SLOT_WORDS
    return place, count


@inline
def big_endian(values: Bytes, start: int, stop: int) -> np.uint64:
    """The first eight bytes of a word as a number in whose order words are, zeros behind."""
    word = np.uint64(0)
    for index in range(8):
        byte = np.uint64(values[start + index]) if start + index < stop else np.uint64(0)
        word = (word << np.uint64(8)) | byte
    return word


@inline
def is_before(
    one: Bytes, start: int, stop: int, other: Bytes, other_start: int, other_stop: int
) -> bool:
    """Whether a word comes before another by their bytes."""
    for index in range(min(stop - start, other_stop - other_start)):
        if one[start + index] != other[other_start + index]:
            is_less: bool = one[start + index] < other[other_start + index]
            return is_less
    return stop - start < other_stop - other_start
