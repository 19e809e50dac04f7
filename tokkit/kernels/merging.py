"""Merging one pair everywhere: in its words, and in the counts of its neighbours.

Of "x a b y", where "a b" becomes R, the counts of (x, a) and (b, y) fall, and those of (x, R) and
(R, y) rise by the word's count. Places are visited in ascending order, so of "a a a" the first two
merge. The count of the merged pair itself is left as it was; its places are dropped.
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import tuple_inline, tuple_splice
from tokkit.kernels.memory import signed
from tokkit.kernels.pairs import (
    KEY,
    NUM_PAIRS,
    NUMBER,
    ROW,
    START,
    Pairs,
    add_fresh,
    join,
    place_fresh,
    split,
    subtract,
)
from tokkit.kernels.symbols import END, GONE, Words, find_word


@tuple_splice
def count_room(pairs: Pairs, pair: int, num_entries: int) -> tuple[int, int]:
    """How many pairs, and occurrences of pairs, the merge of one makes at most."""
    num_fresh = 2 * pairs.rows[ROW * pair + NUMBER]
    return min(num_fresh, 2 * num_entries + 2), num_fresh


@tuple_inline
def merge_pair(
    words: Words,
    lengths: NDArray[np.int32],
    pairs: Pairs,
    pair: int,
    merged: int,
    min_frequency: int,
    limit: int,
) -> int:
    """Merge a pair wherever it occurs.

    Args:
        words: whose cells are changed.
        lengths: int32 ``[capacity]``: symbols that each entry was made of; gets that of ``merged``.
        pairs: get the counts and places of what is next to the merged ones.
        pair: which.
        merged: the id of what it becomes.
        min_frequency: pairs that occur less often are forgotten.
        limit: pairs of more symbols than these are not counted.

    Returns:
        How often it was merged, by the words' counts.
    """
    row = ROW * pair
    left, right = split(pairs.rows[row + KEY])
    first = pairs.sizes[NUM_PAIRS]
    length = signed(lengths[left])
    lengths[merged] = lengths[left] + lengths[right]
    start = pairs.rows[row + START]
    total = 0
    for place in range(start, start + pairs.rows[row + NUMBER]):
        cell = signed(pairs.places[place])
        if words.cells[cell] == left and words.cells[cell + length] == right:
            count = words.counts[find_word(words, cell)]
            _merge(words.cells, lengths, pairs, cell, left, right, merged, limit, count)
            total += count
    pairs.rows[row + NUMBER] = 0
    place_fresh(pairs, first, min_frequency)
    return total


@tuple_splice
def _merge(
    cells: NDArray[np.int32],
    lengths: NDArray[np.int32],
    pairs: Pairs,
    cell: int,
    left: int,
    right: int,
    merged: int,
    limit: int,
    count: int,
) -> None:
    """Merge two symbols, of which the left begins at a cell."""
    middle = cell + lengths[left]
    last = middle + lengths[right] - 1
    before = signed(cells[cell - 1])
    after = signed(cells[last + 1])
    if before != END:
        subtract(pairs, join(before, left), count)
        if lengths[before] + lengths[merged] <= limit:
            add_fresh(pairs, join(before, merged), count, cell - lengths[before])
    if after != END:
        subtract(pairs, join(right, after), count)
        if lengths[merged] + lengths[after] <= limit:
            add_fresh(pairs, join(merged, after), count, cell)
    cells[middle - 1] = GONE
    cells[middle] = GONE
    cells[cell] = merged
    cells[last] = merged
