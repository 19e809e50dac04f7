r"""Two tries of a vocabulary that find the longest token a text begins with.

``Trie`` is over code points, for WordPiece:

    un, unable, ##able     root ─u─ · ─n─ un ─a─ · ─b─ · ─l─ · ─e─ unable
                           continued ─a─ · ─b─ · ─l─ · ─e─ ##able

Its edges are in one hash table with linear probing. A linear-time walk with failure links
(LinMaxMatch, Song et al. 2021) was left out: with words cached, the walk takes a hundredth of the
time.

Double-array ``Cells`` are over bytes, for BPE. The children of a node are at its base, each at
``base ^ byte``, in one array of cells. No two nodes have the same base, so a cell labelled with the
byte is the child:

    tokens a, ab, b      root base 256      cell 256 ^ a: label a, token a, base 512
                                            cell 256 ^ b: label b, token b
                                            cell 512 ^ b: label b, token ab

A step is one load of eight bytes; in the hash table, which has room for code points, a step is
three loads that wait for each other. (Aoe 1989; the layout is that of Yata's darts-clone.)
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int32, Int64, UInt32, UInt64
from tokkit.kernels.jit import kernel, tuple_splice
from tokkit.kernels.memory import HASH_PRIME, signed

Cells = UInt64

NO_TOKEN = -1

# Nodes of a ``Trie`` to begin at.
ROOT = 0
CONTINUED = 1

_CODE_BITS = np.uint64(21)

# A cell: its label plus 1 (9 bits), its token plus 1 (27), the base of its children (28).
TOKEN_SHIFT = np.uint64(9)
BASE_SHIFT = np.uint64(36)
LABEL_MASK = np.uint64((1 << 9) - 1)
TOKEN_MASK = np.uint64((1 << 27) - 1)
# Free cells this far behind the last one taken are given up, since each search would pass them.
_REACH = 512


class Trie(NamedTuple):
    """A trie over code points; its nodes are numbers.

    Attributes:
        keys: uint64 ``[2 ** n]``: parent and code point of an edge, plus 1; 0 is free.
        children: int32 ``[2 ** n]``: the node that the edge leads to.
        shift: 64 - n.
        ids: int64 ``[num_nodes]``: the id of the token that ends here, or ``NO_TOKEN``.
    """

    keys: UInt64
    children: Int32
    shift: int
    ids: Int64


@tuple_splice
def find_edge(keys: UInt64, shift: int, node: int, code: int) -> tuple[int, np.uint64]:
    """Return the place of an edge, or the free place where it would be; and its key."""
    key = (np.uint64(node) << _CODE_BITS | np.uint64(code)) + np.uint64(1)
    place = signed((key * HASH_PRIME) >> np.uint64(shift))
    while keys[place] != 0 and keys[place] != key:
        place = (place + 1) & (keys.size - 1)
    return place, key


@kernel
def fill_trie(
    codes: UInt32,
    offsets: Int64,
    roots: Int64,
    ids: Int64,
    shift: int,
    out_keys: UInt64,
    out_children: Int32,
    out_ids: Int64,
) -> int:
    """Insert tokens into an empty trie.

    Args:
        codes: uint32, the code points of all tokens.
        offsets: int64 ``[num_tokens + 1]``, into ``codes``.
        roots: int64 ``[num_tokens]``: ``ROOT`` or ``CONTINUED``.
        ids: int64 ``[num_tokens]``.
        shift: 64 - n.
        out_keys: uint64 ``[2 ** n]``, zeros; at least half as large again as ``codes``.
        out_children: int32 ``[2 ** n]``.
        out_ids: int64 ``[codes.size + 2]``, all ``NO_TOKEN``.

    Returns:
        The number of nodes.
    """
    num_nodes = 2
    for token in range(ids.size):
        node = roots[token]
        for index in range(offsets[token], offsets[token + 1]):
            place, key = find_edge(out_keys, shift, node, signed(codes[index]))
            if out_keys[place] == 0:
                out_keys[place] = key
                out_children[place] = num_nodes
                num_nodes += 1
            node = signed(out_children[place])
        out_ids[node] = ids[token]
    return num_nodes


@tuple_splice
def find_longest(cells: Cells, values: Bytes, start: int, stop: int) -> tuple[int, int]:
    """Return the longest token at ``start``, or ``NO_TOKEN``, and where it ends."""
    longest = np.uint64(0)
    end = start
    base = cells[0] >> BASE_SHIFT
    for position in range(start, stop):
        byte = np.uint64(values[np.uint64(position)])
        cell = cells[base ^ byte]
        if cell & LABEL_MASK != byte + np.uint64(1):
            break
        token = (cell >> TOKEN_SHIFT) & TOKEN_MASK
        longest = token or longest
        end = position + 1 if token else end
        base = cell >> BASE_SHIFT
    return signed(longest) - 1, end


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
        cell, first, last, depth = out_ranges[head]
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


@kernel
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
