"""sentencepiece's byte-pair encoding as tables for the kernel.

The kernel looks up tokens without merging where each token's parts are made before it; see
``tokkit.kernels.encode.bpe_lookup``. In some models this does not hold for tokens of spaces alone,
because all have one score. Words with two spaces in a row are merged then.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from tokkit.kernels.arrays import Bytes, Int32, Int64
from tokkit.kernels.encode import chunks
from tokkit.kernels.encode.bpe_lookup import BpeLookup
from tokkit.kernels.encode.bpe_merges import NO_ID, new_buffers
from tokkit.kernels.encode.chunk_queue import new_queue
from tokkit.kernels.encode.chunks import new_state
from tokkit.kernels.encode.cut_rules import CUT, NO_CUT, NUM_CLASSES, SPACE, CutRules
from tokkit.kernels.encode.encode_metaspace_bpe import (
    MetaspaceTables,
    encode_metaspace_bpe,
)
from tokkit.kernels.encode.word_cache import SPARE_IDS, new_cache
from tokkit.kernels.encode.word_parts import Neighbors
from tokkit.shards.arrow import id_dtype, text_arrays
from tokkit.tokenizer.bpe_tables import make_lookup, make_merges, mark_neighbors
from tokkit.tokenizer.characters import UNICODE_SIZE
from tokkit.tokenizer.definitions import with_spaces
from tokkit.tokenizer.metaspace_vocabulary import (
    MetaspaceVocabulary,
    find_added_ids,
    keeps_normalized,
    read_vocabulary,
    split_symbols,
)
from tokkit.tokenizer.segments import Segmenter
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall

_FIRST_WORD = 1 << 10
_SPACE = 32
_JOINED = 1  # class of characters before a space in some token
_BEFORE_SPACE = re.compile("([^ ])(?= )", re.DOTALL)


class MetaspaceBpeModel:
    """Tables for ``encode_metaspace_bpe``.

    Args:
        tokenizer: for which ``metaspace_obstacles`` yields nothing.

    Attributes:
        num_bytes: int32 ``[vocab_size]``, of the text that each token stands for; 0 for the unknown
            token, which stands for texts of several lengths.
        library_continues: whether the library gives a part of a normalized text the ids that it has
            within the text: not where it normalizes that part again, and drops its space.
        read_texts: returns texts as the kernel gets them; see ``Segmenter.cut``.
    """

    kernel: ClassVar[Callable[..., int]] = staticmethod(encode_metaspace_bpe)
    longest_word: ClassVar[int] = 4 << 20  # bytes

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.library_continues = keeps_normalized(tokenizer)
        pieces = {
            with_spaces(tokenizer.tokens[number]).encode(): tokenizer.special_ids["unk"]
            if number in tokenizer.all_special_ids
            else number
            for number in (find_added_ids(tokenizer) if tokenizer.processor is not None else ())
        }
        self.read_texts = Segmenter(tokenizer, spaced=True, pieces=pieces).cut
        tables = recall(tokenizer.digest, "tables", lambda: _make_tables(tokenizer))
        self._tables, self.num_bytes = tables

    @property
    def tables(self) -> tuple[Any, ...]:
        """The kernel's arguments between the text and the cache."""
        return (self._tables,)

    @property
    def rules(self) -> CutRules:
        """Where texts can be cut."""
        return self._tables.rules

    def find_begins(self, data: Bytes) -> Int64:
        """Return the byte at which each token of some text begins: int64 ``[num_tokens]``.

        Args:
            data: normalized text that was cut where ``rules`` allow it.
        """
        state = new_state(0)
        size = len(data) + SPARE_IDS
        ids = np.empty(size, id_dtype(len(self.num_bytes)))
        bits = np.zeros(size // 64 + 3, np.uint64)
        bounds = np.array([0, len(data)])
        text = data, bounds, chunks.NO_ADDED
        rest = new_cache(4, 4, 10), new_queue(), state, ids, bits, np.zeros(2, np.int64)
        while self.kernel(*text, *self.tables, *rest) != chunks.DONE:
            self.make_room(int(state[chunks.DETAIL]))
        begins = np.empty(int(state[chunks.NUM_TOKENS]), np.int64)
        position = 0
        for token, length in enumerate(self.num_bytes[ids[: len(begins)]].tolist()):
            begins[token] = position
            position += length or self._measure_unknown(data, position)
        return begins

    def _measure_unknown(self, data: Bytes, start: int) -> int:
        """Return the number of bytes that the unknown token at ``start`` stands for."""
        stop = start
        while stop < len(data):
            size = 1 + int(np.searchsorted([0xC0, 0xE0, 0xF0], data[stop], "right"))
            code = ord(data[stop : stop + size].tobytes().decode())
            if self._tables.neighbors.symbols[code] or (
                stop > start and not self._tables.fuses_unknown
            ):
                break
            stop += size
        return stop - start

    def make_room(self, num_bytes: int) -> None:
        """Allocate memory for words of this length."""
        self._tables = self._tables._replace(buffers=new_buffers(2 * num_bytes))


def _make_tables(tokenizer: Tokenizer) -> tuple[MetaspaceTables, Int32]:
    """Return the tables, and ``num_bytes`` of the model."""
    vocabulary, vocab_size = read_vocabulary(tokenizer), tokenizer.vocab_size
    num_bytes = np.array([len(with_spaces(token).encode()) for token in tokenizer.tokens], np.int32)
    num_bytes[vocabulary.byte_ids or [vocabulary.unknown_id]] = bool(vocabulary.byte_ids)
    merged_texts, symbols = split_symbols(vocabulary)
    table = np.zeros(UNICODE_SIZE, np.uint32)
    for text, number in symbols.items():
        table[ord(text)] = number + 1
    symbol_ids = np.array(list(symbols.values()), np.int64)
    lookup, merges_spaces = _make_lookup(vocabulary, symbol_ids, vocab_size)
    neighbors = Neighbors(table, *mark_neighbors(merged_texts), np.zeros(0, np.bool_))
    begins_word = np.zeros(vocab_size, np.bool_)
    texts = vocabulary.texts.items()
    begins_word[[number for number, text in texts if text.startswith(" ")]] = True
    lefts, rights, merged, ranks = np.ascontiguousarray(vocabulary.merges.T)
    byte_ids = np.array(vocabulary.byte_ids or [NO_ID] * 256, np.int64)
    tables = MetaspaceTables(
        neighbors=neighbors,
        begins_word=begins_word,
        rules=_make_rules(vocabulary, merged_texts, symbols),
        unknown_id=NO_ID if vocabulary.byte_ids else vocabulary.unknown_id,
        fuses_unknown=vocabulary.fuses_unknown and not vocabulary.byte_ids,
        merges=make_merges(byte_ids, lefts, rights, merged, ranks),
        lookup=lookup,
        merges_spaces=merges_spaces,
        buffers=new_buffers(_FIRST_WORD),
    )
    return tables, num_bytes


def _make_rules(
    vocabulary: MetaspaceVocabulary, merged_texts: list[str], symbols: Mapping[str, int]
) -> CutRules:
    """Return where texts can be cut: before runs of spaces, in chunks also around other bytes.

    Args:
        vocabulary: the vocabulary.
        merged_texts: tokens that merges make.
        symbols: characters that are tokens.
    """
    merged = set("".join(merged_texts))
    is_fused = vocabulary.fuses_unknown and not vocabulary.byte_ids
    before, after = np.zeros((256, 64), np.uint8), np.zeros((64, 256), np.uint8)
    for byte in range(_SPACE):
        if chr(byte) not in merged and (chr(byte) in symbols or not is_fused):
            before[:, byte] = after[byte] = CUT
    before[:, _SPACE] = CUT
    if not vocabulary.splits_spaces:
        before[_SPACE, _SPACE] = NO_CUT
    classes = np.zeros(UNICODE_SIZE, np.uint8)
    classes[_SPACE] = SPACE
    for char in {left for text in merged_texts for left in _BEFORE_SPACE.findall(text)}:
        before[char.encode()[-1], _SPACE] = NO_CUT
        classes[ord(char)] = _JOINED
    allowed = np.zeros((NUM_CLASSES, NUM_CLASSES), np.bool_)
    allowed[0, SPACE] = True
    runs = np.zeros(64 * 256, np.uint8)
    return CutRules(classes, allowed, before.ravel(), after.ravel(), allowed, runs)


def _make_lookup(
    vocabulary: MetaspaceVocabulary, symbol_ids: Int64, vocab_size: int
) -> tuple[BpeLookup, bool]:
    """Return the tables for looking up tokens, and whether they lack tokens of spaces.

    Args:
        vocabulary: the vocabulary.
        symbol_ids: int64, ids of single characters.
        vocab_size: number of ids.
    """
    data = [vocabulary.texts.get(number, "").encode() for number in range(vocab_size)]
    values, offsets = text_arrays(data)
    merges = vocabulary.merges
    is_run = np.array([not data[number].strip(b" ") for number in merges[:, 2].tolist()], np.bool_)
    for lacks_runs, kept in ((False, merges), (True, merges[~is_run])):
        lefts, rights, merged, ranks = np.ascontiguousarray(kept.T)
        # Tokens of one rank have no order.
        if not np.any((np.diff(ranks) == 0) & (np.diff(merged) != 0)):
            lookup = make_lookup((symbol_ids, lefts, rights, merged), values, offsets)
            if lookup.parts.size:
                return lookup, lacks_runs
    nothing = np.zeros(0, np.int64)
    return make_lookup((nothing, nothing, nothing, nothing), values, offsets), False
