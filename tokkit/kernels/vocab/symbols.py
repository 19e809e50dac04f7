"""Words as symbols in one array of cells, a symbol at its first cell and again at its last.

Two words of different counts, "abab" and "ac", before and after "a b" became the symbol 7:

    cells   END 0 1 0 1 END 0 2 END       END 7 7 7 7 END 0 2 END
    starts      1           6     9

A symbol's id gives its length in cells, so the next symbol is found from where this one begins, and
the one before from the cell in front of it: four bytes per character hold a doubly linked list.
Cells within a symbol are ``GONE``, so an outdated place is always noticed: where a symbol began,
there is still that symbol, or ``GONE``, or the end of a longer symbol.

Words of the same count are a group, and groups are few, so a word's count is found within the caches;
with the number of each word, and counts by these numbers, merging took half as long again.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int32, Int64
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import decode_character, prefetch, signed

END = -1
GONE = -2
NO_SYMBOL = -1
_BLOCK_BITS = 6
_MANY = 0xFFFF
NOTHING_KNOWN = (0, 0)
_AHEAD = 8


class Words(NamedTuple):
    """The symbols of all words, of which those with the same count are a group.

    Attributes:
        cells: int32 ``[num_cells]``.
        starts: int32 ``[num_groups + 1]``: the first cell of each group, and one behind the last.
        blocks: int32 ``[num_cells // 64 + 1]``: the group of every 64th cell.
        counts: int64 ``[num_groups]``: occurrences of each word of a group, descending.
    """

    cells: Int32
    starts: Int32
    blocks: Int32
    counts: Int64


def lay_out_words(
    values: Bytes,
    offsets: Int64,
    counts: Int64,
    first_ids: Int32,
    next_ids: Int32,
    *,
    as_bytes: bool,
) -> Words:
    """Write words as symbols; there must be fewer than 2 ** 31 bytes and words together.

    Args:
        values: uint8, the words' bytes.
        offsets: int64 ``[num_words + 1]``, into ``values``.
        counts: int64 ``[num_words]``.
        first_ids: int32, the symbol of each byte or code point that begins a word. ``NO_SYMBOL``
            leaves it out.
        next_ids: int32, the symbol of each byte or code point within a word.
        as_bytes: a symbol is a byte, not a character of UTF-8.
    """
    # What is not written to takes no memory: most words share their count with others.
    starts = np.empty(len(counts) + 1, np.int32)
    group_counts = np.empty(len(counts), np.int64)
    cells = np.empty(len(values) + len(counts) + 1, np.int32)
    num_groups, num_cells = _fill_cells(
        values,
        offsets,
        counts,
        _order_by_count(counts),
        first_ids,
        next_ids,
        as_bytes,
        starts,
        group_counts,
        cells,
    )
    starts = starts[: num_groups + 1]
    blocks = np.empty((num_cells >> _BLOCK_BITS) + 1, np.int32)
    _fill_blocks(starts, blocks)
    return Words(cells[:num_cells], starts, blocks, group_counts[:num_groups])


def _order_by_count(counts: Int64) -> Int64:
    """Return the order of descending counts, int64 ``[num_words]``; equal ones stay in order.

    Numbers of 16 bits are sorted by their digits, in a tenth of the time.
    """
    order = np.argsort(_MANY - np.minimum(counts, _MANY).astype(np.uint16), kind="stable")
    num_large = np.count_nonzero(counts >= _MANY)
    large = order[:num_large]
    order[:num_large] = large[np.argsort(-counts[large], kind="stable")]
    return order


@kernel
def _fill_cells(
    values: Bytes,
    offsets: Int64,
    counts: Int64,
    order: Int64,
    first_ids: Int32,
    next_ids: Int32,
    as_bytes: bool,
    out_starts: Int32,
    out_counts: Int64,
    out_cells: Int32,
) -> tuple[int, int]:
    """Write the cells of all words, in an order; returns the numbers of groups and of cells."""
    out_cells[0] = END
    cell = 1
    num_groups = 0
    for rank in range(order.size):
        word = order[rank]
        if rank + _AHEAD < order.size:
            prefetch(values, offsets[order[rank + _AHEAD]])
        if num_groups == 0 or counts[word] != out_counts[num_groups - 1]:
            out_starts[num_groups] = cell
            out_counts[num_groups] = counts[word]
            num_groups += 1
        position = offsets[word]
        while position < offsets[word + 1]:
            ids = first_ids if position == offsets[word] else next_ids
            if as_bytes:
                symbol = ids[values[position]]
                position += 1
            else:
                code, length = decode_character(values, position)
                symbol = ids[code]
                position += length
            if symbol != NO_SYMBOL:
                out_cells[cell] = symbol
                cell += 1
        out_cells[cell] = END
        cell += 1
    out_starts[num_groups] = cell
    return num_groups, cell


@kernel
def _fill_blocks(starts: Int32, out_blocks: Int32) -> None:
    """Find the group of every 64th cell; an ``END`` belongs to the word before it."""
    group = 0
    for block in range(out_blocks.size):
        while group + 2 < starts.size and starts[group + 1] <= block << _BLOCK_BITS:
            group += 1
        out_blocks[block] = group


@splice
def find_count(words: Words, cell: int, known: tuple[int, int]) -> tuple[int, int]:
    """Return the count of the word that a cell is in.

    Args:
        words: the words.
        cell: the cell.
        known: the result for a cell before it, or ``NOTHING_KNOWN``.

    Returns:
        The count, and the cell where words with other counts begin.
    """
    count, stop = known
    if cell >= stop:
        group = signed(words.blocks[cell >> _BLOCK_BITS])
        while words.starts[group + 1] <= cell:
            group += 1
        count, stop = signed(words.counts[group]), signed(words.starts[group + 1])
    return count, stop


@kernel
def count_characters(
    values: Bytes, offsets: Int64, counts: Int64, out_counts: Int64, out_continues: Bools
) -> None:
    """Count the characters of words.

    Args:
        values: uint8, the words' bytes, UTF-8.
        offsets: int64 ``[num_words + 1]``, into ``values``.
        counts: int64 ``[num_words]``.
        out_counts: int64 ``[0x110000]``, added to.
        out_continues: bool ``[0x110000]``: set for characters that follow another one in a word.
    """
    for word in range(counts.size):
        position = offsets[word]
        while position < offsets[word + 1]:
            code, length = decode_character(values, position)
            out_counts[code] += counts[word]
            if position > offsets[word]:
                out_continues[code] = True
            position += length
