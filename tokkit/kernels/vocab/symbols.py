"""Words as one array of cells, a symbol at its first cell and again at its last.

Two words, "abab" and "ac", before and after "a b" became the symbol 7:

    cells   END 0 1 0 1 END 0 2 END       END 7 7 7 7 END 0 2 END
    starts      1           6     9

A symbol's length in cells is known by its id, so the next symbol is found from where this one
begins, and the one before from the cell in front of it: four bytes a character hold a list that is
linked both ways. Cells within a symbol are ``GONE``, so an outdated place never looks like one that
is not: where a symbol began, either it or ``GONE`` or the end of a longer one stands.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import kernel, tuple_splice
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
        blocks: int32 ``[num_cells // 8 + 1]``: the word that every eighth cell is in.
        counts: int64 ``[num_words]``: how often each occurs.
    """

    cells: NDArray[np.int32]
    starts: NDArray[np.int32]
    blocks: NDArray[np.int32]
    counts: NDArray[np.int64]


def lay_out_words(
    values: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
    first_ids: NDArray[np.int32],
    next_ids: NDArray[np.int32],
    *,
    as_bytes: bool,
) -> Words:
    """Write words as symbols; there must be fewer than 2 ** 31 bytes and words together.

    Args:
        values: uint8, the words' bytes.
        offsets: int64 ``[num_words + 1]``.
        counts: int64 ``[num_words]``.
        first_ids: int32, the symbol of each byte or code point that begins a word; where it is
            ``NO_SYMBOL`` the word goes on without it.
        next_ids: likewise, where it does not begin one.
        as_bytes: a symbol is a byte, not a character of UTF-8.
    """
    starts = np.empty(len(counts) + 1, np.int32)
    cells = np.empty(len(values) + len(counts) + 1, np.int32)
    num_cells = _lay_out(values, offsets, first_ids, next_ids, as_bytes, starts, cells)
    cells = cells[:num_cells].copy() if num_cells < len(cells) else cells
    blocks = np.empty((num_cells >> _BLOCK_BITS) + 1, np.int32)
    _fill_blocks(starts, blocks)
    return Words(cells, starts, blocks, counts)


@kernel
def _lay_out(
    values: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    first_ids: NDArray[np.int32],
    next_ids: NDArray[np.int32],
    as_bytes: bool,  # noqa: FBT001  a kernel's arguments have no names
    out_starts: NDArray[np.int32],
    out_cells: NDArray[np.int32],
) -> int:
    """Fill the cells; returns how many."""
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
def _fill_blocks(starts: NDArray[np.int32], out_blocks: NDArray[np.int32]) -> None:
    """For every eighth cell find its word; an ``END`` counts to the word before it."""
    word = 0
    for block in range(out_blocks.size):
        while word + 2 < starts.size and starts[word + 1] <= block << _BLOCK_BITS:
            word += 1
        out_blocks[block] = word


@tuple_splice
def find_word(words: Words, cell: int) -> int:
    """The word that a cell is in: at most eight begin within a block."""
    word = int(words.blocks[cell >> _BLOCK_BITS])
    while words.starts[word + 1] <= cell:
        word += 1
    return word


@kernel
def count_characters(
    values: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    counts: NDArray[np.int64],
    out_counts: NDArray[np.int64],
    out_continues: NDArray[np.bool_],
) -> None:
    """Count the characters of words.

    Args:
        values: uint8, the words' bytes, UTF-8.
        offsets: int64 ``[num_words + 1]``.
        counts: int64 ``[num_words]``.
        out_counts: int64 ``[0x110000]``, which are added to.
        out_continues: bool ``[0x110000]``: set for those that follow another one in a word.
    """
    for word in range(counts.size):
        position = offsets[word]
        while position < offsets[word + 1]:
            code, length = decode_character(values, position)
            out_counts[code] += counts[word]
            if position > offsets[word]:
                out_continues[code] = True
            position += length
