"""Learning merges by frequency, as the BPE trainer of the tokenizers library does.

The pair that occurs most is merged next; of several, the one with the lower ids. A binary heap has
an item for each pair with the count that it had when it was put there. Counts only fall, so the
first item tells the pair to merge if its count is still right, and else is put back with the right
one. Of "abab" twice and "aab" once:

    a b 5, b a 2, a a 1   →   a b = 3   3 3 2, a 3 1   →   3 3 = 4

Overlapping occurrences count in full, so "aaa" has "a a" twice, as in the library.
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import tuple_inline, tuple_kernel, tuple_splice
from tokkit.kernels.vocab.pair_counts import (
    COUNT,
    KEY,
    NUM_PAIRS,
    ROW,
    Pairs,
    count_room,
    enlarge,
    has_room,
    index_pairs,
    make_room,
    merge_pair,
    split,
)
from tokkit.kernels.vocab.symbols import Words

_ITEM = 3  # count below zero, key and number of a pair: the lowest is merged next
_DONE = (-1, -1)


def merge_by_frequency(
    words: Words, lengths: NDArray[np.int32], first: int, min_frequency: int, limit: int
) -> NDArray[np.int32]:
    """Learn merges until there are as many entries as there is room for, or no pair is left.

    Args:
        words: their symbols are changed.
        lengths: int32 ``[vocab_size]``: 1 for the entries that are symbols of words.
        first: the id of the first merged entry.
        min_frequency: at least 1; pairs that occur less often are not merged.
        limit: pairs of more symbols are not merged, but for those of two.

    Returns:
        int32 ``[num_merges, 2]``: left and right id of the entries from ``first`` on.
    """
    pairs = index_pairs(words, min_frequency)
    merges = np.empty(2 * (len(lengths) - first), np.int32)
    sizes = np.zeros(2, np.int64)
    heap = np.empty(_ITEM * int(pairs.sizes[NUM_PAIRS]), np.int64)
    _push_pairs(pairs, 0, heap, sizes)
    while True:
        num_pairs, num_fresh = _merge_pairs(
            words, lengths, pairs, heap, first, min_frequency, limit, sizes, merges
        )
        if (num_pairs, num_fresh) == _DONE:
            return merges[: 2 * sizes[1]].reshape(-1, 2)
        pairs = make_room(pairs, num_pairs, num_fresh)
        heap = enlarge(heap, _ITEM * int(sizes[0]), _ITEM * num_pairs)


@tuple_kernel
def _merge_pairs(
    words: Words,
    lengths: NDArray[np.int32],
    pairs: Pairs,
    heap: NDArray[np.int64],
    first: int,
    min_frequency: int,
    limit: int,
    sizes: NDArray[np.int64],
    merges: NDArray[np.int32],
) -> tuple[int, int]:
    """Merge as long as there is room; ``sizes`` are those of the heap and of the merges.

    Returns:
        For how many pairs and fresh occurrences room is needed, or ``_DONE``.
    """
    while 2 * sizes[1] < merges.size and sizes[0] > 0:
        pair = heap[2]
        count = pairs.rows[ROW * pair + COUNT]
        if count < min_frequency:
            _pop(heap, sizes)
            continue
        if count != -heap[0]:
            _sink(heap, sizes[0], -count, heap[1], pair)
            continue
        merged = first + sizes[1]
        num_pairs, num_fresh = count_room(pairs, pair, merged)
        if not has_room(pairs, num_pairs, num_fresh) or _ITEM * (sizes[0] + num_pairs) > heap.size:
            return num_pairs, num_fresh
        _pop(heap, sizes)
        merges[2 * sizes[1]], merges[2 * sizes[1] + 1] = split(pairs.rows[ROW * pair + KEY])
        sizes[1] += 1
        first_pair = pairs.sizes[NUM_PAIRS]
        merge_pair(words, lengths, pairs, pair, merged, min_frequency, limit)
        _push_pairs(pairs, first_pair, heap, sizes)
    return _DONE


@tuple_kernel
def _push_pairs(
    pairs: Pairs, first: int, heap: NDArray[np.int64], sizes: NDArray[np.int64]
) -> None:
    """Put the pairs from ``first`` on into the heap."""
    for pair in range(first, pairs.sizes[NUM_PAIRS]):
        row = ROW * pair
        sizes[0] += 1
        _rise(heap, sizes[0], -pairs.rows[row + COUNT], pairs.rows[row + KEY], pair)


@tuple_splice
def _is_before(heap: NDArray[np.int64], item: int, count: int, key: int) -> bool:
    """Whether an item of the heap goes before one of such a count and key."""
    return bool(heap[item] < count or (heap[item] == count and heap[item + 1] < key))


@tuple_splice
def _write(heap: NDArray[np.int64], place: int, count: int, key: int, pair: int) -> None:
    """Write an item."""
    heap[_ITEM * place] = count
    heap[_ITEM * place + 1] = key
    heap[_ITEM * place + 2] = pair


@tuple_splice
def _move(heap: NDArray[np.int64], place: int, to: int) -> None:
    """Copy an item."""
    _write(heap, to, heap[_ITEM * place], heap[_ITEM * place + 1], heap[_ITEM * place + 2])


@tuple_splice
def _pop(heap: NDArray[np.int64], sizes: NDArray[np.int64]) -> None:
    """Take the first item out of the heap."""
    sizes[0] -= 1
    last = _ITEM * sizes[0]
    _sink(heap, sizes[0], heap[last], heap[last + 1], heap[last + 2])


@tuple_splice
def _rise(heap: NDArray[np.int64], size: int, count: int, key: int, pair: int) -> None:
    """Put an item in as the last of now ``size``, and up to where it belongs."""
    hole = size - 1
    while hole > 0 and not _is_before(heap, _ITEM * ((hole - 1) >> 1), count, key):
        _move(heap, (hole - 1) >> 1, hole)
        hole = (hole - 1) >> 1
    _write(heap, hole, count, key, pair)


@tuple_inline
def _sink(heap: NDArray[np.int64], size: int, count: int, key: int, pair: int) -> None:
    """Put an item in for the first of ``size``, and down to where it belongs."""
    hole = 0
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        other = _ITEM * (child + 1)
        if child + 1 < size and not _is_before(heap, _ITEM * child, heap[other], heap[other + 1]):
            child += 1
        if not _is_before(heap, _ITEM * child, count, key):
            break
        _move(heap, child, hole)
        hole = child
    _write(heap, hole, count, key, pair)
