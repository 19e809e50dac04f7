"""Counts and places of all pairs of neighbouring symbols, kept up to date while pairs are merged.

A pair gets a number when it first occurs; a hash table finds the number by the pair's two ids. The
cells where a pair occurs are contiguous in one array. A cell that has changed since is noticed when
it is visited.

    words   abab, ac      pairs   0: a b (2)     1: b a (1)     2: a c (1)
                          places     cells 1 3      cell 2         cell 6

``merge_pair`` merges one pair in all words. Of "x a b y", where "a b" becomes R, the counts of
(x, a) and (b, y) fall, and those of (x, R) and (R, y) rise by the word's count. Places are visited
in ascending order, so of "a a a" the first two are merged. The count of the merged pair itself is
left as it was; its places are dropped.

All occurrences of a pair are created at one time: at the start, or by the merge that created one of
its two symbols. No string is created by two merges, because each merge is applied to every occurrence,
so what becomes of cells that end up as one symbol depends on them alone. Hence counts only fall
later, the pairs that a merge creates have the highest numbers, and those of them that are too rare
to be merged can be dropped at once.

Room never runs out within a merge: the most that a merge needs is known before, and the kernels
return to their caller for more.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.arrays import Int32, Int64
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import HASH_PRIME, signed
from tokkit.kernels.vocab.symbols import END, GONE, Words, find_word

NONE = -1

# Parts of a row of ``Pairs.rows``.
KEY, COUNT, START, NUM_OCCURRENCES = range(4)
ROW = 4
# Indices into ``Pairs.sizes``.
NUM_PAIRS, NUM_PLACES, NUM_FRESH = range(3)

_HALF = 32
_LOW_HALF = (1 << _HALF) - 1
_FIRST_ROOM = 1 << 10


class Pairs(NamedTuple):
    """The pairs.

    Attributes:
        table: int32 ``[2 ** n]``: a pair's number plus 1, or 0; at most half are used.
        shift: 64 - n.
        rows: int64 ``[4 * capacity]``: key (left id << 32 | right id), count, first place and
            number of places of each pair.
        places: int32: the cells where left symbols begin, ascending for each pair.
        fresh: int32: pair and cell of each occurrence that the current merge has created.
        sizes: int64 ``[3]``: number of pairs, places and fresh occurrences.
    """

    table: Int32
    shift: int
    rows: Int64
    places: Int32
    fresh: Int32
    sizes: Int64


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


def index_pairs(words: Words, min_frequency: int) -> Pairs:
    """Count all pairs of words, and list the places of those that are frequent enough."""
    pairs = Pairs(
        np.zeros(2 * _FIRST_ROOM, np.int32),
        64 - _FIRST_ROOM.bit_length(),
        np.empty(ROW * _FIRST_ROOM, np.int64),
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.zeros(3, np.int64),
    )
    cell = 0
    while len(words.counts):
        cell = _count_pairs(words, cell, pairs)
        if cell == len(words.cells):
            break
        pairs = make_room(pairs, int(pairs.sizes[NUM_PAIRS]), 0)
    rows = pairs.rows[: ROW * pairs.sizes[NUM_PAIRS]].reshape(-1, ROW)
    number = int(rows[rows[:, COUNT] >= min_frequency, NUM_OCCURRENCES].sum())
    pairs = pairs._replace(places=np.empty(number, np.int32))
    _list_places(words, pairs, min_frequency)
    return pairs


@kernel
def _count_pairs(words: Words, start: int, pairs: Pairs) -> int:
    """Count the pairs from a cell on, as long as there is room for new ones.

    Returns:
        The cell to go on from: the number of cells when all is done.
    """
    cells, starts = words.cells, words.starts
    for word in range(find_word(words, start), words.counts.size):
        count = words.counts[word]
        for cell in range(max(start, starts[word]), starts[word + 1] - 2):
            if ROW * pairs.sizes[NUM_PAIRS] == pairs.rows.size:
                return cell
            _add(pairs, _join_key(cells[cell], cells[cell + 1]), count)
    return cells.size


@kernel
def _list_places(words: Words, pairs: Pairs, min_frequency: int) -> None:
    """Write the places of all pairs, which were counted."""
    _reserve_places(pairs, 0, min_frequency)
    cells = words.cells
    for cell in range(cells.size - 1):
        if cells[cell] != END and cells[cell + 1] != END:
            _add_place(pairs, _find_pair(pairs, _join_key(cells[cell], cells[cell + 1])), cell)
    _drop_pairs(pairs, 0)


def enlarge(array: NDArray[Any], used: int, needed: int) -> NDArray[Any]:
    """Return an array with room for ``needed`` more behind those used, and half as much again."""
    if used + needed <= len(array):
        return array
    larger = np.zeros((used + needed) * 3 // 2, array.dtype)
    larger[:used] = array[:used]
    return larger


def make_room(pairs: Pairs, num_pairs: int, num_fresh: int) -> Pairs:
    """Return the same pairs, with room for more pairs and more fresh occurrences."""
    sizes = pairs.sizes
    if sizes[NUM_PLACES] + num_fresh > len(pairs.places):
        _compact_places(pairs)
    used = int(sizes[NUM_PAIRS])
    roomy = pairs._replace(
        rows=enlarge(pairs.rows, ROW * used, ROW * num_pairs),
        places=enlarge(pairs.places, int(sizes[NUM_PLACES]), num_fresh),
        fresh=enlarge(pairs.fresh, 0, 2 * num_fresh),
    )
    needed = 2 * (used + num_pairs)
    if needed > len(pairs.table):
        bits = needed.bit_length()
        roomy = roomy._replace(table=np.zeros(1 << bits, np.int32), shift=64 - bits)
        _fill_table(roomy)
    return roomy


@splice
def has_room(pairs: Pairs, num_pairs: int, num_fresh: int) -> bool:
    """Return whether ``make_room`` would have nothing to do."""
    needed = pairs.sizes[NUM_PAIRS] + num_pairs
    return (
        ROW * needed <= pairs.rows.size
        and 2 * needed <= pairs.table.size
        and pairs.sizes[NUM_PLACES] + num_fresh <= pairs.places.size
        and 2 * num_fresh <= pairs.fresh.size
    )


@kernel
def _compact_places(pairs: Pairs) -> None:
    """Move the places that are still needed to the front."""
    top = 0
    for row in range(0, ROW * pairs.sizes[NUM_PAIRS], ROW):
        start = pairs.rows[row + START]
        pairs.rows[row + START] = top
        for place in range(start, start + pairs.rows[row + NUM_OCCURRENCES]):
            pairs.places[top] = pairs.places[place]
            top += 1
    pairs.sizes[NUM_PLACES] = top


@kernel
def _fill_table(pairs: Pairs) -> None:
    """Insert all pairs into an empty table."""
    for pair in range(pairs.sizes[NUM_PAIRS]):
        pairs.table[_find_place(pairs, pairs.rows[ROW * pair + KEY])] = pair + 1


@splice
def _join_key(left: int, right: int) -> int:
    """Return the key of a pair; keys have the same order as pairs of ids."""
    return signed(left) << _HALF | signed(right)


@splice
def split_key(key: int) -> tuple[int, int]:
    """Return left and right id of a key."""
    return key >> _HALF, key & _LOW_HALF


@splice
def _find_place(pairs: Pairs, key: int) -> int:
    """Return the place of a pair in the table, or the free place where it would be."""
    table = pairs.table
    place = signed((np.uint64(key) * HASH_PRIME) >> np.uint64(pairs.shift))
    while table[place] != 0 and pairs.rows[ROW * (signed(table[place]) - 1)] != key:
        place = (place + 1) & (table.size - 1)
    return place


@splice
def _find_pair(pairs: Pairs, key: int) -> int:
    """Return the number of a pair, or ``NONE``."""
    return signed(pairs.table[_find_place(pairs, key)]) - 1


@splice
def _subtract(pairs: Pairs, key: int, count: int) -> None:
    """Subtract from the count of a pair, unless the pair was dropped."""
    pair = _find_pair(pairs, key)
    if pair != NONE:
        pairs.rows[ROW * pair + COUNT] -= count


@splice
def _add(pairs: Pairs, key: int, count: int) -> int:
    """Add an occurrence of a pair that counts ``count`` times; returns the pair's number."""
    place = _find_place(pairs, key)
    pair = signed(pairs.table[place]) - 1
    if pair == NONE:
        pair = pairs.sizes[NUM_PAIRS]
        pairs.sizes[NUM_PAIRS] += 1
        pairs.table[place] = pair + 1
        pairs.rows[ROW * pair + KEY] = key
        pairs.rows[ROW * pair + COUNT] = 0
        pairs.rows[ROW * pair + NUM_OCCURRENCES] = 0
    pairs.rows[ROW * pair + COUNT] += count
    pairs.rows[ROW * pair + NUM_OCCURRENCES] += 1
    return pair


@splice
def _add_fresh(pairs: Pairs, key: int, count: int, cell: int) -> None:
    """Add an occurrence that the current merge has created at a cell."""
    fresh = 2 * pairs.sizes[NUM_FRESH]
    pairs.fresh[fresh] = _add(pairs, key, count)
    pairs.fresh[fresh + 1] = cell
    pairs.sizes[NUM_FRESH] += 1


@splice
def _reserve_places(pairs: Pairs, first: int, min_frequency: int) -> None:
    """Reserve places for the pairs from ``first`` on, except those that are too rare."""
    top = pairs.sizes[NUM_PLACES]
    for row in range(ROW * first, ROW * pairs.sizes[NUM_PAIRS], ROW):
        pairs.rows[row + START] = NONE
        if pairs.rows[row + COUNT] >= min_frequency:
            pairs.rows[row + START] = top
            top += pairs.rows[row + NUM_OCCURRENCES]
        pairs.rows[row + NUM_OCCURRENCES] = 0
    pairs.sizes[NUM_PLACES] = top


@splice
def _add_place(pairs: Pairs, pair: int, cell: int) -> None:
    """Write a place of a pair behind its others."""
    row = ROW * pair
    if pairs.rows[row + START] != NONE:
        pairs.places[pairs.rows[row + START] + pairs.rows[row + NUM_OCCURRENCES]] = cell
        pairs.rows[row + NUM_OCCURRENCES] += 1


@inline
def _drop_pairs(pairs: Pairs, first: int) -> None:
    """Drop the pairs from ``first`` on that are too rare, and renumber the others.

    The last keys that were put into a table with linear probing can be removed without a trace.
    """
    number = pairs.sizes[NUM_PAIRS]
    for pair in range(number - 1, first - 1, -1):
        pairs.table[_find_place(pairs, pairs.rows[ROW * pair + KEY])] = 0
    kept = first
    for pair in range(first, number):
        if pairs.rows[ROW * pair + START] != NONE:
            for part in range(ROW):
                pairs.rows[ROW * kept + part] = pairs.rows[ROW * pair + part]
            pairs.table[_find_place(pairs, pairs.rows[ROW * kept + KEY])] = kept + 1
            kept += 1
    pairs.sizes[NUM_PAIRS] = kept


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
    lengths = rules.lengths
    row = ROW * pair
    left, right = split_key(pairs.rows[row + KEY])
    first = pairs.sizes[NUM_PAIRS]
    length = signed(lengths[left])
    lengths[merged] = lengths[left] + lengths[right]
    start = pairs.rows[row + START]
    total = 0
    for place in range(start, start + pairs.rows[row + NUM_OCCURRENCES]):
        cell = signed(pairs.places[place])
        if words.cells[cell] == left and words.cells[cell + length] == right:
            count = words.counts[find_word(words, cell)]
            _merge_symbols(words.cells, rules, pairs, cell, left, right, merged, count)
            total += count
    pairs.rows[row + NUM_OCCURRENCES] = 0
    _reserve_places(pairs, first, rules.min_frequency)
    for fresh in range(0, 2 * pairs.sizes[NUM_FRESH], 2):
        _add_place(pairs, signed(pairs.fresh[fresh]), signed(pairs.fresh[fresh + 1]))
    pairs.sizes[NUM_FRESH] = 0
    _drop_pairs(pairs, first)
    return total


@splice
def _merge_symbols(
    cells: Int32,
    rules: MergeRules,
    pairs: Pairs,
    cell: int,
    left: int,
    right: int,
    merged: int,
    count: int,
) -> None:
    """Merge two symbols, the left of which begins at a cell."""
    lengths = rules.lengths
    middle = cell + lengths[left]
    last = middle + lengths[right] - 1
    before = signed(cells[cell - 1])
    after = signed(cells[last + 1])
    if before != END:
        _subtract(pairs, _join_key(before, left), count)
        if lengths[before] + lengths[merged] <= rules.limit:
            _add_fresh(pairs, _join_key(before, merged), count, cell - lengths[before])
    if after != END:
        _subtract(pairs, _join_key(right, after), count)
        if lengths[merged] + lengths[after] <= rules.limit:
            _add_fresh(pairs, _join_key(merged, after), count, cell)
    cells[middle - 1] = GONE
    cells[middle] = GONE
    cells[cell] = merged
    cells[last] = merged
