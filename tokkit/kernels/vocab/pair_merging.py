"""Merges a pair in all words, and keeps the counts and places of pairs up to date.

Of "x a b y", where "a b" becomes R, the counts of (x, a) and (b, y) fall, and those of (x, R) and
(R, y) rise by the word's count. Places are visited in ascending order, so of "a a a" the first two
are merged.

A pair that a merge creates is found by its other symbol while it goes on, without a lookup, and what
it takes from the pair that it replaces is subtracted once, at the end. Cells are fetched ahead. With
two lookups for each neighbor, and without fetching, 27 million symbols took 1.6 s to learn 50,000
tokens from, and take 0.55 s. Of 33 million places 15 million are outdated when they are visited.
Tried, without a gain or with one below a tenth: to sort these out first, a block of places at a time;
symbols of 16 bits; to keep no pairs that are rarer than those that are merged in the end.
"""

from typing import NamedTuple

from tokkit.kernels.arrays import Int32
from tokkit.kernels.jit import inline, splice
from tokkit.kernels.memory import prefetch, signed
from tokkit.kernels.vocab.pair_counts import (
    COUNT,
    KEY,
    NONE,
    NUM_FRESH,
    NUM_OCCURRENCES,
    NUM_PAIRS,
    ROW,
    START,
    Pairs,
    add_occurrence,
    add_place,
    append_pair,
    drop_pairs,
    find_pair,
    hash_key,
    join_key,
    reserve_places,
    split_key,
)
from tokkit.kernels.vocab.symbols import END, GONE, NOTHING_KNOWN, Words, find_count

# Places whose cells are fetched before their use, and pairs whose rows are.
_AHEAD = 16
_ROWS_AHEAD = 8 * ROW


class MergeRules(NamedTuple):
    """The rules of merging.

    Attributes:
        lengths: int32 ``[vocab_size]``: number of symbols that each token was made of; updated.
        first: the id of the first merged token.
        min_frequency: pairs that are rarer are not merged.
        limit: pairs of more symbols are not merged, except those of two.
    """

    lengths: Int32
    first: int
    min_frequency: int
    limit: int


@splice
def count_room(pairs: Pairs, pair: int, num_tokens: int) -> tuple[int, int]:
    """Return the most pairs, and occurrences of pairs, that the merge of a pair creates."""
    num_fresh = 2 * pairs.rows[ROW * pair + NUM_OCCURRENCES]
    return min(num_fresh, 2 * num_tokens + 2), num_fresh


@inline
def merge_pair(words: Words, rules: MergeRules, pairs: Pairs, pair: int, merged: int) -> int:
    """Merge all occurrences of a pair.

    Args:
        words: their cells are updated.
        rules: the length of ``merged`` is written to ``lengths``.
        pairs: counts and places next to the merged symbols are updated.
        pair: number of the pair.
        merged: the id that it becomes.

    Returns:
        Number of merged occurrences in the corpus.
    """
    cells, lengths, places, rows = words.cells, rules.lengths, pairs.places, pairs.rows
    row = ROW * pair
    left, right = split_key(rows[row + KEY])
    first = pairs.sizes[NUM_PAIRS]
    length = signed(lengths[left])
    span = length + lengths[right]
    lengths[merged] = span
    stop = rows[row + START] + rows[row + NUM_OCCURRENCES]
    total = 0
    known = NOTHING_KNOWN
    for place in range(rows[row + START], min(rows[row + START] + _AHEAD, stop)):
        prefetch(cells, signed(places[place]))
    for place in range(rows[row + START], stop):
        if place + _AHEAD < stop:
            prefetch(cells, signed(places[place + _AHEAD]) - 1)
            prefetch(cells, signed(places[place + _AHEAD]) + span)
        cell = signed(places[place])
        if cells[cell] == left and cells[cell + length] == right:
            known = find_count(words, cell, known)
            _merge_symbols(cells, lengths, pairs, cell, left, right, merged, known[0])
            total += known[0]
    rows[row + NUM_OCCURRENCES] = 0
    _subtract_fresh(pairs, first, pair, merged)
    rows[row + COUNT] = 0
    for new in range(ROW * first, ROW * pairs.sizes[NUM_PAIRS], ROW):
        before, after = split_key(rows[new + KEY])
        fits = lengths[before] + lengths[after] <= rules.limit
        reserve_places(pairs, new, fits and rows[new + COUNT] >= rules.min_frequency)
    for fresh in range(0, 2 * pairs.sizes[NUM_FRESH], 2):
        add_place(pairs, signed(pairs.fresh[fresh]), signed(pairs.fresh[fresh + 1]))
    pairs.sizes[NUM_FRESH] = 0
    drop_pairs(pairs, first)
    return total


@splice
def _merge_symbols(
    cells: Int32,
    lengths: Int32,
    pairs: Pairs,
    cell: int,
    left: int,
    right: int,
    merged: int,
    count: int,
) -> None:
    """Merge two symbols, the left of which begins at a cell."""
    middle = cell + lengths[left]
    last = middle + lengths[right] - 1
    before = signed(cells[cell - 1])
    after = signed(cells[last + 1])
    if before != END:
        key = join_key(before, merged)
        _add_fresh(pairs, 2 * before, key, count, cell - lengths[before])
    if after != END:
        _add_fresh(pairs, 2 * after + 1, join_key(merged, after), count, cell)
    cells[middle - 1] = GONE
    cells[middle] = GONE
    cells[cell] = merged
    cells[last] = merged


@splice
def _add_fresh(pairs: Pairs, neighbor: int, key: int, count: int, cell: int) -> None:
    """Add an occurrence that the current merge has created at a cell.

    Args:
        pairs: the pairs.
        neighbor: index into ``neighbors`` of the token next to the merged one.
        key: key of the pair of both.
        count: how often it counts.
        cell: where it begins.
    """
    if pairs.neighbors[neighbor] == 0:
        append_pair(pairs, key)
        pairs.neighbors[neighbor] = pairs.sizes[NUM_PAIRS]
    pair = signed(pairs.neighbors[neighbor]) - 1
    add_occurrence(pairs, pair, count)
    fresh = 2 * pairs.sizes[NUM_FRESH]
    pairs.fresh[fresh] = pair
    pairs.fresh[fresh + 1] = cell
    pairs.sizes[NUM_FRESH] += 1


@inline
def _subtract_fresh(pairs: Pairs, first: int, pair: int, merged: int) -> None:
    """Subtract the counts of the pairs from ``first`` on from those of the pairs that they replace.

    Args:
        pairs: the pairs.
        first: number of the first pair that the current merge has created.
        pair: number of the merged pair.
        merged: the id that it became.
    """
    rows, neighbors = pairs.rows, pairs.neighbors
    left, right = split_key(rows[ROW * pair + KEY])
    stop = ROW * pairs.sizes[NUM_PAIRS]
    for row in range(ROW * first, stop, ROW):
        before, after = split_key(rows[row + KEY])
        key = join_key(before, left) if after == merged else join_key(right, after)
        rows[row + START] = key  # until places are reserved
        prefetch(pairs.table, hash_key(pairs, key))
    for row in range(ROW * first, stop, ROW):
        if row + _ROWS_AHEAD < stop:
            number = pairs.table[hash_key(pairs, rows[row + _ROWS_AHEAD + START])]
            prefetch(rows, ROW * max(signed(number) - 1, 0))
        key = rows[row + START]
        if key == join_key(merged, left):  # in place of a pair that is as new
            replaced = signed(neighbors[2 * left + 1]) - 1
        else:
            replaced = find_pair(pairs, key)
        if replaced != NONE:  # it was not dropped
            rows[ROW * replaced + COUNT] -= rows[row + COUNT]
    for row in range(ROW * first, stop, ROW):
        before, after = split_key(rows[row + KEY])
        neighbors[2 * before if after == merged else 2 * after + 1] = 0
