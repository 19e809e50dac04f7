"""Counts the words of texts within bounded memory.

texts  →  table of chunks  →  table of words  →  sorted runs, when it is full  →  one run
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.kernels.encode.chunks import (
    DETAIL,
    DONE,
    FULL_CHUNKS,
    FULL_WORDS,
    NEEDS_LIBRARY,
    POSITION,
    TEXT,
    UNSEEN_CHARACTER,
    new_queue,
    new_state,
)
from tokkit.kernels.vocab.word_table import (
    NUM_CHUNKS,
    NUM_WORDS,
    count_words,
    new_table,
    take_chunks,
)
from tokkit.shards.arrow import read_only, string_buffers
from tokkit.vocab.word_counts import Run, merge_runs, open_partial_run, text_arrays, write_table
from tokkit.vocab.word_splitter import Splitter

_CHUNKS_AT_ONCE = 1 << 14
# Bytes of a word that the library gets at a time; it takes fifty times as much memory.
_LONGEST_TEXT = 1 << 20

Bytes = npt.NDArray[np.uint8]
Positions = npt.NDArray[np.int64]


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
        self._spilled: list[Run] = []

    def set_factor(self, factor: int) -> None:
        """Multiply the counts of what is added from now on by ``factor``."""
        if factor != self._factor:
            self._split_chunks()
            if self._table.filled[NUM_WORDS]:
                self._spill()
            self._factor = factor

    def add(self, texts: pa.LargeStringArray) -> None:
        """Count the words of texts, each of which counts once."""
        values, offsets = self._splitter.normalize(*string_buffers(texts))
        values, offsets = read_only(values), read_only(offsets)
        state = new_state(int(offsets[0]))
        while True:
            reason = self._splitter.count_chunks(
                values, offsets, self._splitter.rules, self._table, self._queue, state
            )
            if reason == DONE:
                return
            self._help(reason, values, state, 1)

    def add_counted(self, values: Bytes, offsets: Positions, counts: Positions) -> None:
        """Count the words of texts, each of which counts several times.

        Args:
            values: uint8, valid UTF-8.
            offsets: int64 ``[num_texts + 1]``, bounds of the texts in ``values``.
            counts: int64 ``[num_texts]``.
        """
        values, offsets = self._splitter.normalize(values, offsets)
        values, offsets = read_only(values), read_only(offsets)
        state = new_state(int(offsets[0]))
        while True:
            reason = self._splitter.split(
                values, offsets, counts, self._splitter.rules, self._table, state
            )
            if reason == DONE:
                return
            self._help(reason, values, state, int(counts[state[TEXT]]))

    def finish(self, file: Any) -> dict[str, int]:
        """Write everything that was counted as one run, and empty the tables.

        Returns:
            Characters that normalization removed, with their counts.
        """
        self._split_chunks()
        if not self._spilled:
            write_table(self._table, self._factor, file)
        else:
            self._spill()
            merge_runs(self._spilled, file, self._memory)
            for run in self._spilled:
                run.path.unlink()
            self._spilled = []
        return self._splitter.take_removed()

    def _help(self, reason: int, values: Bytes, state: Positions, count: int) -> None:
        """Do what made a kernel return before it was done."""
        if reason == UNSEEN_CHARACTER:
            self._splitter.learn_page(int(state[DETAIL]))
        elif reason == FULL_CHUNKS:
            self._split_chunks()
        elif reason == FULL_WORDS:
            self._spill()
        elif reason == NEEDS_LIBRARY:
            stop = int(state[DETAIL])
            while state[POSITION] < stop:
                end = min(stop, int(state[POSITION]) + _LONGEST_TEXT)
                while end < stop and values[end] & 0xC0 == 0x80:
                    end -= 1
                text = values[state[POSITION] : end].tobytes().decode()
                self._count_words(self._splitter.ask_library(text, count), count)
                state[POSITION] = end

    def _count_words(self, words: list[bytes], count: int) -> None:
        values, offsets = (read_only(array) for array in text_arrays(words))
        first = 0
        while (first := count_words(values, offsets, first, count, self._table)) < len(words):
            self._spill()

    def _split_chunks(self) -> None:
        """Split the chunks of the table into words, and empty the table of chunks."""
        values = np.empty(16 * _CHUNKS_AT_ONCE, np.uint8)
        offsets = np.empty(_CHUNKS_AT_ONCE + 1, np.int64)
        counts = np.empty(_CHUNKS_AT_ONCE, np.int64)
        short = self._table.chunks.short
        place = 0
        while place < len(short):
            place, number = take_chunks(short, place, values, offsets, counts)
            self.add_counted(values, offsets[: number + 1], counts[:number])
        self._table.filled[NUM_CHUNKS] = 0

    def _spill(self) -> None:
        """Write the words of the table to a run on disk, and empty the table."""
        with open_partial_run(self._folder) as file:
            write_table(self._table, self._factor, file)
        self._spilled.append(Run(Path(file.name)))
