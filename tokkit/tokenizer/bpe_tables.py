"""Tables of byte-pair encoding for kernels: merges, tokens to look up, and neighbors in tokens.

Of bytes and of characters alike. The kernels look up tokens without merging where every symbol is a
token and no merge comes before those that make its parts, as trainers write them; see
``tokkit.kernels.encode.bpe_lookup``. Words of other models are merged.

Which characters are neighbors in tokens is for ``tokkit.kernels.encode.word_parts``. A token of bytes
may begin and end within a character, and then stands for many pairs:

    の and two bytes of 私           の is a neighbor of all characters that begin with these two
    last byte of の, first of 私     too many pairs: the two bytes are marked as a seam
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tokkit.kernels.arrays import Bools, Bytes, Int64, UInt32, UInt64
from tokkit.kernels.encode.bpe_lookup import MAX_TOKENS, BpeLookup, choose_merges, find_prefixes
from tokkit.kernels.encode.bpe_merges import NO_ID, Merges, fill_merges
from tokkit.kernels.encode.tries import NO_TOKEN, make_cells
from tokkit.kernels.encode.word_parts import Neighbors, mark_pairs
from tokkit.shards.arrow import call_compute, string_buffers, to_arrow
from tokkit.tokenizer.characters import UNICODE_SIZE

# Bytes of all tokens together.
_MAX_BYTES = 1 << 26
_BITS_A_PAIR = 16
_CONTINUATIONS = bytes(range(0x80, 0xC0))
_CHARACTER = re.compile(rb"[^\x80-\xbf][\x80-\xbf]*|[\x80-\xbf]+")


def make_merges(
    byte_ids: Int64,
    left_ids: Int64,
    right_ids: Int64,
    merged_ids: Int64,
    ranks: Int64 | None = None,
) -> Merges:
    """Return the table of merges, whose ranks are their places unless others are given."""
    if ranks is None:
        ranks = np.arange(len(merged_ids))
    size = 1 << max(4, (2 * len(merged_ids)).bit_length())
    shift = 65 - size.bit_length()
    table = np.zeros(2 * size, np.uint64)
    known = np.zeros(1 << 14, np.uint64)
    fill_merges(left_ids, right_ids, merged_ids, ranks, shift, table, known)
    return Merges(table, shift, known, byte_ids)


def make_lookup(merges: tuple[Int64, ...], values: Bytes, offsets: Int64) -> BpeLookup:
    """Return the tables for looking up tokens; without any token if the model must merge.

    Args:
        merges: what ``read_merges`` returns; or instead of bytes, other symbols.
        values: uint8, the bytes of all tokens.
        offsets: int64 ``[vocab_size + 1]``, into ``values``, by id.
    """
    symbol_ids, left_ids, right_ids, merged_ids = merges
    num_symbols = len(symbol_ids)
    size = num_symbols + len(merged_ids)
    bits = max(4, (2 * size).bit_length())
    lookup = BpeLookup(
        num_symbols=num_symbols,
        cells=np.zeros(256, np.uint64),
        parts=np.arange(size, dtype=np.uint64) * np.uint64(1 + (1 << 32)),
        lengths=np.empty(0, np.int32),
        prefixes=np.empty((2, 0), np.int32),
        ids=np.concatenate([symbol_ids, merged_ids]),
        table=np.zeros(1 << bits, np.uint64),
        shift=64 - bits,
        known=np.zeros(1 << 14, np.uint64),
        earliest=np.full((256, 256), MAX_TOKENS, np.uint32),
    )
    numbers = np.full(len(offsets) - 1, NO_TOKEN, np.int64)
    numbers[symbol_ids] = np.arange(num_symbols)
    count = -1
    is_distinct = len({*symbol_ids.tolist()}) == num_symbols and NO_ID not in symbol_ids
    if is_distinct and size < MAX_TOKENS:
        ranks = np.full(size, -1, np.int64)
        count = choose_merges(left_ids, right_ids, merged_ids, lookup, numbers, ranks)
    if count < 0 or len(values) > _MAX_BYTES:
        # No word is cut either.
        return lookup._replace(parts=lookup.parts[:0], earliest=np.zeros((256, 256), np.uint32))
    return _fill_lookup(lookup, count, values, offsets)


def _fill_lookup(lookup: BpeLookup, count: int, values: Bytes, offsets: Int64) -> BpeLookup:
    """Fill in what follows from the parts of ``count`` tokens and their bytes."""
    parts, ids = lookup.parts[:count], lookup.ids[:count]
    starts, stops = offsets[ids], offsets[ids + 1]
    lefts, rights = (parts >> np.uint64(32)).astype(np.int64), parts.astype(np.uint32)
    merged = np.arange(lookup.num_symbols, count)
    seam = values[stops[lefts[merged]] - 1], values[starts[rights[merged]]]
    np.minimum.at(lookup.earliest, seam, merged.astype(np.uint32))
    order, values, offsets = sort_tokens(values, offsets, ids)
    prefixes = np.full((2, count), NO_TOKEN, np.int32)
    find_prefixes(values, offsets, order, np.empty(count, np.int64), prefixes)
    return lookup._replace(
        cells=make_cells(values, offsets, order),
        parts=parts,
        lengths=(stops - starts).astype(np.int32),
        prefixes=prefixes,
        ids=ids,
    )


def sort_tokens(values: Bytes, offsets: Int64, ids: Int64) -> tuple[Int64, Bytes, Int64]:
    """Sort tokens by their bytes.

    Args:
        values: uint8, the bytes of all tokens.
        offsets: int64 ``[vocab_size + 1]``, into ``values``, by id.
        ids: int64 ``[n]``, tokens to sort.

    Returns:
        Their indices in ``ids`` in order; and in this order, their bytes, and int64 ``[n + 1]``
        offsets into these.
    """
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    tokens = pa.Array.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)
    tokens = call_compute("take", tokens, to_arrow(ids))
    order = call_compute("array_sort_indices", tokens)
    values, offsets = string_buffers(call_compute("take", tokens, order))
    return order.to_numpy().astype(np.int64), values, offsets


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
