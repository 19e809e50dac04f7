"""A trie of a vocabulary's bytes that finds the longest token a text begins with.

It is a double array. The children of a node are at its base, each at ``base ^ byte``, in one array of
cells. No two nodes have the same base, so a cell labelled with the byte is the child:

    tokens a, ab, b      root base 256      cell 256 ^ a: label a, token a, base 512
                                            cell 256 ^ b: label b, token b
                                            cell 512 ^ b: label b, token ab

A step is one load of eight bytes. (Aoe 1989; the layout is that of Yata's darts-clone.) A linear-time
walk with failure links (LinMaxMatch, Song et al. 2021) was left out: words are cached. A hash table of
edges over code points, which WordPiece had, takes six times the memory, and three loads a step.
"""

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int64, UInt64
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import signed

Cells = UInt64

NO_TOKEN = -1

# A cell: its label plus 1 (9 bits), its token plus 1 (27), the base of its children (28).
TOKEN_SHIFT = np.uint64(9)
BASE_SHIFT = np.uint64(36)
LABEL_MASK = np.uint64((1 << 9) - 1)
TOKEN_MASK = np.uint64((1 << 27) - 1)
# Free cells this far behind the last one taken are given up, since each search would pass them.
_REACH = 512


@splice
def find_longest(cells: Cells, values: Bytes, start: int, stop: int) -> tuple[int, int]:
    """Return the longest token at ``start``, or ``NO_TOKEN``, and where it ends."""
    return find_longest_below(cells, cells[0] >> BASE_SHIFT, values, start, stop)


@splice
def find_longest_below(
    cells: Cells, base: np.uint64, values: Bytes, start: int, stop: int
) -> tuple[int, int]:
    """Return what ``find_longest`` does, of the tokens below the node with this base."""
    longest = np.uint64(0)
    end = start
    for position in range(start, stop):
        byte = np.uint64(values[position])
        cell = cells[base ^ byte]
        if cell & LABEL_MASK != byte + np.uint64(1):
            break
        token = (cell >> TOKEN_SHIFT) & TOKEN_MASK
        longest = token or longest
        end = position + 1 if token else end
        base = cell >> BASE_SHIFT
    return signed(longest) - 1, end


def find_base(cells: Cells, byte: int) -> int:
    """Return the base of the root's child at a byte; 0, below which nothing is, if there is none."""
    root, label_mask, base_shift = int(cells[0]), int(LABEL_MASK), int(BASE_SHIFT)
    cell = int(cells[(root >> base_shift) ^ byte])
    return cell >> base_shift if cell & label_mask == byte + 1 else 0


def make_cells(values: Bytes, offsets: Int64, ids: Int64) -> Cells:
    """Return the double array of tokens; see ``fill_cells``."""
    queue = np.empty((len(values) + 1, 4), np.int64)
    size = 1 << max(16, (2 * len(ids)).bit_length())  # published vocabularies have 2 nodes a token
    while True:
        cells = np.zeros(size, np.uint64)
        if fill_cells(values, offsets, ids, cells, queue, np.zeros(size, np.bool_)):
            return cells
        size *= 2


@kernel
def fill_cells(
    values: Bytes,
    offsets: Int64,
    ids: Int64,
    out_cells: Cells,
    out_ranges: Int64,
    out_has_base: Bools,
) -> bool:
    """Build a double array, level by level.

    Args:
        values: uint8, the tokens' bytes.
        offsets: int64 ``[num_tokens + 1]``, into ``values``; tokens are distinct, none is empty,
            and they are in the order of their bytes.
        ids: int64 ``[num_tokens]``, below ``2 ** 26``.
        out_cells: uint64 ``[n]``, zeros, n a multiple of 256. Cell 0 is the root.
        out_ranges: int64 ``[values.size + 1, 4]``, memory for a queue.
        out_has_base: bool ``[n]``, zeros.

    Returns:
        Whether there was room; if not, call it again with more.
    """
    if not ids.size:
        return True  # the root has base 0, below which nothing is
    # A node: its cell, its first token, the one after its last, and its depth.
    out_ranges[0, 0] = 0
    out_ranges[0, 1] = 0
    out_ranges[0, 2] = ids.size
    out_ranges[0, 3] = 0
    out_has_base[0] = True  # a leaf has base 0
    out_cells[0] = np.uint64(1) << np.uint64(63)  # not free
    head = 0
    tail = 1
    search = 1
    while head < tail:
        cell, first = out_ranges[head, 0], out_ranges[head, 1]
        last, depth = out_ranges[head, 2], out_ranges[head, 3]
        head += 1
        if offsets[first + 1] - offsets[first] == depth:
            first += 1  # the token that ends here
        if first == last:
            continue
        base = _find_base(values, offsets, first, last, depth, search, out_cells, out_has_base)
        if base < 0:
            return False
        search = max(search, base - _REACH)
        out_has_base[base] = True
        own = out_cells[cell] if cell != 0 else np.uint64(0)
        out_cells[cell] = own | np.uint64(base) << BASE_SHIFT
        start = first
        while start < last:
            byte = values[offsets[start] + depth]
            stop = start
            while stop < last and values[offsets[stop] + depth] == byte:
                stop += 1
            child = base ^ signed(byte)
            out_cells[child] = np.uint64(byte) + np.uint64(1)
            if offsets[start + 1] - offsets[start] == depth + 1:
                out_cells[child] |= np.uint64(ids[start] + 1) << TOKEN_SHIFT
            out_ranges[tail, 0] = child
            out_ranges[tail, 1] = start
            out_ranges[tail, 2] = stop
            out_ranges[tail, 3] = depth + 1
            tail += 1
            start = stop
    return True


@inline
def _find_base(
    values: Bytes,
    offsets: Int64,
    first: int,
    last: int,
    depth: int,
    search: int,
    cells: Cells,
    has_base: Bools,
) -> int:
    """Return a base at which the cells of all children are free, or -1 if there is no more room."""
    label = signed(values[offsets[first] + depth])
    for place in range(search, cells.size):
        base = place ^ label
        fits = cells[place] == 0 and not has_base[base]
        index = first
        while fits and index < last:
            fits = cells[base ^ signed(values[offsets[index] + depth])] == 0
            index += 1
        if fits:
            return base
    return -1
