"""Unigram vocabularies as tables for kernels, of ``tokenizer.json`` and sentencepiece's ``.model``.

Tokens are stored with a space for U+2581, as the normalized text has it.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from tokkit.kernels.arrays import Bytes, Float64, Int32, Int64
from tokkit.kernels.encode.chunks import SPACE
from tokkit.kernels.encode.cut_rules import CUT, NO_CUT, NUM_CLASSES, CutRules
from tokkit.kernels.encode.encode_unigram import encode_unigram, find_token_begins
from tokkit.kernels.encode.encode_unigram_text import RunningSum, encode_unigram_text
from tokkit.kernels.encode.tries import NO_TOKEN, make_cells
from tokkit.kernels.encode.unigram_lattice import UnigramTables
from tokkit.kernels.encode.word_cache import SHORT_KEY
from tokkit.shards.arrow import read_only, string_buffers
from tokkit.tokenizer.characters import UNICODE_SIZE
from tokkit.tokenizer.definitions import WORD_BEGINNING, with_spaces
from tokkit.tokenizer.encoded import forbidden_mask
from tokkit.tokenizer.segments import MetaspaceSegmenter, Segments
from tokkit.tokenizer.tokenizer import Tokenizer
from tokkit.tokenizer.tokenizer_cache import recall
from tokkit.tokenizer.unigram_vocabulary import read_vocabulary

_SIGN = WORD_BEGINNING.encode()
_FIRST_WORD = 1 << 13
_OTHER = 1


class UnigramModel:
    """Tables for ``encode_unigram``, or ``encode_unigram_text`` for a sentencepiece model.

    Args:
        tokenizer: for which ``unigram_obstacles`` yields nothing.

    Attributes:
        kernel: one of the two.
        rules: where texts can be cut: before spaces, unless scores are summed over whole texts.
        num_bytes: int32 ``[vocab_size]``, of the text that each token stands for; 0 for tokens that
            stand for texts of several lengths.
    """

    library_continues: ClassVar[bool] = False  # the library cannot go on from the sums of scores
    longest_word: ClassVar[int] = 8 << 20  # bytes that cannot be cut, which take 200 MB

    def __init__(self, tokenizer: Tokenizer) -> None:
        is_whole = tokenizer.processor is not None
        self.kernel: Callable[..., int] = encode_unigram_text if is_whole else encode_unigram
        tables = recall(tokenizer.digest, "tables", lambda: _make_tables(tokenizer))
        self._tables, self.num_bytes, scores = tables
        self._words = _new_rules(before_spaces=True)
        self.rules = _new_rules(before_spaces=not is_whole)
        largest = float(np.abs(self._tables.scores).max())
        self._drops_spaces = {"type": "WhitespaceSplit"} in tokenizer.pre_tokenizers
        self._segmenter = MetaspaceSegmenter(tokenizer)
        self._sum = RunningSum(scores, largest, np.zeros(1), np.zeros(1, np.int64))

    @property
    def tables(self) -> tuple[Any, ...]:
        """The kernel's arguments between the text and the cache."""
        if self.kernel is encode_unigram:
            return self._tables, self._words
        return self._tables, self._sum, self._words

    def read_texts(self, texts: pa.LargeStringArray, raw_ends: Int64 | None) -> Segments:
        """Return texts as the kernel gets them; see ``MetaspaceSegmenter``."""
        data, offsets = string_buffers(texts)
        segments = self._segmenter.cut(data, offsets, raw_ends)
        ends = segments.ends
        if ends is None or raw_ends is None or not (self._drops_spaces and len(segments.values)):
            return segments
        # A space in front of a word is not the one in the text, which is dropped, unless it was U+2581
        # there.
        is_behind = (segments.values[ends - 1] == ord(" ")) & (data[raw_ends - 1] != _SIGN[-1])
        return replace(segments, ends=ends - (is_behind & (ends > segments.bounds[0])))

    def allow_word(self, num_bytes: int) -> bool:
        """Allocate memory for words of this length; returns False if it is above the limit."""
        if num_bytes > self.longest_word:
            return False
        self._tables = _with_room(self._tables, min(2 * num_bytes, self.longest_word))
        return True

    def find_begins(self, data: Bytes) -> Int64:
        """Return the byte at which each token of some text begins: int64 ``[num_tokens]``.

        Args:
            data: normalized text that was cut where ``rules`` allow it.
        """
        begins = np.empty(len(data), np.int64)
        is_single = self.kernel is encode_unigram_text
        while True:
            count = find_token_begins(read_only(data), self._tables, is_single, begins)
            if count >= 0:
                return begins[:count]
            self._tables = _with_room(self._tables, -2 * count)


def _make_tables(tokenizer: Tokenizer) -> tuple[UnigramTables, Int32, Float64]:
    """Return the tables, ``num_bytes`` of the model, and the scores of the tokens that have these."""
    vocabulary = read_vocabulary(tokenizer)
    unknown_id = tokenizer.special_ids.get("unk", vocabulary.unknown_id)
    own_ids = np.arange(tokenizer.vocab_size)  # what each becomes in text
    own_ids[forbidden_mask(tokenizer)] = unknown_id
    num_bytes = np.zeros(tokenizer.vocab_size, np.int32)
    known_scores = np.full(tokenizer.vocab_size, np.nan)
    several = {*vocabulary.byte_ids, vocabulary.unknown_id, tokenizer.special_ids.get("unk")}
    for piece, number, score in vocabulary.pieces:
        if number not in several and own_ids[number] == number:
            num_bytes[number] = len(with_spaces(piece).encode())
            known_scores[number] = score
    # No text has a space where the library has U+2581, and an empty token is never found.
    rows = sorted(
        (with_spaces(piece).encode(), number, score)
        for piece, number, score in vocabulary.pieces
        if piece and " " not in piece
    )
    tokens = [token for token, _, _ in rows]
    numbers = np.array([number for _, number, _ in rows], np.int64)
    is_unknown = np.flatnonzero(numbers == vocabulary.unknown_id)
    ids = np.append(numbers, vocabulary.unknown_id)
    no_scores, no_links = np.zeros(0), np.zeros(0, np.int64)
    tables = UnigramTables(
        cells=make_cells(
            np.frombuffer(b"".join(tokens), np.uint8),
            np.cumsum([0, *map(len, tokens)]),
            np.arange(len(tokens)),
        ),
        scores=np.array([*(score for _, _, score in rows), vocabulary.unknown_score], np.float64),
        ids=own_ids[ids],
        unknown=int(is_unknown[0]) if is_unknown.size else NO_TOKEN,
        byte_ids=np.array([n if n < 0 else own_ids[n] for n in vocabulary.byte_ids], np.int64),
        joins_unknown=tokenizer.processor is None,
        best=no_scores,
        seconds=np.zeros(SHORT_KEY + 1, np.float64),
        links=no_links,
        path=no_links,
    )
    return _with_room(tables, _FIRST_WORD), num_bytes, known_scores


def _with_room(tables: UnigramTables, num_bytes: int) -> UnigramTables:
    """Return the tables with memory for texts of so many bytes."""
    size = num_bytes + 1
    return tables._replace(
        best=np.zeros(size, np.float64),
        links=np.zeros(size, np.int64),
        path=np.zeros(size, np.int64),
    )


def _new_rules(*, before_spaces: bool) -> CutRules:
    """Return the rules for cutting before each space, or nowhere."""
    classes = np.full(UNICODE_SIZE, _OTHER, np.uint8)
    classes[ord(" ")] = SPACE
    allowed = np.zeros((NUM_CLASSES, NUM_CLASSES), np.bool_)
    allowed[:, SPACE] = before_spaces
    before = np.zeros((256, 64), np.uint8)
    before[:, ord(" ")] = CUT if before_spaces else NO_CUT
    none = np.zeros(64 * 256, np.uint8)
    return CutRules(classes, allowed, before.ravel(), none, allowed, none)
