"""Byte-level BPE, as in GPT-2 and Llama 3: pre-tokenizer and merges as tables for the kernel.

The kernel looks up tokens without merging where every byte is a token and no merge comes before those
that make its parts, as trainers write them; see ``tokkit.kernels.encode.bpe_lookup``. Words of other
models are merged.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tokkit.kernels.arrays import Bytes, Int32, Int64
from tokkit.kernels.encode.bpe_lookup import MAX_TOKENS, BpeLookup, choose_merges, find_prefixes
from tokkit.kernels.encode.bpe_merges import Merges, fill_merges, new_buffers
from tokkit.kernels.encode.cut_rules import CutRules
from tokkit.kernels.encode.encode_bpe import BpeTables, encode_bpe
from tokkit.kernels.encode.tries import NO_TOKEN, Cells, make_cells
from tokkit.kernels.string_columns import prefix_spaces
from tokkit.shards.arrow import call_compute, read_only, string_buffers, to_arrow
from tokkit.tokenizer.character_pairs import CharacterPairs, find_pairs, make_neighbors
from tokkit.tokenizer.definitions import list_parts
from tokkit.tokenizer.encoded import NO_ID, read_merges, read_token_bytes
from tokkit.tokenizer.segments import Segmenter, Segments
from tokkit.tokenizer.splitter import TextSplitter
from tokkit.tokenizer.text_normalizer import TextNormalizer
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall

_FIRST_WORD = 1 << 10
# Normalizers that change nothing in what they have normalized, nor in a part of it.
_SAME_TWICE = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
# Bytes of all tokens together.
_MAX_BYTES = 1 << 26


class BpeModel:
    """Tables for ``encode_bpe``.

    Args:
        tokenizer: whose ``pipeline`` is ``byte-level``.

    Attributes:
        characters: how text is cut into pieces.
        num_bytes: int32 ``[vocab_size]``, of the text that each token stands for; None if bytes
            that are not in the vocabulary are left out.
        library_continues: whether the library gives a part of a normalized text the ids that it has
            within the text.
    """

    kernel: ClassVar[Callable[..., int]] = staticmethod(encode_bpe)
    longest_word: ClassVar[int] = (
        4 << 20
    )  # bytes; such a word takes 200 MB, and a longer one is the library's

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._add_prefix_space = tokenizer.add_prefix_space
        tables = recall(tokenizer.digest, "tables", lambda: _make_tables(tokenizer))
        self._merges, self._lookup, self._whole, pairs, self.num_bytes = tables
        self._neighbors = make_neighbors(pairs)
        self._buffers = new_buffers(_FIRST_WORD)
        self.characters = TextSplitter(tokenizer.definition["pre_tokenizer"])
        parts = list_parts(tokenizer.definition["normalizer"])
        self.library_continues = len(parts) <= 1 and {p["type"] for p in parts} <= _SAME_TWICE
        normalizer = TextNormalizer.of_definition(tokenizer.definition["normalizer"])
        self._segmenter = Segmenter(tokenizer, normalize=normalizer.normalize)

    @property
    def tables(self) -> tuple[Any, ...]:
        """The kernel's arguments between the text and the cache."""
        splitter = self.characters.tables
        lookup, neighbors = self._lookup, self._neighbors
        return (BpeTables(splitter, self._whole, self._merges, lookup, neighbors, self._buffers),)

    @property
    def rules(self) -> CutRules:
        """Where texts can be cut."""
        return self.characters.tables.rules

    def read_texts(self, texts: pa.LargeStringArray, ends: Int64 | None) -> Segments:
        """Return texts as the kernel gets them; see ``Segmenter.cut``.

        They have the space that the tokenizer adds to each.
        """
        segments = self._segmenter.cut(*string_buffers(texts), ends)
        if not self._add_prefix_space:
            return segments
        values, bounds, ends = segments.values, segments.bounds, segments.ends
        num_bytes = int(bounds[-1] - bounds[0]) + len(texts)
        out_values = np.empty(num_bytes, np.uint8)
        out_bounds = np.empty(len(bounds), np.int64)
        num_bytes = prefix_spaces(read_only(values), read_only(bounds), out_values, out_bounds)
        if ends is not None:
            ends = ends + (out_bounds - bounds)[np.searchsorted(bounds, ends)]
        return replace(segments, values=out_values[:num_bytes], bounds=out_bounds, ends=ends)

    def allow_word(self, num_bytes: int) -> bool:
        """Allocate memory for words of this length; returns False if it is above the limit."""
        if num_bytes > self.longest_word:
            return False
        self._buffers = new_buffers(2 * num_bytes)
        return True


def _make_tables(
    tokenizer: Tokenizer,
) -> tuple[Merges, BpeLookup, Cells, CharacterPairs, Int32 | None]:
    """Return the merges, and the tables for tokens, whole words and parts; and ``num_bytes``."""
    merges = read_merges(tokenizer)
    values, offsets = read_token_bytes(tokenizer.tokens)
    lookup = make_lookup(merges, values, offsets)
    whole = np.zeros(256, np.uint64)
    model = tokenizer.definition["model"]
    rest = np.zeros(0, np.int64)
    if model.get("ignore_merges"):
        vocabulary = np.fromiter(model["vocab"].values(), np.int64)
        rest = np.setdiff1d(vocabulary, lookup.ids[: len(lookup.parts)])
        rest = rest[offsets[rest] < offsets[rest + 1]]
        order, token_values, token_offsets = sort_tokens(values, offsets, rest)
        whole = make_cells(token_values, token_offsets, rest[order])
    known = lookup.ids[: len(lookup.parts)]
    data = values.tobytes()
    tokens, words = (
        [data[start:stop] for start, stop in zip(offsets[ids], offsets[ids + 1], strict=True)]
        for ids in (known, rest)
    )
    pairs = find_pairs(lookup, tokens, words)
    num_bytes = None
    if NO_ID not in merges[0]:
        num_bytes = np.diff(offsets).astype(np.int32)
        for row in tokenizer.definition["added_tokens"]:
            num_bytes[row["id"]] = len(row["content"].encode())
    return make_merges(*merges), lookup, whole, pairs, num_bytes


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
