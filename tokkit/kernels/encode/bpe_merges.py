"""Byte-pair encoding of one word: merge the neighbours of lowest rank, leftmost first, until none is.

    ranks  e s: 0, es t: 1, l o: 2        l o w e s t  →  l o w es t  →  l o w est  →  lo w est

A short word is searched for the lowest rank again and again; a long one keeps its pairs in a heap,
so that a word of a million letters takes time in proportion to n log n. Both give the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.word_cache import Ids
from tokkit.kernels.jit import kernel, tuple_inline, tuple_splice
from tokkit.kernels.memory import Bytes, signed

NO_MERGE = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
NO_ID = -1
NO_KEY = np.uint32(0xFFFF_FFFF)
_SHORT_WORD = 64
_PLACE_BITS = np.uint64(6)  # of the 32 of a key; the others are a rank below 2 ** 26

_PRIME = np.uint64(0x9E37_79B9_7F4A_7C15)
_KNOWN_SHIFT = np.uint64(64 - 20)
_HALF = np.uint64(32)
_LOW_HALF = np.uint64(0xFFFF_FFFF)


class Merges(NamedTuple):
    """The merges, by pair of ids, and the ids of single bytes.

    Attributes:
        table: uint64 ``[2 ** n * 2]``: one more than left and right id, 32 bits each, and rank and
            merged id, 32 bits each; a pair of zeros is free.
        shift: 64 - n.
        known: uint64 ``[2 ** 14]``: a bit of it is set for each pair that is in the table.
        byte_ids: int64 ``[256]``: the id of a byte, or ``NO_ID``: then the byte is left out.
    """

    table: NDArray[np.uint64]
    shift: int
    known: NDArray[np.uint64]
    byte_ids: NDArray[np.int64]


class Parts(NamedTuple):
    """Room for the parts of one word of at most ``n`` bytes.

    A part is at the place of its first byte; others that were merged into it leave theirs.

    Attributes:
        ids: int64 ``[n]``.
        pairs: uint64 ``[n]``: rank and merged id of each part and the next, or ``NO_MERGE``.
        nexts: int64 ``[n]``, places.
        befores: int64 ``[n]``, places.
        keys: uint32 ``[64]``: rank and place of each pair of a short word.
        heap: uint64 ``[3 * n]``: rank and place of the pairs of a long one.
    """

    ids: NDArray[np.int64]
    pairs: NDArray[np.uint64]
    nexts: NDArray[np.int64]
    befores: NDArray[np.int64]
    keys: NDArray[np.uint32]
    heap: NDArray[np.uint64]


def new_parts(size: int) -> Parts:
    """Room for words of so many bytes."""
    return Parts(
        np.empty(size, np.int64),
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(_SHORT_WORD, np.uint32),
        np.empty(3 * size, np.uint64),
    )


@tuple_splice
def _find_place(
    table: NDArray[np.uint64], shift: int, left: int, right: int
) -> tuple[int, np.uint64]:
    """Where a pair stands, or the free place where it would; and its key."""
    key = (np.uint64(left) << _HALF | np.uint64(right)) + np.uint64(1)
    place = signed((key * _PRIME) >> np.uint64(shift)) * 2
    while table[place] != 0 and table[place] != key:
        place = (place + 2) & (table.size - 1)
    return place, key


@tuple_splice
def _find_merge(merges: Merges, left: int, right: int) -> np.uint64:
    """Rank and merged id of a pair, or ``NO_MERGE``.

    Most pairs are none, which a bit tells without a look into the table, which is beyond the
    processor's nearer caches.
    """
    key = (np.uint64(left) << _HALF | np.uint64(right)) + np.uint64(1)
    mixed = key * _PRIME
    bit = mixed >> _KNOWN_SHIFT
    if not merges.known[bit >> np.uint64(6)] >> (bit & np.uint64(63)) & np.uint64(1):
        return NO_MERGE
    table = merges.table
    place = (mixed >> np.uint64(merges.shift)) * np.uint64(2)
    while table[place] != key:
        if table[place] == 0:
            return NO_MERGE
        place = (place + np.uint64(2)) & np.uint64(table.size - 1)
    merge: np.uint64 = table[place + np.uint64(1)]
    return merge


@kernel
def fill_merges(
    lefts: NDArray[np.int64],
    rights: NDArray[np.int64],
    merged: NDArray[np.int64],
    shift: int,
    out_table: NDArray[np.uint64],
    out_known: NDArray[np.uint64],
) -> None:
    """Put merges into an empty table, by rank; of a pair that comes twice the last counts.

    Args:
        lefts: int64 ``[num_merges]``, ids.
        rights: int64 ``[num_merges]``, ids.
        merged: int64 ``[num_merges]``, ids.
        shift: 64 - n.
        out_table: uint64 ``[2 ** n * 2]``, zeros; ``2 ** n`` is more than ``num_merges`` by half.
        out_known: uint64 ``[2 ** 14]``, zeros.
    """
    for rank in range(lefts.size):
        place, key = _find_place(out_table, shift, lefts[rank], rights[rank])
        out_table[place] = key
        out_table[place + 1] = np.uint64(rank) << _HALF | np.uint64(merged[rank])
        bit = (key * _PRIME) >> _KNOWN_SHIFT
        out_known[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@tuple_inline
def merge_word(
    values: Bytes,
    start: int,
    stop: int,
    merges: Merges,
    parts: Parts,
    num_tokens: int,
    out_ids: Ids,
) -> int:
    """Append the tokens of a word; returns how many there are then."""
    ids, pairs, nexts, befores, _, _ = parts
    length = 0
    for position in range(start, stop):
        number = merges.byte_ids[values[position]]
        if number != NO_ID:
            ids[length] = number
            nexts[length] = length + 1
            befores[length] = length - 1
            length += 1
    for place in range(length - 1):
        pairs[place] = _find_merge(merges, ids[place], ids[place + 1])
    if length <= _SHORT_WORD:
        _merge_by_scan(merges, parts, length)
    else:
        _merge_by_heap(merges, parts, length)
    place = 0
    while place < length:
        out_ids[num_tokens] = ids[place]
        num_tokens += 1
        place = nexts[place]
    return num_tokens


@tuple_splice
def _merge_pair(merges: Merges, parts: Parts, place: int, length: int) -> tuple[int, int]:
    """Merge a part with the next one, and tell its new pairs.

    Returns:
        The place of the part that is gone, and of the one before, or -1.
    """
    ids, pairs, nexts, befores, _, _ = parts
    gone = nexts[place]
    after = nexts[gone]
    before = befores[place]
    ids[place] = signed(pairs[place] & _LOW_HALF)
    nexts[place] = after
    pairs[gone] = NO_MERGE
    pairs[place] = NO_MERGE
    if after < length:
        befores[after] = place
        pairs[place] = _find_merge(merges, ids[place], ids[after])
    if before >= 0:
        pairs[before] = _find_merge(merges, ids[before], ids[place])
    return gone, before


@tuple_splice
def _short_key(pair: np.uint64, place: int) -> np.uint32:
    """Rank and place in 32 bits; the highest number there is for no merge."""
    if pair == NO_MERGE:
        return NO_KEY
    return np.uint32((pair >> _HALF) << _PLACE_BITS | np.uint64(place))


@tuple_splice
def _merge_by_scan(merges: Merges, parts: Parts, length: int) -> None:
    """Merge ``length`` parts, the lowest of all keys first: eight of them to an instruction."""
    keys = parts.keys
    for place in range(_SHORT_WORD):
        keys[place] = NO_KEY
    for place in range(length - 1):
        keys[place] = _short_key(parts.pairs[place], place)
    while True:
        lowest = NO_KEY
        for key in keys:
            lowest = min(lowest, key)
        if lowest == NO_KEY:
            return
        place = signed(lowest) & (_SHORT_WORD - 1)
        gone, before = _merge_pair(merges, parts, place, length)
        keys[gone] = NO_KEY
        keys[place] = _short_key(parts.pairs[place], place)
        if before >= 0:
            keys[before] = _short_key(parts.pairs[before], before)


@tuple_inline
def _merge_by_heap(merges: Merges, parts: Parts, length: int) -> None:
    """Merge ``length`` parts; what the heap says of a place counts if its pair still has that rank."""
    pairs, heap = parts.pairs, parts.heap
    pairs[length - 1] = NO_MERGE
    size = 0
    for place in range(length):
        size = _push(heap, size, pairs[place], place)
    while size > 0:
        lowest = heap[0]
        size = _pop(heap, size)
        place = signed(lowest & _LOW_HALF)
        if pairs[place] != NO_MERGE and pairs[place] >> _HALF == lowest >> _HALF:
            _, before = _merge_pair(merges, parts, place, length)
            size = _push(heap, size, pairs[place], place)
            if before >= 0:
                size = _push(heap, size, pairs[before], before)


@tuple_splice
def _push(heap: NDArray[np.uint64], size: int, pair: np.uint64, place: int) -> int:
    """Add rank and place of a pair to a binary heap, if it is a merge; returns the heap's size."""
    if pair == NO_MERGE:
        return size
    item = (pair & ~_LOW_HALF) | np.uint64(place)
    hole = size
    while hole > 0 and heap[(hole - 1) >> 1] > item:
        heap[hole] = heap[(hole - 1) >> 1]
        hole = (hole - 1) >> 1
    heap[hole] = item
    return size + 1


@tuple_splice
def _pop(heap: NDArray[np.uint64], size: int) -> int:
    """Take the lowest from a binary heap; returns its size."""
    size -= 1
    item = heap[size]
    place = 0
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= item:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = item
    return size
