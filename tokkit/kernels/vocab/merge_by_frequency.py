"""Learn merges by frequency, as the BPE trainer of the tokenizers library does.

The pair that occurs most often is merged next; of several, the one with the lower ids. A binary
heap has an item for each frequent pair, with the count that the pair had when it was put there.
Counts only fall: if the count of the first item is still right, its pair is merged next, and
otherwise the item is put back with the right count. When the heap is empty, the pairs are added that
are at least half as frequent as its pairs had to be. So it stays within the caches, since most pairs
are never frequent enough to be merged: with all pairs, learning took a sixth more. Of "abab" twice
and "aab" once:

    a b 5, b a 2, a a 1   →   a b = 3   3 3 2, a 3 1   →   3 3 = 4

Overlapping occurrences all count, so "aaa" has "a a" twice, as in the library.
"""

import numpy as np

from tokkit.kernels.arrays import Int32, Int64
from tokkit.kernels.heap import move_down, move_up
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.vocab.pair_counts import (
    COUNT,
    KEY,
    NUM_PAIRS,
    ROW,
    Pairs,
    enlarge,
    has_room,
    index_pairs,
    make_room,
    split_key,
)
from tokkit.kernels.vocab.pair_merging import MergeRules, count_room, merge_pair
from tokkit.kernels.vocab.symbols import Words

_ITEM = 3  # negative count, key and number of a pair: the lowest item is merged next
_HEAP_SIZE, _NUM_MERGES, _THRESHOLD = range(3)
_LARGEST = (1 << 63) - 1
_DONE = (-1, -1)


def merge_by_frequency(
    words: Words, lengths: Int32, first: int, min_frequency: int, limit: int
) -> Int32:
    """Learn merges until the vocabulary is full or no pair is left.

    Args:
        words: their symbols are changed.
        lengths: int32 ``[vocab_size]``: 1 for the tokens that are symbols of words.
        first: the id of the first merged token.
        min_frequency: at least 1; pairs that are rarer are not merged.
        limit: pairs of more symbols are not merged, except those of two.

    Returns:
        int32 ``[num_merges, 2]``: left and right id of the tokens from ``first`` on.
    """
    rules = MergeRules(lengths, first, min_frequency, limit)
    pairs = index_pairs(words, min_frequency, len(lengths))
    merges = np.empty(2 * (len(lengths) - first), np.int32)
    sizes = np.array([0, 0, _LARGEST])
    heap = np.empty(_ITEM * int(pairs.sizes[NUM_PAIRS]), np.int64)
    while True:
        num_pairs, num_fresh = _merge_pairs(words, rules, pairs, heap, sizes, merges)
        if (num_pairs, num_fresh) == _DONE:
            return merges[: 2 * sizes[_NUM_MERGES]].reshape(-1, 2)
        pairs = make_room(pairs, num_pairs, num_fresh)
        room = _ITEM * (int(pairs.sizes[NUM_PAIRS]) + num_pairs)
        heap = enlarge(heap, _ITEM * int(sizes[_HEAP_SIZE]), room)


@kernel
def _merge_pairs(
    words: Words, rules: MergeRules, pairs: Pairs, heap: Int64, sizes: Int64, merges: Int32
) -> tuple[int, int]:
    """Merge as long as there is room; ``sizes`` are heap size, number of merges and threshold.

    Returns:
        The pairs and fresh occurrences that room is needed for, or ``_DONE``.
    """
    while 2 * sizes[_NUM_MERGES] < merges.size:
        if sizes[_HEAP_SIZE] == 0:
            limit = sizes[_THRESHOLD]
            if limit <= rules.min_frequency:
                break
            sizes[_THRESHOLD] = max(limit >> 1, rules.min_frequency)
            _push_pairs(pairs, 0, limit, heap, sizes)
            continue
        pair = heap[2]
        count = pairs.rows[ROW * pair + COUNT]
        if count < sizes[_THRESHOLD]:
            _pop(heap, sizes)
            continue
        if count != -heap[0]:
            heap[0] = -count
            _move_first_down(heap, sizes)
            continue
        merged = rules.first + sizes[_NUM_MERGES]
        num_pairs, num_fresh = count_room(pairs, pair, merged)
        needed = _ITEM * (pairs.sizes[NUM_PAIRS] + num_pairs)
        if not has_room(pairs, num_pairs, num_fresh) or needed > heap.size:
            return num_pairs, num_fresh
        _pop(heap, sizes)
        place = 2 * sizes[_NUM_MERGES]
        merges[place], merges[place + 1] = split_key(pairs.rows[ROW * pair + KEY])
        sizes[_NUM_MERGES] += 1
        first_pair = pairs.sizes[NUM_PAIRS]
        merge_pair(words, rules, pairs, pair, merged)
        _push_pairs(pairs, first_pair, _LARGEST, heap, sizes)
    return _DONE


@inline
def _push_pairs(pairs: Pairs, first: int, limit: int, heap: Int64, sizes: Int64) -> None:
    """Add the pairs from ``first`` on with counts from the threshold to below ``limit``."""
    for pair in range(first, pairs.sizes[NUM_PAIRS]):
        if not sizes[_THRESHOLD] <= pairs.rows[ROW * pair + COUNT] < limit:
            continue
        item = _ITEM * sizes[_HEAP_SIZE]
        heap[item] = -pairs.rows[ROW * pair + COUNT]
        heap[item + 1] = pairs.rows[ROW * pair + KEY]
        heap[item + 2] = pair
        move_up(_comes_before, _swap, heap, sizes[_HEAP_SIZE])
        sizes[_HEAP_SIZE] += 1


@splice
def _pop(heap: Int64, sizes: Int64) -> None:
    """Remove the first item of the heap."""
    sizes[_HEAP_SIZE] -= 1
    _swap(heap, 0, sizes[_HEAP_SIZE])
    _move_first_down(heap, sizes)


@inline
def _move_first_down(heap: Int64, sizes: Int64) -> None:
    move_down(_comes_before, _swap, heap, 0, sizes[_HEAP_SIZE])


@splice
def _comes_before(heap: Int64, place: int, other: int) -> bool:
    item, other_item = _ITEM * place, _ITEM * other
    return bool(
        heap[item] < heap[other_item]
        or (heap[item] == heap[other_item] and heap[item + 1] < heap[other_item + 1])
    )


@splice
def _swap(heap: Int64, place: int, other: int) -> None:
    for part in range(_ITEM):
        item, other_item = _ITEM * place + part, _ITEM * other + part
        heap[item], heap[other_item] = heap[other_item], heap[item]
