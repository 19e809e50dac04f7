r"""Cut words between characters that no token spans, so that what is encoded and cached is short.

Merges never join two characters that stand next to each other in no token. Words of Japanese and
Chinese are phrases that seldom come twice; their parts have two or three characters, and do:

    私は学生です    tokens  私 は 学生 で す です        parts  私 | は | 学生 | です

Tokens of bytes may begin and end within a character. A pair counts as neighbors if one of its
characters, or a part of it, stands in some token next to the other, or a part of that. A character
that is no token is cut off only where no token has its last byte next to the other's first.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, UInt32, UInt64
from tokkit.kernels.encode.bpe_lookup import MAX_TOKENS, BpeLookup
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import HASH_PRIME, HASH_PRIME_2, decode_character, signed

NO_SYMBOL = -1

_BIT = np.uint64(63)
_THREE_BYTES = 0xE0
_BYTE = np.uint64(8)
_LOW_BYTE = np.uint64(0xFF)


class Neighbors(NamedTuple):
    """Which characters can be in one token.

    Attributes:
        symbols: uint32 ``[0x110000]``, the id of each character that is a token, plus 1.
        pairs: uint64 ``[2 ** n]``, a bit is set for each two that are neighbors in a token; see
            ``hash_pair``.
        shift: 64 - 6 - n.
        seams: bool ``[256 * 256]``: whether a token has a last byte and a first byte of two
            characters, and nothing else of them.
    """

    symbols: UInt32
    pairs: UInt64
    shift: int
    seams: Bools


@splice
def hash_pair(left: int, right: int, shift: int) -> np.uint64:
    """Return the bit of two characters in ``Neighbors.pairs``."""
    mixed = np.uint64(left) * HASH_PRIME + np.uint64(right) * HASH_PRIME_2
    return mixed >> np.uint64(shift)


@kernel
def mark_pairs(lefts: UInt32, rights: UInt32, shift: int, out_pairs: UInt64) -> None:
    """Set the bits of neighboring characters.

    Args:
        lefts: uint32 ``[n]``, code points.
        rights: uint32 ``[n]``, code points.
        shift: 64 - 6 - n.
        out_pairs: uint64 ``[2 ** n]``.
    """
    for index in range(lefts.size):
        bit = hash_pair(signed(lefts[index]), signed(rights[index]), shift)
        out_pairs[bit >> np.uint64(6)] |= np.uint64(1) << (bit & _BIT)


@splice
def are_neighbors(left: int, right: int, neighbors: Neighbors) -> bool:
    """Return whether two characters that are tokens may be neighbors in a token."""
    bit = hash_pair(left, right, neighbors.shift)
    return bool(neighbors.pairs[bit >> np.uint64(6)] >> (bit & _BIT) & np.uint64(1))


@splice
def has_parts(values: Bytes, start: int, stop: int) -> bool:
    """Return whether a word is worth cutting: whether its last character has three bytes.

    Words of shorter characters are seldom cut, and come again. A word that begins or ends within a
    character is not cut.
    """
    if stop - start < 3 or values[start] & 0xC0 == 0x80:
        return False
    return bool(values[stop - 3] & 0xF0 == _THREE_BYTES)


@inline
def find_part(
    values: Bytes, start: int, stop: int, lookup: BpeLookup, neighbors: Neighbors
) -> tuple[int, int]:
    """Find the part of a word that begins at ``start``.

    Returns:
        Where it ends; and its id if it is one character that is a token, else ``NO_SYMBOL``.
    """
    left, size = decode_character(values, start)
    left_symbol = neighbors.symbols[left]
    token = signed(left_symbol) - 1
    end = start + size
    while end < stop:
        right, size = decode_character(values, end)
        symbol = neighbors.symbols[right]
        seam = np.uint64(values[end - 1]) << _BYTE | np.uint64(values[end])
        if left_symbol != 0 and symbol != 0:
            joins = are_neighbors(left, right, neighbors) | neighbors.seams[seam]
        else:
            joins = lookup.earliest[seam >> _BYTE, seam & _LOW_BYTE] != MAX_TOKENS
        if not joins:
            break
        token = NO_SYMBOL
        left, left_symbol = right, symbol
        end += size
    return end, token
