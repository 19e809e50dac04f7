"""Counts the words of texts within bounded memory.

    texts  →  table of chunks  →  table of words  →  sorted runs, when it is full  →  one run

A splitter cuts text into the words of a model, as the library's normalizer and pre-tokenizer do:

    wordpiece   words of BertNormalizer and BertPreTokenizer
    bpe         matches of a split pattern
    unigram     what stands between white space
    metaspace   what begins with a space, also at the beginning of a text

If digits are split, each is a word. A splitter has two kernels, ``count_chunks`` for texts that
count once and ``split`` for texts that each count several times, and ``rules``, their character
tables. A page of the tables is filled when a kernel meets a character on it. The order of combining
marks that stay cannot be a table's; words with such marks are split by the library.
"""

from collections import Counter
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tokenizers import normalizers

from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.encode import chunks
from tokkit.kernels.encode.chunk_queue import new_queue
from tokkit.kernels.encode.chunks import new_state
from tokkit.kernels.vocab.count_words import (
    Normalization,
    count_chunks_of_pieces,
    count_chunks_of_words,
    split_pieces,
    split_words,
)
from tokkit.kernels.vocab.word_table import (
    LONGEST_WORD,
    NUM_CHUNKS,
    NUM_KEPT,
    NUM_WORDS,
    WordTable,
    count_words,
    new_table,
    take_chunks,
    take_split_chunks,
)
from tokkit.shards.arrow import string_buffers, text_arrays
from tokkit.tokenizer.characters import UNICODE_SIZE, WordCharacters, is_mark, page_of
from tokkit.tokenizer.definitions import METASPACE, SPLIT_DIGITS, split_by, wordpiece
from tokkit.tokenizer.splitter import TextSplitter
from tokkit.tokenizer.text_normalizer import TextNormalizer
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.word_counts import Run, merge_runs, open_partial_run, write_table

_SPACED_WORD = " [^ ]*|[^ ]+"
_CHUNKS_AT_ONCE = 1 << 14
# Bytes of a word that the library gets at a time; it takes fifty times as much memory.
_LONGEST_TEXT = 1 << 20


class WordSplitter:
    """Splits text for ``wordpiece`` and ``unigram``."""

    count_chunks = staticmethod(count_chunks_of_words)
    split = staticmethod(split_words)

    def __init__(self, config: TrainConfig) -> None:
        self._normalizes = config.model == "wordpiece"
        definition: dict[str, Any] = {
            "normalizer": None,
            "pre_tokenizer": {"type": "WhitespaceSplit"},
        }
        if self._normalizes:  # sentencepiece normalizes and splits digits itself
            definition = wordpiece(
                {},
                unknown="",
                lowercase=not config.cased,
                strip_accents=config.strip_accents,
                split_digits=config.split_digits,
            )
        self._characters = WordCharacters.of_definition(definition)
        self.rules: Any = Normalization(
            self._characters.characters,
            np.zeros(UNICODE_SIZE, np.uint8),
            np.zeros(UNICODE_SIZE, np.int64),
            not self._normalizes,
        )
        self._note_losses(0)

    def take_chunks(
        self, table: WordTable, place: int, values: Bytes, offsets: Int64, counts: Int64
    ) -> tuple[int, int]:
        """Take all chunks out of their table, since they may not be normalized; see the kernel."""
        return take_chunks(table, place, values, offsets, counts)

    def learn_page(self, code: int) -> None:
        """Fill the tables for a character and those on its page."""
        self._characters.learn_page(code)
        self._note_losses(code)

    def normalize(self, values: Bytes, offsets: Int64) -> tuple[Bytes, Int64]:
        """Return texts unchanged, since the kernel normalizes them."""
        return values, offsets

    def take_removed(self) -> dict[str, int]:
        """Return how often normalization removed each character since the last call."""
        total: Counter[str] = Counter()
        for code in np.flatnonzero(self.rules.num_lost).tolist():
            for char in self._find_lost(chr(code)):
                total[char] += int(self.rules.num_lost[code])
        self.rules.num_lost[:] = 0
        return dict(total)

    def ask_library(self, text: str, count: int) -> list[bytes]:
        """Return the words of a text, which counts ``count`` times, by the library.

        A word that is too long loses its end.
        """
        for char in text:
            if self.rules.loses[ord(char)]:
                self.rules.num_lost[ord(char)] += count
        pieces = self._characters.pre_tokenizer.pre_tokenize_str(self._characters.normalize(text))
        words = [word.encode() for word, _ in pieces]
        return [
            word
            if len(word) <= LONGEST_WORD
            else word[: LONGEST_WORD - 4].decode(errors="ignore").encode()
            for word in words
        ]

    def _note_losses(self, code: int) -> None:
        """Note from which characters on a page normalization removes something."""
        if self._normalizes:
            for other in page_of(code):
                self.rules.loses[other] = bool(self._find_lost(chr(other)))

    def _find_lost(self, char: str) -> list[str]:
        """Return what normalization removes from a character: itself, or marks in it."""
        normalized = self._characters.normalize(char)
        if not normalized:
            return [char]
        left = Counter(self._nfd.normalize_str(normalized))
        before = Counter(part for part in self._nfd.normalize_str(char) if is_mark(part))
        return sorted((before - left).elements())

    @cached_property
    def _nfd(self) -> normalizers.Normalizer:
        return normalizers.NFD()


class PieceSplitter:
    """Splits text for ``bpe``."""

    count_chunks = staticmethod(count_chunks_of_pieces)
    split = staticmethod(split_pieces)

    def __init__(self, config: TrainConfig) -> None:
        pattern = _SPACED_WORD if config.metaspace else config.split_pattern
        parts = [split_by(pattern), *([SPLIT_DIGITS] if config.split_digits else [])]
        metaspace = METASPACE if config.metaspace else None
        self._normalizer = TextNormalizer.of_definition(config.normalizer, metaspace)
        self._splitter = TextSplitter({"type": "Sequence", "pretokenizers": parts})
        self.learn_page = self._splitter.learn_page

    @property
    def rules(self) -> Any:
        """The automata for the kernels, which grow."""
        return self._splitter.tables

    def normalize(self, values: Bytes, offsets: Int64) -> tuple[Bytes, Int64]:
        """Return normalized texts; with ``--metaspace``, a space is in front of each, and for U+2581."""
        values, offsets, _ = self._normalizer.normalize(values, offsets)
        values, offsets, _ = self._normalizer.add_prefix(values, offsets)
        return values, offsets

    def take_chunks(
        self, table: WordTable, place: int, values: Bytes, offsets: Int64, counts: Int64
    ) -> tuple[int, int]:
        """Take the chunks that are several pieces out of their table; see the kernel."""
        return take_split_chunks(self.rules, table, place, values, offsets, counts)

    def take_removed(self) -> dict[str, int]:
        """Return nothing, since there is no normalization."""
        return {}

    def ask_library(self, _text: str, _count: int) -> list[bytes]:
        """Never called: the kernels know every piece."""
        raise NotImplementedError


Splitter = WordSplitter | PieceSplitter


def make_splitter(config: TrainConfig) -> Splitter:
    """Return the splitter for the model of a config."""
    return PieceSplitter(config) if config.model == "bpe" else WordSplitter(config)


class WordCounter:
    """Counts words.

    Args:
        splitter: splits text into words.
        memory: approximate size of the tables, in bytes.
        folder: folder for runs of words that did not fit, which other processes may use, too.
    """

    def __init__(self, splitter: Splitter, memory: int, folder: Path) -> None:
        self._splitter = splitter
        self._memory = memory
        self._folder = folder
        self._factor = 1
        self._table = new_table(memory)
        self._queue = new_queue()
        self._num_taken = 0  # elements of the table of chunks that are being split, up to here
        self._spilled: list[Run] = []

    def set_factor(self, factor: int) -> None:
        """Multiply the counts of what is added from now on by ``factor``."""
        if factor != self._factor:
            self._split_chunks()
            self._spill()
            self._factor = factor

    def add(self, texts: pa.LargeStringArray) -> None:
        """Count the words of texts, each of which counts once."""
        values, offsets = self._splitter.normalize(*string_buffers(texts))
        state = new_state(int(offsets[0]))
        while True:
            reason = self._splitter.count_chunks(
                values, offsets, self._splitter.rules, self._table, self._queue, state
            )
            if reason == chunks.DONE:
                return
            self._help(reason, values, state, 1)

    def add_counted(self, values: Bytes, offsets: Int64, counts: Int64) -> None:
        """Count the words of texts, each of which counts several times.

        Args:
            values: uint8, valid UTF-8.
            offsets: int64 ``[num_texts + 1]``, bounds of the texts in ``values``.
            counts: int64 ``[num_texts]``.
        """
        values, offsets = self._splitter.normalize(values, offsets)
        state = new_state(int(offsets[0]))
        while True:
            reason = self._splitter.split(
                values, offsets, counts, self._splitter.rules, self._table, state
            )
            if reason == chunks.DONE:
                return
            self._help(reason, values, state, int(counts[state[chunks.TEXT]]))

    def finish(self, file: Any) -> dict[str, int]:
        """Write everything that was counted as one run, and empty the tables.

        Returns:
            Characters that normalization removed, with their counts.
        """
        self._split_chunks()
        if not self._spilled:
            self._write(file)
        else:
            self._spill()
            merge_runs(self._spilled, file, self._memory)
            for run in self._spilled:
                run.path.unlink()
            self._spilled = []
        return self._splitter.take_removed()

    def _help(self, reason: int, values: Bytes, state: Int64, count: int) -> None:
        """Handle what made a kernel return before it was done."""
        if reason == chunks.UNSEEN_CHARACTER:
            self._splitter.learn_page(int(state[chunks.DETAIL]))
        elif reason == chunks.FULL_CHUNKS:
            self._split_chunks()
            if self._table.filled[NUM_KEPT]:
                self._spill()
        elif reason == chunks.FULL_WORDS:
            self._spill()
        elif reason == chunks.NEEDS_LIBRARY:
            stop = int(state[chunks.DETAIL])
            while state[chunks.POSITION] < stop:
                end = min(stop, int(state[chunks.POSITION]) + _LONGEST_TEXT)
                while end < stop and values[end] & 0xC0 == 0x80:
                    end -= 1
                text = values[state[chunks.POSITION] : end].tobytes().decode()
                self._count_words(self._splitter.ask_library(text, count), count)
                state[chunks.POSITION] = end

    def _count_words(self, words: list[bytes], count: int) -> None:
        values, offsets = text_arrays(words)
        first = 0
        while (first := count_words(values, offsets, first, count, self._table)) < len(words):
            self._spill()

    def _split_chunks(self) -> None:
        """Split the chunks of the table into words, and empty the table of chunks."""
        values = np.empty(16 * _CHUNKS_AT_ONCE, np.uint8)
        offsets = np.empty(_CHUNKS_AT_ONCE + 1, np.int64)
        counts = np.empty(_CHUNKS_AT_ONCE, np.int64)
        while self._num_taken < len(self._table.chunks.short):
            self._num_taken, number = self._splitter.take_chunks(
                self._table, self._num_taken, values, offsets, counts
            )
            self.add_counted(values, offsets[: number + 1], counts[:number])
        self._num_taken = 0
        self._table.filled[NUM_CHUNKS] = 0

    def _spill(self) -> None:
        """Write the words of the table, if any, to a run on disk, and empty the table."""
        if self._table.filled[NUM_WORDS] or self._table.filled[NUM_KEPT]:
            with open_partial_run(self._folder) as file:
                self._write(file)
            self._spilled.append(Run(Path(file.name)))

    def _write(self, file: Any) -> None:
        """Write the words of the table as a run, and empty the table."""
        is_split = self._table.filled[NUM_CHUNKS] == 0
        num_taken = len(self._table.chunks.short) if is_split else self._num_taken
        write_table(self._table, num_taken, self._factor, file)
