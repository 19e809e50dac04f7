"""Counts and places of all pairs of neighbouring symbols.

A pair gets a number when it first occurs; a hash table finds the number by the pair's two ids. The
cells where a pair occurs are contiguous in one array. A cell that has changed since is noticed when
it is visited.

    words   abab, ac      pairs   0: a b (2)     1: b a (1)     2: a c (1)
                          places     cells 1 3      cell 2         cell 6

All occurrences of a pair are created at one time: at the start, or by the merge that created one of
its two symbols (see ``pair_merging``). No string is created by two merges, because each merge is
applied to every occurrence, so what becomes of cells that end up as one symbol depends on them
alone. Hence counts only fall later, the pairs that a merge creates have the highest numbers, and
those of them that are too rare to be merged can be dropped at once.

Room never runs out within a merge: the most that a merge needs is known before, and the kernels
return to their caller for more.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.arrays import Int32, Int64
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import HASH_PRIME, signed
from tokkit.kernels.vocab.symbols import END, NOTHING_KNOWN, Words, find_count

NONE = -1

# Parts of a row of ``Pairs.rows``.
KEY, COUNT, START, NUM_OCCURRENCES = range(4)
ROW = 4
# Indices into ``Pairs.sizes``.
NUM_PAIRS, NUM_PLACES, NUM_FRESH = range(3)

_HALF = 32
_LOW_HALF = (1 << _HALF) - 1
_FIRST_ROOM = 1 << 10
# Rows for these take no memory before they are used; to copy them to larger arrays took 0.2 s of 4.
_PAIRS_PER_TOKEN = 20


class Pairs(NamedTuple):
    """The pairs.

    Attributes:
        table: int32 ``[2 ** n]``: a pair's number plus 1, or 0; at most half are used.
        shift: 64 - n.
        rows: int64 ``[4 * capacity]``: key (left id << 32 | right id), count, first place and
            number of places of each pair.
        places: int32: the cells where left symbols begin, ascending for each pair.
        fresh: int32: pair and cell of each occurrence that the current merge has created.
        neighbors: int32 ``[2 * vocab_size]``, for the current merge: for each token the number plus
            1 of its pair with the merged token behind it, and of that with it before, or 0.
        sizes: int64 ``[3]``: number of pairs, places and fresh occurrences.
    """

    table: Int32
    shift: int
    rows: Int64
    places: Int32
    fresh: Int32
    neighbors: Int32
    sizes: Int64


def index_pairs(words: Words, min_frequency: int, vocab_size: int) -> Pairs:
    """Count all pairs of words, and list the places of those that are frequent enough."""
    pairs = Pairs(
        np.zeros(2 * _FIRST_ROOM, np.int32),
        64 - _FIRST_ROOM.bit_length(),
        np.empty(ROW * _FIRST_ROOM, np.int64),
        np.empty(0, np.int32),
        np.empty(0, np.int32),
        np.zeros(2 * vocab_size, np.int32),
        np.zeros(3, np.int64),
    )
    cell = 0
    while (cell := _count_pairs(words, cell, pairs)) < len(words.cells):
        pairs = make_room(pairs, int(pairs.sizes[NUM_PAIRS]), 0)
    rows = pairs.rows[: ROW * pairs.sizes[NUM_PAIRS]].reshape(-1, ROW)
    number = int(rows[rows[:, COUNT] >= min_frequency, NUM_OCCURRENCES].sum())
    # With room for those of merges, which takes no memory before it is used.
    room = ROW * _PAIRS_PER_TOKEN * vocab_size
    pairs = pairs._replace(
        rows=enlarge(pairs.rows, ROW * int(pairs.sizes[NUM_PAIRS]), room),
        places=np.empty(number * 3 // 2, np.int32),
    )
    _list_places(words, pairs, min_frequency)
    return pairs


@kernel
def _count_pairs(words: Words, start: int, pairs: Pairs) -> int:
    """Count the pairs from a cell on, as long as there is room for new ones.

    Returns:
        The cell to go on from: the number of cells when all is done.
    """
    cells = words.cells
    known = NOTHING_KNOWN
    for cell in range(start, cells.size - 1):
        if cells[cell] != END and cells[cell + 1] != END:
            # There are fewer rows than places in the table, so a search always ends at a free place.
            if ROW * pairs.sizes[NUM_PAIRS] == pairs.rows.size:
                return cell
            known = find_count(words, cell, known)
            _count_pair(pairs, join_key(cells[cell], cells[cell + 1]), known[0])
    return cells.size


@kernel
def _list_places(words: Words, pairs: Pairs, min_frequency: int) -> None:
    """Write the places of all pairs, which were counted."""
    for row in range(0, ROW * pairs.sizes[NUM_PAIRS], ROW):
        reserve_places(pairs, row, pairs.rows[row + COUNT] >= min_frequency)
    cells = words.cells
    for cell in range(cells.size - 1):
        if cells[cell] != END and cells[cell + 1] != END:
            add_place(pairs, find_pair(pairs, join_key(cells[cell], cells[cell + 1])), cell)
    for place in range(pairs.table.size):
        pairs.table[place] = 0
    drop_pairs(pairs, 0)


def enlarge(array: NDArray[Any], used: int, needed: int) -> NDArray[Any]:
    """Return an array with room for ``needed`` more behind those used, and half as much again."""
    if used + needed <= len(array):
        return array
    larger = np.empty((used + needed) * 3 // 2, array.dtype)
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
def join_key(left: int, right: int) -> int:
    """Return the key of a pair; keys have the same order as pairs of ids."""
    return signed(left) << _HALF | signed(right)


@splice
def split_key(key: int) -> tuple[int, int]:
    """Return left and right id of a key."""
    return key >> _HALF, key & _LOW_HALF


@splice
def hash_key(pairs: Pairs, key: int) -> int:
    """Return the place of the table where the search for a pair begins."""
    return signed((np.uint64(key) * HASH_PRIME) >> np.uint64(pairs.shift))


@splice
def _find_place(pairs: Pairs, key: int) -> int:
    """Return the place of a pair in the table, or the free place where it would be."""
    table = pairs.table
    place = hash_key(pairs, key)
    while table[place] != 0 and pairs.rows[ROW * (signed(table[place]) - 1)] != key:
        place = (place + 1) & (table.size - 1)
    return place


@splice
def find_pair(pairs: Pairs, key: int) -> int:
    """Return the number of a pair, or ``NONE``."""
    return signed(pairs.table[_find_place(pairs, key)]) - 1


@splice
def _count_pair(pairs: Pairs, key: int, count: int) -> None:
    """Add an occurrence of a pair that counts ``count`` times."""
    place = _find_place(pairs, key)
    if pairs.table[place] == 0:
        append_pair(pairs, key)
        pairs.table[place] = pairs.sizes[NUM_PAIRS]
    add_occurrence(pairs, signed(pairs.table[place]) - 1, count)


@splice
def append_pair(pairs: Pairs, key: int) -> None:
    """Put a pair without occurrences behind the others."""
    row = ROW * pairs.sizes[NUM_PAIRS]
    pairs.rows[row + KEY] = key
    pairs.rows[row + COUNT] = 0
    pairs.rows[row + NUM_OCCURRENCES] = 0
    pairs.sizes[NUM_PAIRS] += 1


@splice
def add_occurrence(pairs: Pairs, pair: int, count: int) -> None:
    """Count an occurrence of a pair in a word that occurs ``count`` times."""
    pairs.rows[ROW * pair + COUNT] += count
    pairs.rows[ROW * pair + NUM_OCCURRENCES] += 1


@splice
def reserve_places(pairs: Pairs, row: int, is_needed: bool) -> None:
    """Reserve places for the occurrences of a pair, or mark it as one to be dropped."""
    pairs.rows[row + START] = NONE
    if is_needed:
        pairs.rows[row + START] = pairs.sizes[NUM_PLACES]
        pairs.sizes[NUM_PLACES] += pairs.rows[row + NUM_OCCURRENCES]
    pairs.rows[row + NUM_OCCURRENCES] = 0


@splice
def add_place(pairs: Pairs, pair: int, cell: int) -> None:
    """Write a place of a pair behind its others."""
    row = ROW * pair
    if pairs.rows[row + START] != NONE:
        pairs.places[pairs.rows[row + START] + pairs.rows[row + NUM_OCCURRENCES]] = cell
        pairs.rows[row + NUM_OCCURRENCES] += 1


@inline
def drop_pairs(pairs: Pairs, first: int) -> None:
    """Drop the pairs from ``first`` on that have no places, and put the others into the table."""
    kept = first
    for pair in range(first, pairs.sizes[NUM_PAIRS]):
        if pairs.rows[ROW * pair + START] != NONE:
            for part in range(ROW):
                pairs.rows[ROW * kept + part] = pairs.rows[ROW * pair + part]
            kept += 1
            pairs.table[_find_place(pairs, pairs.rows[ROW * kept - ROW + KEY])] = kept
    pairs.sizes[NUM_PAIRS] = kept
