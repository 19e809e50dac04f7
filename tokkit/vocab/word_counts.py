"""Words and their counts: in memory, and as sorted runs on disk that are merged.

All that a trainer needs to know of a corpus is its words and how often they occur:

    values   h e l o w   offsets 0 2 4 5      "he" 7 times, "lo" 3 times, "w" once
    counts   7 3 1

A word is a stretch of text within which tokens lie: what the pre-tokenizer cuts from normalized
text (WordPiece), what the split pattern matches (byte-level BPE), or what stands between white
space (unigram).

On disk the words are sorted by their bytes. Runs are merged a few at a time, each through a window,
so that no more of them is in memory at once. ``tokkit.kernels.vocab.sorted_runs`` has the format.

    run 0   a 3   cat 1          run 1   a 2   the 5          merged   a 5   cat 1   the 5
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from tokkit.engine.drafts import draft_path
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

_MAX_RUNS = 32
# A window has room for the longest record.
_SMALLEST_WINDOW = 2 * LONGEST_WORD
_LARGEST_WINDOW = 1 << 20


@dataclass(frozen=True)
class WordCounts:
    """Distinct words in the order of their bytes.

    Attributes:
        values: uint8, bytes of all words.
        offsets: int64 ``[num_words + 1]``, bounds of the words in ``values``.
        counts: int64 ``[num_words]``, at least 1 each.
    """

    values: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        """Return the number of distinct words."""
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Yield each word with its count."""
        data = self.values.tobytes()
        for word, count in enumerate(self.counts.tolist()):
            yield data[self.offsets[word] : self.offsets[word + 1]], count

    @classmethod
    def from_mapping(cls, counts: Mapping[bytes, int]) -> "WordCounts":
        """Return the words of a mapping.

        Example:
            >>> WordCounts.from_mapping({b"b": 1, b"ab": 3}).offsets.tolist()
            [0, 2, 3]
        """
        words = sorted(counts)
        numbers = np.array([counts[word] for word in words], np.int64)
        return cls(*text_arrays(words), numbers)


@dataclass(frozen=True)
class Run:
    """A sorted run: the bytes of a file from ``start`` to its end."""

    path: Path
    start: int = 0


@dataclass(frozen=True)
class RunTotals:
    """What is in a run: the number of words and of their bytes, and the sum of their counts."""

    words: int
    bytes: int
    count: int


def text_arrays(words: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return texts as kernels take them: the bytes of all, and their bounds."""
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(word) for word in words], out=offsets[1:])
    return np.frombuffer(b"".join(words), np.uint8), offsets


def write_table(table: WordTable, factor: int, file: Any) -> None:
    """Write the words of a table as a run, and empty the table.

    Args:
        table: a table whose chunks were split.
        factor: factor by which counts are multiplied.
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


@contextmanager
def open_partial_run(folder: Path) -> Iterator[Any]:
    """Open a file for a run, of a name that no process of any machine has in the folder."""
    with wrap_os_errors(folder), draft_path(folder / "partial").open("wb") as file:
        yield file


def merge_runs(
    runs: Sequence[Run], file: Any, memory: int, *, divisor: int = 1, smallest: int = 1
) -> RunTotals:
    """Merge runs into one.

    Args:
        runs: runs to merge, which stay.
        file: has ``write``; receives the merged run.
        memory: approximate number of bytes to use.
        divisor: divisor of the summed counts, which are rounded half up and at least to 1.
        smallest: words whose counts are smaller after the division are left out.
    """
    waiting = list(runs)
    partial: list[Path] = []
    while len(waiting) > _MAX_RUNS:
        with open_partial_run(waiting[0].path.parent) as merged:
            _merge(waiting[:_MAX_RUNS], merged, memory, 1, 1)
        partial.append(Path(merged.name))
        waiting = [*waiting[_MAX_RUNS:], Run(partial[-1])]
    totals = _merge(waiting, file, memory, divisor, smallest)
    for path in partial:
        path.unlink()
    return totals


def _merge(runs: Sequence[Run], file: Any, memory: int, divisor: int, smallest: int) -> RunTotals:
    """Merge a few runs at once."""
    window = min(max(memory // (2 * max(1, len(runs))), _SMALLEST_WINDOW), _LARGEST_WINDOW)
    window = window // 8 * 8
    buffer = np.empty(len(runs) * window // 8, np.int64)
    data = buffer.view(np.uint8)
    starts = np.arange(len(runs)) * window
    stops = starts.copy()
    goes_on = np.ones(len(runs), np.bool_)
    keys = np.empty(len(runs), np.uint64)
    ends = np.empty(len(runs), np.int64)
    totals = np.zeros(3, np.int64)
    out = np.empty(_LARGEST_WINDOW // 8, np.int64)
    out_bytes = out.view(np.uint8)
    with ExitStack() as stack:
        files = [stack.enter_context(cast("BinaryIO", run.path.open("rb"))) for run in runs]
        for source, run in zip(files, runs, strict=True):
            source.seek(run.start)
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
    return RunTotals(*totals.tolist())


def read_run(path: Path, totals: RunTotals) -> WordCounts:
    """Read a run, which is all of a file, into memory."""
    words = np.fromfile(path, np.int64)
    counts = WordCounts(
        values=np.empty(totals.bytes, np.uint8),
        offsets=np.empty(totals.words + 1, np.int64),
        counts=np.empty(totals.words, np.int64),
    )
    unpack_records(words.view(np.uint8), words, counts.values, counts.offsets, counts.counts)
    return counts
