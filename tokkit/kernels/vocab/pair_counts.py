"""Merging one pair everywhere: in its words, and in the counts of its neighbours.

Of "x a b y", where "a b" becomes R, the counts of (x, a) and (b, y) fall, and those of (x, R) and
(R, y) rise by the word's count. Places are visited in ascending order, so of "a a a" the first two
merge. The count of the merged pair itself is left as it was; its places are dropped.

Neighbouring symbols: how often each pair occurs, and where.

A pair gets a number when it is first met, which an open-addressing table finds by its two ids. The
cells where it occurs stand together in one array; one that has changed since is noticed when it is
visited.

    words   abab, ac      pairs   0: a b (2)     1: b a (1)     2: a c (1)
                          places     cells 1 3      cell 2         cell 6

All occurrences of a pair are made at one time: in the beginning, or by the merge that made one of
its two symbols. For a string is never made by two merges. Each merge is done wherever it can be, so
what becomes of the cells that end up as one symbol depends on them alone, wherever they stand. So
counts only fall later, the pairs that a merge makes are those with the highest numbers, and those of
them that occur too seldom to be merged are forgotten at once.

Room is never short within a merge: it is known before how much a merge needs at most, and whoever
calls a kernel gives more when that says so.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import tuple_inline, tuple_kernel, tuple_splice
from tokkit.kernels.memory import signed
from tokkit.kernels.vocab.symbols import END, GONE, Words, find_word

_PRIME = np.uint64(0x9E37_79B9_7F4A_7C15)
_HALF = 32
_LOW_HALF = (1 << _HALF) - 1
NONE = -1

KEY, COUNT, START, NUMBER = range(4)
ROW = 4
NUM_PAIRS, NUM_PLACES, NUM_FRESH = range(3)
_FIRST_ROOM = 1 << 10


class Pairs(NamedTuple):
    """What is known of all pairs.

    Attributes:
        table: int32 ``[2 ** n]``: one more than a pair's number, or 0; at most half are used.
        shift: 64 - n.
        rows: int64 ``[4 * capacity]``: of each pair its key (left id << 32 | right id), how often
            it occurs, its first place, and how many places it has.
        places: int32: the cells where left symbols begin, ascending for each pair.
        fresh: int32: pair and place of each occurrence that the merge at work has made.
        sizes: int64 ``[3]``: how many pairs, places and fresh occurrences there are.
    """

    table: NDArray[np.int32]
    shift: int
    rows: NDArray[np.int64]
    places: NDArray[np.int32]
    fresh: NDArray[np.int32]
    sizes: NDArray[np.int64]


def index_pairs(words: Words, min_frequency: int) -> Pairs:
    """Count all pairs of words, and note where those are that occur often enough."""
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
    number = int(rows[rows[:, COUNT] >= min_frequency, NUMBER].sum())
    pairs = pairs._replace(places=np.empty(number, np.int32))
    _place_pairs(words, pairs, min_frequency)
    return pairs


@tuple_kernel
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
            _add(pairs, join(cells[cell], cells[cell + 1]), count)
    return cells.size


@tuple_kernel
def _place_pairs(words: Words, pairs: Pairs, min_frequency: int) -> None:
    """Write the places of all pairs, which were counted."""
    _begin_places(pairs, 0, min_frequency)
    cells = words.cells
    for cell in range(cells.size - 1):
        if cells[cell] != END and cells[cell + 1] != END:
            _add_place(pairs, find(pairs, join(cells[cell], cells[cell + 1])), cell)
    _drop_pairs(pairs, 0)


def enlarge(array: NDArray[Any], used: int, needed: int) -> NDArray[Any]:
    """An array with room for ``needed`` more behind those used, and then half as much again."""
    if used + needed <= len(array):
        return array
    larger = np.zeros((used + needed) * 3 // 2, array.dtype)
    larger[:used] = array[:used]
    return larger


def make_room(pairs: Pairs, num_pairs: int, num_fresh: int) -> Pairs:
    """The same pairs, with room for so many more and so many fresh occurrences."""
    sizes = pairs.sizes
    if sizes[NUM_PLACES] + num_fresh > len(pairs.places):
        _drop_places(pairs)
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


@tuple_splice
def has_room(pairs: Pairs, num_pairs: int, num_fresh: int) -> bool:
    """Whether ``make_room`` would have nothing to do."""
    needed = pairs.sizes[NUM_PAIRS] + num_pairs
    return (
        ROW * needed <= pairs.rows.size
        and 2 * needed <= pairs.table.size
        and pairs.sizes[NUM_PLACES] + num_fresh <= pairs.places.size
        and 2 * num_fresh <= pairs.fresh.size
    )


@tuple_kernel
def _drop_places(pairs: Pairs) -> None:
    """Move the places that are still needed to the front."""
    top = 0
    for row in range(0, ROW * pairs.sizes[NUM_PAIRS], ROW):
        start = pairs.rows[row + START]
        pairs.rows[row + START] = top
        for place in range(start, start + pairs.rows[row + NUMBER]):
            pairs.places[top] = pairs.places[place]
            top += 1
    pairs.sizes[NUM_PLACES] = top


@tuple_kernel
def _fill_table(pairs: Pairs) -> None:
    """Put all pairs into an empty table."""
    for pair in range(pairs.sizes[NUM_PAIRS]):
        pairs.table[_find(pairs, pairs.rows[ROW * pair + KEY])] = pair + 1


@tuple_splice
def join(left: int, right: int) -> int:
    """The key of a pair; keys are ordered as pairs of ids are."""
    return signed(left) << _HALF | signed(right)


@tuple_splice
def split(key: int) -> tuple[int, int]:
    """Left and right id of a key."""
    return key >> _HALF, key & _LOW_HALF


@tuple_splice
def _find(pairs: Pairs, key: int) -> int:
    """Where in the table a pair stands, or the free place where it would."""
    table = pairs.table
    place = signed((np.uint64(key) * _PRIME) >> np.uint64(pairs.shift))
    while table[place] != 0 and pairs.rows[ROW * (signed(table[place]) - 1)] != key:
        place = (place + 1) & (table.size - 1)
    return place


@tuple_splice
def find(pairs: Pairs, key: int) -> int:
    """The number of a pair, or ``NONE``."""
    return signed(pairs.table[_find(pairs, key)]) - 1


@tuple_splice
def subtract(pairs: Pairs, key: int, count: int) -> None:
    """Note that occurrences of a pair are gone, if it is one to keep account of."""
    pair = find(pairs, key)
    if pair != NONE:
        pairs.rows[ROW * pair + COUNT] -= count


@tuple_splice
def _add(pairs: Pairs, key: int, count: int) -> int:
    """Note an occurrence of a pair, which weighs ``count``; returns the pair's number."""
    place = _find(pairs, key)
    pair = signed(pairs.table[place]) - 1
    if pair == NONE:
        pair = pairs.sizes[NUM_PAIRS]
        pairs.sizes[NUM_PAIRS] += 1
        pairs.table[place] = pair + 1
        pairs.rows[ROW * pair + KEY] = key
        pairs.rows[ROW * pair + COUNT] = 0
        pairs.rows[ROW * pair + NUMBER] = 0
    pairs.rows[ROW * pair + COUNT] += count
    pairs.rows[ROW * pair + NUMBER] += 1
    return pair


@tuple_splice
def add_fresh(pairs: Pairs, key: int, count: int, cell: int) -> None:
    """Note an occurrence of a pair that the merge at work has made at a cell."""
    fresh = 2 * pairs.sizes[NUM_FRESH]
    pairs.fresh[fresh] = _add(pairs, key, count)
    pairs.fresh[fresh + 1] = cell
    pairs.sizes[NUM_FRESH] += 1


@tuple_inline
def place_fresh(pairs: Pairs, first: int, min_frequency: int) -> None:
    """Write the places that a merge has made, whose pairs are those from ``first`` on."""
    _begin_places(pairs, first, min_frequency)
    for fresh in range(0, 2 * pairs.sizes[NUM_FRESH], 2):
        _add_place(pairs, signed(pairs.fresh[fresh]), signed(pairs.fresh[fresh + 1]))
    pairs.sizes[NUM_FRESH] = 0
    _drop_pairs(pairs, first)


@tuple_splice
def _begin_places(pairs: Pairs, first: int, min_frequency: int) -> None:
    """Give room to the pairs from ``first`` on, but for those that occur too seldom."""
    top = pairs.sizes[NUM_PLACES]
    for row in range(ROW * first, ROW * pairs.sizes[NUM_PAIRS], ROW):
        pairs.rows[row + START] = NONE
        if pairs.rows[row + COUNT] >= min_frequency:
            pairs.rows[row + START] = top
            top += pairs.rows[row + NUMBER]
        pairs.rows[row + NUMBER] = 0
    pairs.sizes[NUM_PLACES] = top


@tuple_splice
def _add_place(pairs: Pairs, pair: int, cell: int) -> None:
    """Write a place of a pair behind its others."""
    row = ROW * pair
    if pairs.rows[row + START] != NONE:
        pairs.places[pairs.rows[row + START] + pairs.rows[row + NUMBER]] = cell
        pairs.rows[row + NUMBER] += 1


@tuple_inline
def _drop_pairs(pairs: Pairs, first: int) -> None:
    """Forget the pairs from ``first`` on that occur too seldom, and number the others anew.

    What was put last into a table with linear probing can be taken out without a trace.
    """
    number = pairs.sizes[NUM_PAIRS]
    for pair in range(number - 1, first - 1, -1):
        pairs.table[_find(pairs, pairs.rows[ROW * pair + KEY])] = 0
    kept = first
    for pair in range(first, number):
        if pairs.rows[ROW * pair + START] != NONE:
            for part in range(ROW):
                pairs.rows[ROW * kept + part] = pairs.rows[ROW * pair + part]
            pairs.table[_find(pairs, pairs.rows[ROW * kept + KEY])] = kept + 1
            kept += 1
    pairs.sizes[NUM_PAIRS] = kept


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
