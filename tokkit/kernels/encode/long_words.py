"""A cache of words of 16 to 255 bytes, for languages without spaces between words.

Words are records behind each other in an arena, which is written round and round:

    header, word starts, key (2 to 32 words), ids (two to a word, or four)
    header    length of the key (8 bits), number of ids (8), kind (the highest bit)

Where a record is, an index tells: 16 bits of the word's hash, and the record's position, which
counts on when the arena begins again. A record is there as long as less than the arena's size was
written since its position. A word has the eight slots of a cache line in the index; a new one replaces
the oldest word there. With two slots to a word a tenth of the phrases of 9 MB of Japanese were lost,
and these took a third of the time.

Japanese has a new phrase every 45 bytes. With a table of fixed slots, one to a hash, which was 8 MB
large, byte-level BPE of 9 MB of Japanese ran at 28 MB/s a core, and does at 102 with this one.
Russian, a third of whose words have more than 15 bytes, went from 96 MB/s to 217 when chunks were
looked up here as a whole.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, UInt64
from tokkit.kernels.jit import inline, splice
from tokkit.kernels.memory import (
    HASH_PRIME,
    HASH_PRIME_2,
    load_word,
    multiply_fold,
    prefetch,
    signed,
)

LONG_KEY = 255
MAX_IDS = 63  # their word starts are one word

_KIND = np.uint64(1 << 63)
_COUNT_SHIFT = np.uint64(8)
_COUNT_MASK = np.uint64(0xFF00)
_TAG_SHIFT = np.uint64(48)
_TAG_BITS = np.uint64(0xFFFF << 48)
_HALF = np.uint64(32)
_ONE = np.uint64(1)
_LINE_WORDS = 8  # of a cache line


class LongWords(NamedTuple):
    """The cache.

    Attributes:
        slots: uint64 ``[2 ** n * 8]``, the index: tags and positions; aligned to cache lines.
        shift: 64 - n.
        arena: uint64 ``[2 ** m]``.
        head: uint64 ``[1]``, position of the next record; the first is at 2 ** (m + 1), so that a
            free slot is an old one.
    """

    slots: UInt64
    shift: int
    arena: UInt64
    head: UInt64


def aligned_zeros(size: int) -> UInt64:
    """Return zeros that begin at a cache line."""
    words = np.zeros(size + _LINE_WORDS, np.uint64)
    start = -words.ctypes.data % 64 // 8
    return words[start : start + size]


def new_long_words(index_bits: int, arena_bits: int) -> LongWords:
    """Return an empty cache of ``2 ** index_bits`` slots and an arena of ``2 ** arena_bits`` words.

    There are at least 16 slots. The arena has at least 128 words, so that the largest record fits.
    """
    index_bits = max(index_bits, 4)
    return LongWords(
        aligned_zeros(1 << index_bits),
        64 - index_bits + 3,
        np.zeros(1 << arena_bits, np.uint64),
        np.array([2 << arena_bits], np.uint64),
    )


@splice
def _load_last(values: Bytes, stop: int, rest: int) -> np.uint64:
    """Return the last ``rest`` bytes of a word, 1 to 7, followed by zeros."""
    word: np.uint64 = load_word(values, stop - 8) >> np.uint64(64 - 8 * rest)
    return word


@splice
def hash_long(values: Bytes, start: int, stop: int, kind: np.uint64) -> np.uint64:
    """Return the hash of a word of at least 16 bytes; the last 16 may be read twice.

    Each step multiplies to 128 bits, as wyhash does. With eight bytes to a step, the last ones
    masked, it took twice as long.
    """
    mixed = (np.uint64(stop - start) ^ kind) * HASH_PRIME
    for position in range(start, stop - 16, 16):
        first, second = load_word(values, position), load_word(values, position + 8)
        mixed = multiply_fold(first ^ HASH_PRIME, second ^ mixed)
    first, second = load_word(values, stop - 16), load_word(values, stop - 8)
    mixed = multiply_fold(first ^ HASH_PRIME, second ^ mixed)
    hashed: np.uint64 = multiply_fold(mixed, HASH_PRIME_2)
    return hashed


@splice
def _find_line(words: LongWords, mixed: np.uint64) -> np.uint64:
    """Return the first slot of a word with this hash."""
    return (mixed >> np.uint64(words.shift)) * np.uint64(_LINE_WORDS)


@splice
def fetch_slots(words: LongWords, mixed: np.uint64) -> None:
    """Fetch the slots of a word with this hash."""
    prefetch(words.slots, signed(_find_line(words, mixed)))


@splice
def find_record(words: LongWords, mixed: np.uint64) -> np.uint64:
    """Return the position of the newest record with the tag of a hash; 0 for none."""
    line = _find_line(words, mixed)
    tag = (mixed << _HALF) & _TAG_BITS
    newest = np.uint64(0)
    for index in range(_LINE_WORDS):
        # The position alone, if the tag is the same.
        entry = words.slots[line + np.uint64(index)] ^ tag
        newest = entry if newest < entry <= ~_TAG_BITS else newest
    return newest


@splice
def _find_place(words: LongWords, record: np.uint64) -> np.uint64:
    """Return where in the arena a record is."""
    return record & np.uint64(words.arena.size - 1)


@splice
def fetch_record(words: LongWords, record: np.uint64) -> None:
    """Fetch a record."""
    place = _find_place(words, record)
    prefetch(words.arena, signed(place))
    prefetch(words.arena, signed(place + np.uint64(8)))


@splice
def holds_word(
    words: LongWords, record: np.uint64, values: Bytes, start: int, stop: int, kind: np.uint64
) -> bool:
    """Return whether a record is there, and is that of a word.

    Args:
        words: the cache.
        record: its position, or 0.
        values: uint8.
        start: where the word begins.
        stop: where it ends, 16 to 255 bytes behind.
        kind: 0, or the highest bit.
    """
    arena = words.arena
    if words.head[0] - record > np.uint64(arena.size):
        return False
    place = _find_place(words, record)
    if arena[place] & ~_COUNT_MASK != np.uint64(stop - start) | kind:
        return False
    place += np.uint64(2)
    for position in range(start, stop - 7, 8):
        if arena[place] != load_word(values, position):
            return False
        place += _ONE
    rest = (stop - start) & 7
    return rest == 0 or arena[place] == _load_last(values, stop, rest)


@inline
def add_long(
    words: LongWords,
    values: Bytes,
    start: int,
    stop: int,
    kind: np.uint64,
    mixed: np.uint64,
    num_ids: int,
    id_words: int,
) -> tuple[int, int]:
    """Add a record without its word starts and ids; see ``holds_word``.

    Returns:
        Where its word starts are, and where its ids begin.
    """
    arena = words.arena
    size = np.uint64(arena.size)
    num_words = np.uint64(2 + ((stop - start + 7) >> 3) + id_words)
    head = words.head[0]
    if (head & (size - _ONE)) + num_words > size:
        head = (head | (size - _ONE)) + _ONE
    words.head[0] = head + num_words
    line = _find_line(words, mixed)
    slot = line  # of the record that was written first, which may be gone already
    for index in range(1, _LINE_WORDS):
        other = line + np.uint64(index)
        if words.slots[other] & ~_TAG_BITS < words.slots[slot] & ~_TAG_BITS:
            slot = other
    words.slots[slot] = (mixed << _HALF) & _TAG_BITS | head
    place = head & (size - _ONE)
    starts = place + _ONE
    arena[place] = np.uint64(stop - start) | kind | np.uint64(num_ids) << _COUNT_SHIFT
    place += np.uint64(2)
    for position in range(start, stop - 7, 8):
        arena[place] = load_word(values, position)
        place += _ONE
    rest = (stop - start) & 7
    if rest:
        arena[place] = _load_last(values, stop, rest)
        place += _ONE
    return signed(starts), signed(place)


@splice
def find_starts(words: LongWords, record: np.uint64) -> int:
    """Return where the word starts of a record are."""
    return signed(_find_place(words, record) + _ONE)


@splice
def find_ids(words: LongWords, record: np.uint64) -> tuple[int, int]:
    """Return where the ids of a record begin, and how many there are."""
    place = signed(_find_place(words, record))
    header = words.arena[place]
    length = signed(header & np.uint64(0xFF))
    return place + 2 + ((length + 7) >> 3), signed((header & _COUNT_MASK) >> _COUNT_SHIFT)
