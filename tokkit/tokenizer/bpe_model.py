"""Byte-level BPE, as in GPT-2 and RoBERTa: pre-tokenizer and merges as tables for the kernel.

The kernel looks up tokens without merging where every byte is a token and every other token is made
by one merge, which comes after those that make its parts, as trainers write them; see
``tokkit.kernels.encode.bpe_lookup``. Words of other models are merged.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.kernels.encode.bpe_lookup import (
    MOST_TOKENS,
    NUM_BYTES,
    BpeLookup,
    fill_pairs,
    find_prefixes,
    find_reachable,
)
from tokkit.kernels.encode.bpe_merges import Merges, fill_merges, new_buffers
from tokkit.kernels.encode.chunks import CutRules
from tokkit.kernels.encode.encode_bpe import BpeTables, encode_bpe
from tokkit.kernels.encode.tries import NO_TOKEN, make_cells
from tokkit.kernels.string_columns import prefix_spaces
from tokkit.shards.arrow import read_only, string_buffers
from tokkit.tokenizer.encoded import NO_ID, read_merges
from tokkit.tokenizer.splitter import TextSplitter
from tokkit.tokenizer.tokenizer import Tokenizer

LONGEST_WORD = 4 << 20  # bytes; such a word takes 200 MB, and a longer one is the library's
_FIRST_WORD = 1 << 10
# Bytes of all tokens together, since each merge can double the length, and of what lies ahead.
_MOST_BYTES = 1 << 26

_Int64s = npt.NDArray[np.int64]


class BpeModel:
    """Tables for ``encode_bpe``.

    Args:
        tokenizer: whose ``pipeline`` is ``byte-level``.
        longest_word: most bytes of a word; None for ``LONGEST_WORD``.

    Attributes:
        characters: how text is cut into pieces.
        num_bytes: int32 ``[vocab_size]``, of the text that each token stands for; None if bytes
            that are not in the vocabulary are left out.
    """

    kernel: ClassVar[Callable[..., int]] = staticmethod(encode_bpe)

    def __init__(self, tokenizer: Tokenizer, longest_word: int | None = None) -> None:
        assert tokenizer.library is not None  # noqa: S101  only a tokenizer of the library has a pipeline
        self._add_prefix_space = tokenizer.add_prefix_space
        self._longest_word = LONGEST_WORD if longest_word is None else longest_word
        merges = read_merges(tokenizer)
        self._merges = _make_merges(*merges)
        self._lookup = make_lookup(*merges)
        self._buffers = new_buffers(_FIRST_WORD)
        self.characters = TextSplitter(tokenizer.definition["pre_tokenizer"])
        byte_ids, *_ = merges
        self.num_bytes: npt.NDArray[np.int32] | None = None
        if NO_ID not in byte_ids:
            self.num_bytes = np.array([len(token) for token in tokenizer.tokens], np.int32)

    @property
    def tables(self) -> tuple[Any, ...]:
        """The kernel's arguments between the text and the cache."""
        splitter = self.characters.tables
        return (BpeTables(splitter, self._merges, self._lookup, self._buffers),)

    @property
    def rules(self) -> CutRules:
        """Where texts can be cut."""
        return self.characters.tables.rules

    def read_text(
        self, texts: pa.LargeStringArray, ends: _Int64s | None
    ) -> tuple[npt.NDArray[np.uint8], _Int64s, _Int64s | None]:
        """Return the bytes of the texts, their offsets, and the ends in these bytes.

        The bytes include the space that the tokenizer adds to each text.
        """
        values, offsets = string_buffers(texts)
        if not self._add_prefix_space:
            return values, offsets, ends
        num_bytes = int(offsets[-1] - offsets[0]) + len(texts)
        out_values = np.empty(num_bytes, np.uint8)
        out_offsets = np.empty(len(offsets), np.int64)
        num_bytes = prefix_spaces(read_only(values), read_only(offsets), out_values, out_offsets)
        if ends is not None:
            ends = ends + (out_offsets - offsets)[np.searchsorted(offsets, ends)]
        return out_values[:num_bytes], out_offsets, ends

    def allow_word(self, num_bytes: int) -> bool:
        """Allocate memory for words of this length; returns False if it is above the limit."""
        if num_bytes > self._longest_word:
            return False
        self._buffers = new_buffers(2 * num_bytes)
        return True


def _make_merges(
    byte_ids: _Int64s, left_ids: _Int64s, right_ids: _Int64s, merged_ids: _Int64s
) -> Merges:
    size = 1 << max(4, (2 * len(merged_ids)).bit_length())
    shift = 65 - size.bit_length()
    table = np.zeros(2 * size, np.uint64)
    known = np.zeros(1 << 14, np.uint64)
    fill_merges(left_ids, right_ids, merged_ids, shift, table, known)
    return Merges(table, shift, known, byte_ids)


def make_lookup(
    byte_ids: _Int64s, left_ids: _Int64s, right_ids: _Int64s, merged_ids: _Int64s
) -> BpeLookup:
    """Return the tables for looking up tokens; without any token if the model must merge.

    Tokens are numbered in the order of their merges, after the 256 bytes. The arguments are what
    ``read_merges`` returns.
    """
    ids = np.concatenate([byte_ids, merged_ids])
    numbers = {token_id: number for number, token_id in enumerate(ids.tolist())}
    lefts, rights = (
        np.array([*range(NUM_BYTES), *(numbers.get(i, MOST_TOKENS) for i in part_ids.tolist())])
        for part_ids in (left_ids, right_ids)
    )
    is_known = len(numbers) == len(ids) <= MOST_TOKENS and NO_ID not in numbers
    is_late = np.maximum(lefts, rights)[NUM_BYTES:] >= np.arange(NUM_BYTES, len(ids))
    tokens = _join_parts(lefts, rights) if is_known and not is_late.any() else []
    return _fill_lookup(ids[: len(tokens)], lefts[: len(tokens)], rights[: len(tokens)], tokens)


def _join_parts(lefts: _Int64s, rights: _Int64s) -> list[bytes]:
    """Return the bytes of each token; an empty list if they are too many."""
    tokens = [bytes([byte]) for byte in range(NUM_BYTES)]
    num_bytes = 0
    for left, right in zip(lefts[NUM_BYTES:].tolist(), rights[NUM_BYTES:].tolist(), strict=True):
        tokens.append(tokens[left] + tokens[right])
        num_bytes += len(tokens[-1])
        if num_bytes > _MOST_BYTES:
            return []
    return tokens


def _fill_lookup(ids: _Int64s, lefts: _Int64s, rights: _Int64s, tokens: list[bytes]) -> BpeLookup:
    bits = max(4, (2 * len(tokens)).bit_length())
    lookup = BpeLookup(
        cells=np.zeros(256, np.uint64),
        parts=lefts.astype(np.uint64) << np.uint64(32) | rights.astype(np.uint64),
        lengths=np.array([len(token) for token in tokens], np.int32),
        prefixes=np.full((2, len(tokens)), NO_TOKEN, np.int32),
        ids=ids.astype(np.uint32),
        table=np.zeros(1 << bits, np.uint64),
        shift=64 - bits,
        known=np.zeros(1 << 14, np.uint64),
        earliest=np.full((256, 256), MOST_TOKENS, np.uint32),
    )
    if not tokens:
        return lookup
    fill_pairs(lookup.parts, lookup.shift, lookup.table, lookup.known)
    firsts = np.array([token[0] for token in tokens])
    lasts = np.array([token[-1] for token in tokens])
    merged = np.arange(NUM_BYTES, len(tokens))
    seam = lasts[lefts[merged]], firsts[rights[merged]]
    np.minimum.at(lookup.earliest, seam, merged.astype(np.uint32))
    is_reachable = np.zeros(len(tokens), np.bool_)
    find_reachable(lookup, is_reachable)
    numbers = sorted(np.flatnonzero(is_reachable).tolist(), key=tokens.__getitem__)
    values = np.frombuffer(b"".join(tokens[number] for number in numbers), np.uint8)
    offsets = np.cumsum([0, *(len(tokens[number]) for number in numbers)])
    order = np.array(numbers)
    find_prefixes(values, offsets, order, np.empty(len(numbers), np.int64), lookup.prefixes)
    return lookup._replace(cells=make_cells(values, offsets, order))
