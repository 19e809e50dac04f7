"""Byte-pair encoding of one word: merge the neighbours of lowest rank, leftmost first, until none is.

    ranks  e s: 0, es t: 1, l o: 2        l o w e s t  →  l o w es t  →  l o w est  →  lo w est

A short word is scanned for the lowest rank again and again; a long one keeps its pairs in a heap,
so that a word of a million letters takes time in proportion to n log n. Both give the same.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import kernel, tuple_inline, tuple_splice
from tokkit.kernels.memory import Bytes, signed
from tokkit.kernels.tokens import Ids

NO_MERGE = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
NO_ID = -1
# Words of more bytes go through the heap; measured to be level at about this length.
_SCANNED = 48

_PRIME = np.uint64(0x9E37_79B9_7F4A_7C15)
_HALF = np.uint64(32)
_LOW_HALF = np.uint64(0xFFFF_FFFF)


class Merges(NamedTuple):
    """The merges, by pair of ids, and the ids of single bytes.

    Attributes:
        table: uint64 ``[2 ** n * 2]``: one more than left and right id, 32 bits each, and rank and
            merged id, 32 bits each; a pair of zeros is free.
        shift: 64 - n.
        byte_ids: int64 ``[256]``: the id of a byte, or ``NO_ID``: then the byte is left out.
    """

    table: NDArray[np.uint64]
    shift: int
    byte_ids: NDArray[np.int64]


class Parts(NamedTuple):
    """Room for the parts of one word of at most ``n`` bytes.

    Attributes:
        ids: int64 ``[n]``.
        pairs: uint64 ``[n]``: rank and merged id of each part and the next.
        nexts: int64 ``[n]``.
        befores: int64 ``[n]``.
        heap: uint64 ``[3 * n]``: rank and place of a pair.
    """

    ids: NDArray[np.int64]
    pairs: NDArray[np.uint64]
    nexts: NDArray[np.int64]
    befores: NDArray[np.int64]
    heap: NDArray[np.uint64]


def new_parts(size: int) -> Parts:
    """Room for words of so many bytes."""
    return Parts(
        np.empty(size, np.int64),
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
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
    """Rank and merged id of a pair, or ``NO_MERGE``."""
    place, key = _find_place(merges.table, merges.shift, left, right)
    return merges.table[place + 1] if merges.table[place] == key else NO_MERGE


@kernel
def fill_merges(
    lefts: NDArray[np.int64],
    rights: NDArray[np.int64],
    merged: NDArray[np.int64],
    shift: int,
    out_table: NDArray[np.uint64],
) -> None:
    """Put merges into an empty table, by rank; of a pair that comes twice the last counts.

    Args:
        lefts: int64 ``[num_merges]``, ids.
        rights: int64 ``[num_merges]``, ids.
        merged: int64 ``[num_merges]``, ids.
        shift: 64 - n.
        out_table: uint64 ``[2 ** n * 2]``, zeros; ``2 ** n`` is more than ``num_merges`` by half.
    """
    for rank in range(lefts.size):
        place, key = _find_place(out_table, shift, lefts[rank], rights[rank])
        out_table[place] = key
        out_table[place + 1] = np.uint64(rank) << _HALF | np.uint64(merged[rank])


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
    length = 0
    for position in range(start, stop):
        number = merges.byte_ids[values[position]]
        if number != NO_ID:
            parts.ids[length] = number
            length += 1
    for place in range(length - 1):
        parts.pairs[place] = _find_merge(merges, parts.ids[place], parts.ids[place + 1])
    if length > _SCANNED:
        length = _merge_by_heap(merges, parts, length)
    else:
        length = _merge_by_scan(merges, parts, length)
    for place in range(length):
        out_ids[num_tokens + place] = parts.ids[place]
    return num_tokens + length


@tuple_splice
def _merge_by_scan(merges: Merges, parts: Parts, length: int) -> int:
    """Merge ``length`` parts in place; returns how many are left."""
    ids = parts.ids
    pairs = parts.pairs
    while length > 1:
        lowest = NO_MERGE
        place = 0
        for index in range(length - 1):
            if pairs[index] < lowest:
                lowest = pairs[index]
                place = index
        if lowest == NO_MERGE:
            break
        ids[place] = signed(lowest & _LOW_HALF)
        length -= 1
        for index in range(place + 1, length):
            ids[index] = ids[index + 1]
            pairs[index] = pairs[index + 1]
        if place + 1 < length:
            pairs[place] = _find_merge(merges, ids[place], ids[place + 1])
        if place > 0:
            pairs[place - 1] = _find_merge(merges, ids[place - 1], ids[place])
    return length


@tuple_inline
def _merge_by_heap(merges: Merges, parts: Parts, length: int) -> int:
    """Merge ``length`` parts in place; returns how many are left.

    A part keeps its place while others are merged into it. What the heap says of a place counts
    only if the pair there still has that rank.
    """
    ids, pairs, nexts, befores, heap = parts
    size = 0
    for place in range(length):
        nexts[place] = place + 1
        befores[place] = place - 1
        if place == length - 1:
            pairs[place] = NO_MERGE
        elif pairs[place] != NO_MERGE:
            size = _push(heap, size, (pairs[place] & ~_LOW_HALF) | np.uint64(place))
    while size > 0:
        lowest = heap[0]
        size = _pop(heap, size)
        place = signed(lowest & _LOW_HALF)
        if pairs[place] == NO_MERGE or pairs[place] >> _HALF != lowest >> _HALF:
            continue
        other = nexts[place]
        after = nexts[other]
        ids[place] = signed(pairs[place] & _LOW_HALF)
        pairs[other] = NO_MERGE
        pairs[place] = NO_MERGE
        nexts[place] = after
        if after < length:
            befores[after] = place
            pairs[place] = _find_merge(merges, ids[place], ids[after])
            if pairs[place] != NO_MERGE:
                size = _push(heap, size, (pairs[place] & ~_LOW_HALF) | np.uint64(place))
        before = befores[place]
        if before >= 0:
            pairs[before] = _find_merge(merges, ids[before], ids[place])
            if pairs[before] != NO_MERGE:
                size = _push(heap, size, (pairs[before] & ~_LOW_HALF) | np.uint64(before))
    num_left = 0
    place = 0
    while place < length:
        ids[num_left] = ids[place]
        num_left += 1
        place = nexts[place]
    return num_left


@tuple_splice
def _push(heap: NDArray[np.uint64], size: int, item: np.uint64) -> int:
    """Add to a binary heap; returns its size."""
    place = size
    while place > 0 and heap[(place - 1) >> 1] > item:
        heap[place] = heap[(place - 1) >> 1]
        place = (place - 1) >> 1
    heap[place] = item
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
