"""Sorted runs of words on disk, and their merge.

A table that is full is written as a run, and so is what a work unit came to. Runs are merged a few
at a time, through a window on each, so that no more of them is in memory at once. ``kernels/runs``
has the format.

    run 0   a 3   cat 1          run 1   a 2   the 5          merged   a 5   cat 1   the 5

Words and how often they occur: all that a trainer needs to know of a corpus.

    values   h e l o w   offsets 0 2 4 5      "he" 7 times, "lo" 3 times, "w" once
    counts   7 3 1

A word is a stretch of text within which entries of the vocabulary lie: what the pre-tokenizer cuts
from normalized text (WordPiece), what the split pattern matches (byte-level BPE), or what stands
between white space (unigram).
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tokkit.errors import wrap_os_errors
from tokkit.kernels.vocab.sorted_runs import (
    MERGED,
    list_words,
    merge_records,
    sort_same_keys,
    unpack_records,
    write_records,
)
from tokkit.kernels.vocab.word_table import LONGEST_WORD, NUM_BYTES, NUM_WORDS, WordTable


@dataclass(frozen=True)
class WordCounts:
    """Distinct words in the order of their bytes.

    Attributes:
        values: uint8, the words' bytes, one after another.
        offsets: int64 ``[num_words + 1]``, into ``values``.
        counts: int64 ``[num_words]``, each at least 1.
    """

    values: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """How many distinct words there are."""
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Each word with its count."""
        data = self.values.tobytes()
        for word, count in enumerate(self.counts.tolist()):
            yield data[self.offsets[word] : self.offsets[word + 1]], count

    @classmethod
    def from_mapping(cls, counts: Mapping[bytes, int]) -> "WordCounts":
        """Of a few words.

        Example:
            >>> WordCounts.from_mapping({b"b": 1, b"ab": 3}).offsets.tolist()
            [0, 2, 3]
        """
        words = sorted(counts)
        offsets = np.zeros(len(words) + 1, np.int64)
        np.cumsum([len(word) for word in words], out=offsets[1:])
        return cls(
            values=np.frombuffer(b"".join(words), np.uint8),
            offsets=offsets,
            counts=np.array([counts[word] for word in words], np.int64),
        )


_MOST_RUNS = 32
# A record is whole in its window.
_SMALLEST_WINDOW = 2 * LONGEST_WORD
_LARGEST_WINDOW = 1 << 20


@dataclass(frozen=True)
class Totals:
    """What is in a run: words, their bytes, and the sum of their counts."""

    words: int
    bytes: int
    count: int


def write_table(table: WordTable, factor: int, file: Any) -> None:
    """Write the words of a table, sorted, and empty it.

    Args:
        table: whose chunks were split.
        factor: by which counts are multiplied.
        file: has ``write``.
    """
    num_words = int(table.filled[NUM_WORDS])
    keys = np.empty(num_words, np.uint64)
    places = np.empty(num_words, np.int64)
    list_words(table.slots, table.arena, keys, places)
    order = np.argsort(keys)
    keys, places = keys[order], places[order]
    sort_same_keys(table.slots, table.arena, keys, places)
    buffer = np.empty(_LARGEST_WINDOW // 8, np.int64)
    data = buffer.view(np.uint8)
    word = 0
    while word < num_words:
        word, size = write_records(table.slots, table.arena, places, word, factor, data, buffer)
        file.write(data[:size])
    table.slots[:] = 0
    table.filled[NUM_WORDS] = table.filled[NUM_BYTES] = 0


def merge_runs(
    paths: Sequence[Path], file: Any, memory: int, *, divisor: int = 1, smallest: int = 1
) -> Totals:
    """Merge runs into one; they are removed.

    Args:
        paths: of the runs.
        file: has ``write``; gets the run.
        memory: about how many bytes it takes.
        divisor: of the sums of counts, rounded half up and to 1 at least.
        smallest: words that then count less are left out.
    """
    waiting = list(paths)
    number = 0
    while len(waiting) > _MOST_RUNS:
        taken, waiting = waiting[:_MOST_RUNS], waiting[_MOST_RUNS:]
        path = taken[0].with_name(f"{taken[0].stem}.merged-{number}.tmp")
        with wrap_os_errors(path), path.open("wb") as merged:
            _merge(taken, merged, memory, 1, 1)
        waiting.append(path)
        number += 1
    return _merge(waiting, file, memory, divisor, smallest)


def _merge(paths: Sequence[Path], file: Any, memory: int, divisor: int, smallest: int) -> Totals:
    """Merge runs, all at once."""
    window = min(max(memory // (2 * max(1, len(paths))), _SMALLEST_WINDOW), _LARGEST_WINDOW)
    window = window // 8 * 8
    buffer = np.empty(len(paths) * window // 8, np.int64)
    data = buffer.view(np.uint8)
    starts = np.arange(len(paths)) * window
    stops = starts.copy()
    goes_on = np.ones(len(paths), np.bool_)
    keys = np.empty(len(paths), np.uint64)
    ends = np.empty(len(paths), np.int64)
    totals = np.zeros(3, np.int64)
    out = np.empty(_LARGEST_WINDOW // 8, np.int64)
    out_bytes = out.view(np.uint8)
    with ExitStack() as stack:
        files = [stack.enter_context(cast("BinaryIO", path.open("rb"))) for path in paths]
        reason = 0
        while reason != MERGED:
            reason, size = merge_records(
                data,
                buffer,
                starts,
                stops,
                goes_on,
                divisor,
                smallest,
                keys,
                ends,
                totals,
                out_bytes,
                out,
            )
            file.write(out_bytes[:size])
            if reason >= 0:
                first, rest = reason * window, int(stops[reason] - starts[reason])
                data[first : first + rest] = data[starts[reason] : stops[reason]].copy()
                read = files[reason].readinto(data[first + rest : first + window].data)  # type: ignore[attr-defined]
                starts[reason], stops[reason] = first, first + rest + read
                goes_on[reason] = read > 0
    for path in paths:
        path.unlink()
    return Totals(*totals.tolist())


def read_run(path: Path, totals: Totals) -> WordCounts:
    """Read a run into memory.

    Args:
        path: of the run.
        totals: what is in it.
    """
    words = np.fromfile(path, np.int64)
    counts = WordCounts(
        values=np.empty(totals.bytes, np.uint8),
        offsets=np.empty(totals.words + 1, np.int64),
        counts=np.empty(totals.words, np.int64),
    )
    unpack_records(words.view(np.uint8), words, counts.values, counts.offsets, counts.counts)
    return counts


def text_arrays(words: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Texts as kernels take them: their bytes, one after another, and their bounds."""
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=offsets[1:])
    return np.frombuffer(b"".join(words), np.uint8), offsets
