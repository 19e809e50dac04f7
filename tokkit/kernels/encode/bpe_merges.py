"""Byte-pair encoding of one word: merge the pair of lowest rank, leftmost first, until none is left.

    ranks  e s: 0, es t: 1, l o: 2        l o w e s t  →  l o w es t  →  l o w est  →  lo w est

A short word is searched for the lowest rank again and again. A long one keeps its pairs in a heap,
so that a word of n letters takes time in proportion to n log n. Both give the same tokens.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Ids, Int64, UInt32, UInt64
from tokkit.kernels.heap import move_down, move_up
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import HASH_PRIME, decode_character, signed

NO_MERGE = np.uint64(0xFFFF_FFFF_FFFF_FFFF)
NO_ID = -1

_NO_KEY = np.uint32(0xFFFF_FFFF)
_SHORT_WORD = 64
_PLACE_BITS = np.uint64(6)  # of a key's 32 bits; the others are a rank below 2 ** 26

_FILTER_SHIFT = np.uint64(64 - 20)
_BIT = np.uint64(63)
_HALF = np.uint64(32)
_LOW_HALF = np.uint64(0xFFFF_FFFF)


class Merges(NamedTuple):
    """The merges, by pair of ids, and the ids of single bytes.

    Attributes:
        table: uint64 ``[2 ** n * 2]``: left and right id, 32 bits each, plus 1; then rank and
            merged id, 32 bits each. A slot with zeros is free.
        shift: 64 - n.
        known: uint64 ``[2 ** 14]``: a bit is set for each pair in the table; see ``may_be_known``.
        byte_ids: int64 ``[256]``: the id of a byte, or ``NO_ID`` if the byte is left out.
    """

    table: UInt64
    shift: int
    known: UInt64
    byte_ids: Int64


class WordBuffers(NamedTuple):
    """Memory for one word of at most ``n`` bytes.

    When merging, a part is at the place of its first byte; parts merged into it leave theirs.

    Attributes:
        ids: int64 ``[n]``, of parts.
        pairs: uint64 ``[n]``: rank and merged id of each part and the next, or ``NO_MERGE``.
        nexts: int64 ``[n]``, place of the next part.
        befores: int64 ``[n]``, place of the part before.
        keys: uint32 ``[64]``: rank and place of each pair of a short word.
        heap: uint64 ``[3 * n]``: rank and place of the pairs of a long word.
        tokens: uint32 ``[n]``, tokens found by ``encode_word``.
        is_dead: bool ``[n + 1]``: whether ``encode_word`` cannot go on from a place.
    """

    ids: Int64
    pairs: UInt64
    nexts: Int64
    befores: Int64
    keys: UInt32
    heap: UInt64
    tokens: UInt32
    is_dead: Bools


def new_buffers(size: int) -> WordBuffers:
    """Return memory for words of at most ``size`` bytes."""
    return WordBuffers(
        np.empty(size, np.int64),
        np.empty(size, np.uint64),
        np.empty(size, np.int64),
        np.empty(size, np.int64),
        np.empty(_SHORT_WORD, np.uint32),
        np.empty(3 * size, np.uint64),
        np.empty(size, np.uint32),
        np.empty(size + 1, np.bool_),
    )


@splice
def may_be_known(known: UInt64, mixed: np.uint64) -> bool:
    """Return False if no key with this hash is in a table.

    Most pairs have no merge, and a bit tells so without a look into the table, which is beyond the
    processor's nearer caches.
    """
    bit = mixed >> _FILTER_SHIFT
    return bool(known[bit >> np.uint64(6)] >> (bit & _BIT) & np.uint64(1))


@splice
def mark_known(known: UInt64, mixed: np.uint64) -> None:
    """Note that a key with this hash is in a table."""
    bit = mixed >> _FILTER_SHIFT
    known[bit >> np.uint64(6)] |= np.uint64(1) << (bit & _BIT)


@splice
def _find_merge(merges: Merges, left: int, right: int) -> np.uint64:
    """Return rank and merged id of a pair, or ``NO_MERGE``."""
    key = (np.uint64(left) << _HALF | np.uint64(right)) + np.uint64(1)
    mixed = key * HASH_PRIME
    if not may_be_known(merges.known, mixed):
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
    lefts: Int64,
    rights: Int64,
    merged: Int64,
    ranks: Int64,
    shift: int,
    out_table: UInt64,
    out_known: UInt64,
) -> None:
    """Insert merges into an empty table; of equal pairs the last counts.

    Args:
        lefts: int64 ``[num_merges]``, ids.
        rights: int64 ``[num_merges]``, ids.
        merged: int64 ``[num_merges]``, ids.
        ranks: int64 ``[num_merges]``; of pairs with the same rank the leftmost is merged first.
        shift: 64 - n.
        out_table: uint64 ``[2 ** n * 2]``, zeros; ``2 ** n`` is at least 1.5 ``num_merges``.
        out_known: uint64 ``[2 ** 14]``, zeros.
    """
    for merge in range(lefts.size):
        key = (np.uint64(lefts[merge]) << _HALF | np.uint64(rights[merge])) + np.uint64(1)
        place = signed((key * HASH_PRIME) >> np.uint64(shift)) * 2
        while out_table[place] != 0 and out_table[place] != key:
            place = (place + 2) & (out_table.size - 1)
        out_table[place] = key
        out_table[place + 1] = np.uint64(ranks[merge]) << _HALF | np.uint64(merged[merge])
        mark_known(out_known, key * HASH_PRIME)


@inline
def merge_word(
    values: Bytes,
    start: int,
    stop: int,
    merges: Merges,
    buffers: WordBuffers,
    num_tokens: int,
    out_ids: Ids,
) -> int:
    """Append the tokens of a word that is merged from bytes; returns the new number of tokens."""
    length = 0
    for position in range(start, stop):
        number = merges.byte_ids[values[position]]
        if number != NO_ID:
            buffers.ids[length] = number
            length += 1
    return _merge_symbols(merges, buffers, length, num_tokens, out_ids)


@inline
def merge_characters(
    values: Bytes,
    start: int,
    stop: int,
    symbols: UInt32,
    merges: Merges,
    buffers: WordBuffers,
    num_tokens: int,
    out_ids: Ids,
) -> int:
    """Append the tokens of a word that is merged from characters.

    Args:
        values: uint8, valid UTF-8.
        start: where the word begins.
        stop: where it ends.
        symbols: uint32 ``[0x110000]``, the id of each character plus 1; all in the word have one.
        merges: the merges.
        buffers: memory for the word.
        num_tokens: number of tokens before.
        out_ids: the tokens.

    Returns:
        The new number of tokens.
    """
    length = 0
    position = start
    while position < stop:
        code, size = decode_character(values, position)
        buffers.ids[length] = signed(symbols[code]) - 1
        length += 1
        position += size
    return _merge_symbols(merges, buffers, length, num_tokens, out_ids)


@inline
def _merge_symbols(
    merges: Merges, buffers: WordBuffers, length: int, num_tokens: int, out_ids: Ids
) -> int:
    """Merge the symbols in ``buffers.ids`` and append the tokens that are left."""
    ids, nexts = buffers.ids, buffers.nexts
    for place in range(length):
        nexts[place] = place + 1
        buffers.befores[place] = place - 1
    for place in range(length - 1):
        buffers.pairs[place] = _find_merge(merges, ids[place], ids[place + 1])
    if length <= _SHORT_WORD:
        _merge_by_scan(merges, buffers, length)
    else:
        _merge_by_heap(merges, buffers, length)
    place = 0
    while place < length:
        out_ids[num_tokens] = ids[place]
        num_tokens += 1
        place = nexts[place]
    return num_tokens


@splice
def _merge_parts(merges: Merges, buffers: WordBuffers, place: int, length: int) -> tuple[int, int]:
    """Merge a part with the next one and look up its new pairs.

    Returns:
        The place of the part that is gone, and that of the one before, or -1.
    """
    ids, pairs, nexts, befores = buffers.ids, buffers.pairs, buffers.nexts, buffers.befores
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


@splice
def _short_key(pair: np.uint64, place: int) -> np.uint32:
    """Return rank and place in 32 bits; ``_NO_KEY`` for no merge."""
    if pair == NO_MERGE:
        return _NO_KEY
    return np.uint32((pair >> _HALF) << _PLACE_BITS | np.uint64(place))


@splice
def _merge_by_scan(merges: Merges, buffers: WordBuffers, length: int) -> None:
    """Merge ``length`` parts, the lowest of all keys first: eight keys to an instruction."""
    pairs, keys = buffers.pairs, buffers.keys
    for place in range(_SHORT_WORD):
        keys[place] = _NO_KEY
    for place in range(length - 1):
        keys[place] = _short_key(pairs[place], place)
    while True:
        lowest = _NO_KEY
        for place in range(_SHORT_WORD):
            lowest = min(lowest, keys[place])
        if lowest == _NO_KEY:
            return
        place = signed(lowest) & (_SHORT_WORD - 1)
        gone, before = _merge_parts(merges, buffers, place, length)
        keys[gone] = _NO_KEY
        keys[place] = _short_key(pairs[place], place)
        if before >= 0:
            keys[before] = _short_key(pairs[before], before)


@inline
def _merge_by_heap(merges: Merges, buffers: WordBuffers, length: int) -> None:
    """Merge ``length`` parts; an item of the heap counts if its pair still has that rank."""
    pairs, heap = buffers.pairs, buffers.heap
    pairs[length - 1] = NO_MERGE
    size = 0
    for place in range(length):
        size = _push(heap, size, pairs[place], place)
    while size > 0:
        lowest = heap[0]
        size -= 1
        heap[0] = heap[size]
        move_down(_comes_before, _swap, heap, 0, size)
        place = signed(lowest & _LOW_HALF)
        if pairs[place] != NO_MERGE and pairs[place] >> _HALF == lowest >> _HALF:
            _, before = _merge_parts(merges, buffers, place, length)
            size = _push(heap, size, pairs[place], place)
            if before >= 0:
                size = _push(heap, size, pairs[before], before)


@splice
def _push(heap: UInt64, size: int, pair: np.uint64, place: int) -> int:
    """Add rank and place of a pair to the heap, if it has a merge; returns the heap's size."""
    if pair == NO_MERGE:
        return size
    heap[size] = (pair & ~_LOW_HALF) | np.uint64(place)
    move_up(_comes_before, _swap, heap, size)
    return size + 1


@splice
def _comes_before(heap: UInt64, place: int, other: int) -> bool:
    return bool(heap[place] < heap[other])


@splice
def _swap(heap: UInt64, place: int, other: int) -> None:
    heap[place], heap[other] = heap[other], heap[place]
