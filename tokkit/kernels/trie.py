"""A vocabulary as a trie over code points: which entries a text begins with.

    un, unable, ##able     root ─u─ · ─n─ un ─a─ · ─b─ · ─l─ · ─e─ unable
                           continued ─a─ · ─b─ · ─l─ · ─e─ ##able

Edges stand in one hash table with linear probing. A linear-time walk with failure links
(LinMaxMatch, Song et al. 2021) was left out: with words cached, the walk is a hundredth of the time.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import kernel, tuple_splice
from tokkit.kernels.memory import signed

ROOT = 0
CONTINUED = 1
NO_ENTRY = -1

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
