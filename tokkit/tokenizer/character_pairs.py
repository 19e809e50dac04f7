"""Which characters are neighbors in tokens, as tables for ``tokkit.kernels.encode.word_parts``.

A token of bytes may begin and end within a character, and then stands for many pairs:

    の and two bytes of 私           の is a neighbor of all characters that begin with these two
    last byte of の, first of 私     too many pairs: the two bytes are marked as a seam
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, UInt32, UInt64
from tokkit.kernels.encode.bpe_lookup import BpeLookup
from tokkit.kernels.encode.word_parts import Neighbors, mark_pairs
from tokkit.tokenizer.characters import UNICODE_SIZE

_BITS_A_PAIR = 16
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_CHARACTER = re.compile(rb"[^\x80-\xbf][\x80-\xbf]*|[\x80-\xbf]+")


class CharacterPairs(NamedTuple):
    """``Neighbors`` without their largest table, which is quickly made.

    Attributes:
        codes: uint32 ``[n]``, code points of symbols.
        symbols: uint32 ``[n]``, their ids plus 1.
        bits: see ``Neighbors.pairs``.
        shift: see ``Neighbors``.
        seams: see ``Neighbors``.
    """

    codes: UInt32
    symbols: UInt32
    bits: UInt64
    shift: int
    seams: Bools


def make_neighbors(pairs: CharacterPairs) -> Neighbors:
    """Return the tables of what ``find_pairs`` found."""
    table = np.zeros(UNICODE_SIZE, np.uint32)
    table[pairs.codes] = pairs.symbols
    return Neighbors(table, pairs.bits, pairs.shift, pairs.seams)


def mark_neighbors(texts: Iterable[str], others: Iterable[UInt64] = ()) -> tuple[UInt64, int]:
    """Return bits for neighboring characters of these texts and other pairs, and their shift.

    Args:
        texts: the texts.
        others: pairs of code points, 32 bits each.
    """
    texts = [text for text in texts if text]
    codes = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    ends = np.cumsum([len(text) for text in texts], dtype=np.int64)
    is_inner = np.ones(len(codes), np.bool_)
    is_inner[ends - 1] = False
    places = np.flatnonzero(is_inner)
    inner = codes[places].astype(np.uint64) << np.uint64(32) | codes[places + 1]
    neighbors = np.unique(np.concatenate([inner, *others]))
    bits = max(10, (_BITS_A_PAIR * len(neighbors)).bit_length())
    pairs = np.zeros(1 << (bits - 6), np.uint64)
    lefts, rights = (neighbors >> np.uint64(32)).astype(np.uint32), neighbors.astype(np.uint32)
    mark_pairs(lefts, rights, 64 - bits, pairs)
    return pairs, 64 - bits


def find_pairs(lookup: BpeLookup, tokens: list[bytes], whole: list[bytes]) -> CharacterPairs:
    """Find the neighbors of characters in tokens of bytes.

    Args:
        lookup: tables of the model; empty where words must be merged, which are not cut then.
        tokens: bytes of the tokens of ``lookup``, in its order.
        whole: words that become tokens without merging; ``lookup.earliest`` is lowered for them.
    """
    seams = np.zeros(256 * 256, np.bool_)
    if not lookup.parts.size:
        nothing = np.zeros(0, np.uint32)
        return CharacterPairs(nothing, nothing, *mark_neighbors(()), seams)
    symbols = {}
    for number, token in zip(lookup.ids.tolist(), tokens, strict=False):
        text = token.decode(errors="ignore")
        if len(text) == 1 and len(text.encode()) == len(token):
            symbols[ord(text)] = number + 1
    with_part: dict[bytes, list[int]] = defaultdict(list)
    for code in symbols:
        data = chr(code).encode()
        with_part[data] = [code]
        for size in range(1, len(data)):
            with_part[data[:size]].append(code)
            with_part[data[size:]].append(code)
    others = []
    for left, right in (sides for token in tokens for sides in _split_characters(token)):
        if len(left) == len(right) == 1 and left >= b"\x80":
            seams[left[0] << 8 | right[0]] = True
        else:
            rights = np.array(with_part.get(right, []), np.uint64)
            others += [rights | np.uint64(code << 32) for code in with_part.get(left, [])]
    for token in whole:
        values = np.frombuffer(token, np.uint8)
        lookup.earliest[values[:-1], values[1:]] = 0
    texts = [token.decode(errors="ignore") for token in (*tokens, *whole)]
    codes = np.fromiter(symbols.keys(), np.uint32, len(symbols))
    ids = np.fromiter(symbols.values(), np.uint32, len(symbols))
    return CharacterPairs(codes, ids, *mark_neighbors(texts, others), seams)


def _split_characters(token: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield neighbors in a token of which at least one is not a whole character."""
    parts = _CHARACTER.findall(token)
    begins_within = token[:1] in _CONTINUATIONS
    ends_within = bool(parts) and len(parts[-1]) < _character_size(parts[-1][0])
    if begins_within and len(parts) > 1:
        yield parts[0], parts[1]
    if ends_within and len(parts) > (2 if begins_within else 1):
        yield parts[-2], parts[-1]


def _character_size(lead: int) -> int:
    """Return how many bytes a character has that begins with this one in UTF-8; 0 for none."""
    return 0 if 0x80 <= lead < 0xC0 else 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
