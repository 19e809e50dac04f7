r"""A vocabulary as a trie over code points: which entries a text begins with.

    un, unable, ##able     root ─u─ · ─n─ un ─a─ · ─b─ · ─l─ · ─e─ unable
                           continued ─a─ · ─b─ · ─l─ · ─e─ ##able

Edges stand in one hash table with linear probing. A linear-time walk with failure links
(LinMaxMatch, Song et al. 2021) was left out: with words cached, the walk is a hundredth of the time.

Entries as a trie over bytes in a double array: the longest one that a text begins with.

A node's children stand at its base, each at ``base ^ byte``, in one array of cells. No two nodes
have the same base, so a cell that has the byte for its label is the child that was looked for:

    entries a, ab, b     root base 256      cell 256 ^ a: label a, entry a, base 512
                                            cell 256 ^ b: label b, entry b
                                            cell 512 ^ b: label b, entry ab

A step is one load of eight bytes. The hash table of ``trie``, which has room for code points, needs
three loads that wait for each other. (Aoe 1989; the layout is that of Yata's darts-clone.)
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import kernel, tuple_splice
from tokkit.kernels.memory import Bytes, signed

Cells = NDArray[np.uint64]

NO_ENTRY = -1
# A cell: one more than its label (9 bits), one more than its entry (27), base of its children (28).
_ENTRY = np.uint64(9)
_BASE = np.uint64(36)
_LABEL_MASK = np.uint64((1 << 9) - 1)
_ENTRY_MASK = np.uint64((1 << 27) - 1)
# Free cells so far behind the last one taken are given up: else each search passes them in vain.
_REACH = 512


@tuple_splice
def find_longest(cells: Cells, values: Bytes, start: int, stop: int) -> tuple[int, int]:
    """The longest entry that stands at ``start``, and where it ends; ``NO_ENTRY`` if there is none."""
    longest = np.uint64(0)
    end = start
    base = cells[0] >> _BASE
    for position in range(start, stop):
        byte = np.uint64(values[position])
        cell = cells[base ^ byte]
        if cell & _LABEL_MASK != byte + np.uint64(1):
            break
        entry = (cell >> _ENTRY) & _ENTRY_MASK
        longest = entry or longest
        end = position + 1 if entry else end
        base = cell >> _BASE
    return signed(longest) - 1, end


@kernel
def fill_cells(
    values: Bytes,
    offsets: NDArray[np.int64],
    ids: NDArray[np.int64],
    out_cells: Cells,
    out_ranges: NDArray[np.int64],
    out_has_base: NDArray[np.bool_],
) -> bool:
    """Build the trie, level by level.

    Args:
        values: uint8, the entries' bytes.
        offsets: int64 ``[num_entries + 1]``, into ``values``; entries are distinct, none is empty,
            and they are in the order of their bytes.
        ids: int64 ``[num_entries]``, below ``2 ** 26``.
        out_cells: uint64 ``[n]``, zeros, n a multiple of 256. Cell 0 is the root.
        out_ranges: int64 ``[values.size + 1, 4]``, room for a queue.
        out_has_base: bool ``[n]``, zeros.

    Returns:
        Whether there was room; if not, call it again with more.
    """
    # A node: its cell, its first entry, the entry after its last, and its depth.
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
            first += 1  # the entry that ends here
        if first == last:
            continue
        base = _find_base(values, offsets, first, last, depth, search, out_cells, out_has_base)
        if base < 0:
            return False
        search = max(search, base - _REACH)
        out_has_base[base] = True
        own = out_cells[cell] if cell != 0 else np.uint64(0)
        out_cells[cell] = own | np.uint64(base) << _BASE
        start = first
        while start < last:
            byte = values[offsets[start] + depth]
            stop = start
            while stop < last and values[offsets[stop] + depth] == byte:
                stop += 1
            child = base ^ signed(byte)
            out_cells[child] = np.uint64(byte) + np.uint64(1)
            if offsets[start + 1] - offsets[start] == depth + 1:
                out_cells[child] |= np.uint64(ids[start] + 1) << _ENTRY
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
    offsets: NDArray[np.int64],
    first: int,
    last: int,
    depth: int,
    search: int,
    cells: Cells,
    has_base: NDArray[np.bool_],
) -> int:
    """A base at which the cells of all children are free, or -1 where there is no more room."""
    label = signed(values[offsets[first] + depth])
    place = search
    while place < cells.size:
        base = place ^ label
        fits = cells[place] == 0 and not has_base[base]
        index = first
        while fits and index < last:
            fits = cells[base ^ signed(values[offsets[index] + depth])] == 0
            index += 1
        if fits:
            return base
        place += 1
    return -1


ROOT = 0
CONTINUED = 1

_PRIME = np.uint64(0x9E37_79B9_7F4A_7C15)
_CODE_BITS = np.uint64(21)


class Trie(NamedTuple):
    """Nodes are numbers; two are roots.

    Attributes:
        keys: uint64 ``[2 ** n]``: one more than parent and code point of an edge; 0 is free.
        children: int32 ``[2 ** n]``: where the edge leads.
        shift: 64 - n.
        entries: int64 ``[num_nodes]``: the entry that ends here, or ``NO_ENTRY``.
    """

    keys: NDArray[np.uint64]
    children: NDArray[np.int32]
    shift: int
    entries: NDArray[np.int64]


@tuple_splice
def find_edge(keys: NDArray[np.uint64], shift: int, node: int, code: int) -> tuple[int, np.uint64]:
    """Where an edge stands, or the free place where it would; and its key."""
    key = (np.uint64(node) << _CODE_BITS | np.uint64(code)) + np.uint64(1)
    place = signed((key * _PRIME) >> np.uint64(shift))
    while keys[place] != 0 and keys[place] != key:
        place = (place + 1) & (keys.size - 1)
    return place, key


@kernel
def fill_trie(
    codes: NDArray[np.uint32],
    offsets: NDArray[np.int64],
    roots: NDArray[np.int64],
    ids: NDArray[np.int64],
    shift: int,
    out_keys: NDArray[np.uint64],
    out_children: NDArray[np.int32],
    out_entries: NDArray[np.int64],
) -> int:
    """Hang entries into an empty trie.

    Args:
        codes: uint32, the code points of all entries.
        offsets: int64 ``[num_entries + 1]``, into ``codes``.
        roots: int64 ``[num_entries]``: ``ROOT`` or ``CONTINUED``.
        ids: int64 ``[num_entries]``.
        shift: 64 - n.
        out_keys: uint64 ``[2 ** n]``, zeros; more than ``codes`` by half at least.
        out_children: int32 ``[2 ** n]``.
        out_entries: int64 ``[codes.size + 2]``, all ``NO_ENTRY``.

    Returns:
        How many nodes it has.
    """
    num_nodes = 2
    for entry in range(ids.size):
        node = roots[entry]
        for index in range(offsets[entry], offsets[entry + 1]):
            place, key = find_edge(out_keys, shift, node, signed(codes[index]))
            if out_keys[place] == 0:
                out_keys[place] = key
                out_children[place] = num_nodes
                num_nodes += 1
            node = signed(out_children[place])
        out_entries[node] = ids[entry]
    return num_nodes
