"""Words as symbols in one array of cells, a symbol at its first cell and again at its last.

Two words, "abab" and "ac", before and after "a b" became the symbol 7:

    cells   END 0 1 0 1 END 0 2 END       END 7 7 7 7 END 0 2 END
    starts      1           6     9

A symbol's id gives its length in cells, so the next symbol is found from where this one begins, and
the one before from the cell in front of it: four bytes per character hold a doubly linked list.
Cells within a symbol are ``GONE``, so an outdated place is always noticed: where a symbol began,
there is still that symbol, or ``GONE``, or the end of a longer symbol.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int32, Int64
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import decode_character

END = -1
GONE = -2
NO_SYMBOL = -1
_BLOCK_BITS = 3


class Words(NamedTuple):
    """The symbols of all words.

    Attributes:
        cells: int32 ``[num_cells]``.
        starts: int32 ``[num_words + 1]``: the first cell of each word, and one behind the last.
        blocks: int32 ``[num_cells // 8 + 1]``: the word of every eighth cell.
        counts: int64 ``[num_words]``: occurrences of each.
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
    starts = np.empty(len(counts) + 1, np.int32)
    cells = np.empty(len(values) + len(counts) + 1, np.int32)
    num_cells = _fill_cells(values, offsets, first_ids, next_ids, as_bytes, starts, cells)
    cells = cells[:num_cells].copy() if num_cells < len(cells) else cells
    blocks = np.empty((num_cells >> _BLOCK_BITS) + 1, np.int32)
    _fill_blocks(starts, blocks)
    return Words(cells, starts, blocks, counts)


@kernel
def _fill_cells(
    values: Bytes,
    offsets: Int64,
    first_ids: Int32,
    next_ids: Int32,
    as_bytes: bool,
    out_starts: Int32,
    out_cells: Int32,
) -> int:
    """Write the cells of all words; returns the number of cells."""
    out_cells[0] = END
    cell = 1
    for word in range(offsets.size - 1):
        out_starts[word] = cell
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
    out_starts[offsets.size - 1] = cell
    return cell


@kernel
def _fill_blocks(starts: Int32, out_blocks: Int32) -> None:
    """Find the word of every eighth cell; an ``END`` belongs to the word before it."""
    word = 0
    for block in range(out_blocks.size):
        while word + 2 < starts.size and starts[word + 1] <= block << _BLOCK_BITS:
            word += 1
        out_blocks[block] = word


@splice
def find_word(words: Words, cell: int) -> int:
    """Return the word that a cell is in: at most eight begin within a block."""
    word = int(words.blocks[cell >> _BLOCK_BITS])
    while words.starts[word + 1] <= cell:
        word += 1
    return word


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
