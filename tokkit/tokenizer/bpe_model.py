"""Byte-level BPE, as in GPT-2 and Llama 3: pre-tokenizer and merges as tables for the kernel.

See ``tokkit.tokenizer.bpe_tables`` for what it has in common with BPE of characters.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np

from tokkit.kernels.arrays import Bytes, Int32, Int64
from tokkit.kernels.encode.bpe_lookup import BpeLookup
from tokkit.kernels.encode.bpe_merges import NO_ID, Merges, new_buffers
from tokkit.kernels.encode.cut_rules import CutRules
from tokkit.kernels.encode.encode_bpe import BpeTables, encode_bpe
from tokkit.kernels.encode.tries import Cells, make_cells
from tokkit.tokenizer.bpe_tables import (
    CharacterPairs,
    find_pairs,
    make_lookup,
    make_merges,
    make_neighbors,
    sort_tokens,
)
from tokkit.tokenizer.definitions import byte_level_alphabet, list_parts
from tokkit.tokenizer.segments import Segmenter, text_obstacles
from tokkit.tokenizer.split_pattern import PatternParser
from tokkit.tokenizer.splitter import TextSplitter, read_levels
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall

_FIRST_WORD = 1 << 10
# Normalizers that change nothing in what they have normalized, nor in a part of it.
_SAME_TWICE = {"NFC", "NFD", "NFKC", "NFKD", "Lowercase"}
_MAX_MERGES = 1 << 26  # ranks that fit in the keys of ``tokkit.kernels.encode.bpe_merges``


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
        read_texts: returns texts as the kernel gets them; see ``Segmenter.cut``.
    """

    kernel: ClassVar[Callable[..., int]] = staticmethod(encode_bpe)
    # In bytes. Such a word takes 200 MB, and a longer one is the library's.
    longest_word: ClassVar[int] = 4 << 20

    def __init__(self, tokenizer: Tokenizer) -> None:
        tables = recall(tokenizer.digest, "tables", lambda: _make_tables(tokenizer))
        self._merges, self._lookup, self._whole, pairs, self.num_bytes = tables
        self._neighbors = make_neighbors(pairs)
        self._buffers = new_buffers(_FIRST_WORD)
        self.characters = TextSplitter(tokenizer.definition["pre_tokenizer"])
        parts = list_parts(tokenizer.definition["normalizer"])
        self.library_continues = len(parts) <= 1 and {p["type"] for p in parts} <= _SAME_TWICE
        self.read_texts = Segmenter(tokenizer).cut

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

    def make_room(self, num_bytes: int) -> None:
        """Allocate memory for words of this length."""
        self._buffers = new_buffers(2 * num_bytes)


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


def byte_level_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel of byte-level BPE does not know."""
    definition = tokenizer.definition
    parts = list_parts(definition["pre_tokenizer"])
    places = [place for place, part in enumerate(parts) if part["type"] == "ByteLevel"]
    if len(places) != 1:
        yield "BPE without one pre-tokenizer ByteLevel"
        return
    adds_space = parts[places[0]]["add_prefix_space"]
    if places[0] and adds_space:
        yield "a space added to words"
    if not list(read_levels(definition["pre_tokenizer"], PatternParser())):
        yield "BPE of texts that are not split"
    yield from text_obstacles(tokenizer, spaced=False)
    if adds_space and not all(row["special"] for row in definition["added_tokens"]):
        yield "a space added to texts and added tokens"
    yield from _merge_obstacles(tokenizer)


def _merge_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel does not know of a model of bytes and their merges."""
    model = tokenizer.definition["model"]
    for option in ("continuing_subword_prefix", "end_of_word_suffix"):
        if model[option]:
            yield f"a {option} in BPE"
    if len(model["merges"]) >= _MAX_MERGES:
        yield f"{len(model['merges']):,} merges"
        return
    byte_ids, _, _, merged_ids = read_merges(tokenizer)
    is_missing = byte_ids == NO_ID
    if is_missing.any() and (model["unk_token"] is not None or model["byte_fallback"]):
        yield "bytes without a token"
    reachable = np.concatenate([byte_ids[~is_missing], merged_ids])
    if model.get("ignore_merges"):
        reachable = np.fromiter(model["vocab"].values(), np.int64)
    special = reachable[tokenizer.forbidden[reachable]]
    if len(special):
        splitter = TextSplitter(tokenizer.definition["pre_tokenizer"])
        for number in special.tolist():
            values, _ = read_token_bytes([tokenizer.tokens[number]])
            if not splitter.is_always_cut(values.tobytes()):
                yield f"its special token {tokenizer.tokens[number]!r}, which merges make of text"


@lru_cache(maxsize=1)
def read_merges(tokenizer: Tokenizer) -> tuple[Int64, ...]:
    """Return the ids of single bytes, ``NO_ID`` for missing ones, and those of the merges by rank.

    Returns:
        int64 ``[256]``; int64 ``[num_merges]`` each: left parts, right parts, and merged tokens.
    """
    vocabulary = tokenizer.definition["model"]["vocab"]
    merges = tokenizer.definition["model"]["merges"]
    return (
        np.array([vocabulary.get(char, NO_ID) for char in byte_level_alphabet()], np.int64),
        np.array([vocabulary[left] for left, _ in merges], np.int64),
        np.array([vocabulary[right] for _, right in merges], np.int64),
        np.array([vocabulary[left + right] for left, right in merges], np.int64),
    )


def read_token_bytes(tokens: Sequence[str]) -> tuple[Bytes, Int64]:
    """Return the bytes that tokens of byte-level BPE stand for.

    Args:
        tokens: by id; those with other characters than ``byte_level_alphabet`` have no bytes.

    Returns:
        uint8, and int64 ``[vocab_size + 1]`` offsets into it.
    """
    codes = np.frombuffer("".join(tokens).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    found = np.full(512, -1)
    found[list(map(ord, byte_level_alphabet()))] = np.arange(256)
    values = found[np.minimum(codes, 511)]
    owners = np.repeat(np.arange(len(tokens)), lengths)
    is_known = np.ones(len(tokens), np.bool_)
    is_known[owners[(values < 0) | (codes >= 512)]] = False
    offsets = np.concatenate([[0], np.cumsum(np.where(is_known, lengths, 0))])
    return values[is_known[owners]].astype(np.uint8), offsets
