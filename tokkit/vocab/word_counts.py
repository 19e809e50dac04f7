r"""Words and their counts: in memory, as sorted runs on disk that are merged, and as files of text.

All that a trainer needs to know of a corpus is its words and how often they occur:

    values   h e l o w   offsets 0 2 4 5      "he" 7 times, "lo" 3 times, "w" once
    counts   7 3 1

A word is a stretch of text within which tokens lie: what the pre-tokenizer cuts from normalized
text (WordPiece), what the split pattern matches (byte-level BPE), or what stands between white
space (unigram).

On disk the words are sorted by their bytes. Runs are merged a few at a time, each through a window,
so that no more of them is in memory at once. ``tokkit.kernels.vocab.sorted_runs`` has the format.

    run 0   a 3   cat 1          run 1   a 2   the 5          merged   a 5   cat 1   the 5

Users read and write them as text, ``word<TAB>count``, a word a line, in UTF-8:

    the\t61183
    can\\not\t2

Within a word, ``\t``, ``\n``, ``\r`` and ``\\`` stand for tab, line feed, carriage return and
backslash. A word is text: it is normalized and split like any other, and counts that many times.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

import numpy as np

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.streams import open_stream, require_same
from tokkit.corpus.units import CorpusUnit
from tokkit.engine.files import draft_path, follow_link, write_atomically
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.vocab.sorted_runs import (
    MERGED,
    list_words,
    merge_records,
    sort_same_keys,
    unpack_records,
    write_records,
)
from tokkit.kernels.vocab.word_table import LONGEST_WORD, NUM_BYTES, NUM_KEPT, NUM_WORDS, WordTable

if TYPE_CHECKING:
    import hashlib


_MAX_RUNS = 32
# A window has room for the longest record.
_SMALLEST_WINDOW = 2 * LONGEST_WORD
_LARGEST_WINDOW = 1 << 20
# Largest sum of the counts of all words, so that weighted sums fit into 64 bits.
LARGEST_SUM = 1 << 62
_READ_BYTES = 4 << 20
_WRITE_LINES = 1 << 16
_BOM = b"\xef\xbb\xbf"
_ESCAPES = {b"\\": b"\\\\", b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r"}
_MEANINGS = {escape: char for char, escape in _ESCAPES.items()}
_ESCAPE = re.compile(rb"\\.?", re.DOTALL)
_TO_ESCAPE = re.compile(rb"[\\\t\n\r]")
_COUNT = re.compile(rb"[0-9]{1,19}")


@dataclass(frozen=True)
class WordCounts:
    """Distinct words in the order of their bytes.

    Attributes:
        values: uint8, bytes of all words.
        offsets: int64 ``[num_words + 1]``, bounds of the words in ``values``.
        counts: int64 ``[num_words]``, at least 1 each.
    """

    values: Bytes
    offsets: Int64
    counts: Int64

    def __len__(self) -> int:
        """Return the number of distinct words."""
        return len(self.counts)

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """Yield each word with its count."""
        data = self.values.tobytes()
        for word, count in enumerate(self.counts.tolist()):
            yield data[self.offsets[word] : self.offsets[word + 1]], count


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


def write_table(table: WordTable, num_taken: int, factor: int, file: Any) -> None:
    """Write the words of a table as a run, and empty the table.

    Args:
        table: the table.
        num_taken: number of elements of the table of chunks, from its beginning on, whose chunks
            were taken out or have become words.
        factor: factor by which counts are multiplied.
        file: has ``write``.
    """
    entries = table.entries[: len(table.slots) + num_taken]
    num_words = int(table.filled[NUM_WORDS] + table.filled[NUM_KEPT])
    keys = np.empty(num_words, np.uint64)
    places = np.empty(num_words, np.int64)
    list_words(entries, table.arena, keys, places)
    order = np.argsort(keys)
    keys, places = keys[order], places[order]
    sort_same_keys(entries, table.arena, keys, places)
    buffer = np.empty(_LARGEST_WINDOW // 8, np.int64)
    data = buffer.view(np.uint8)
    word = 0
    while word < num_words:
        word, size = write_records(entries, table.arena, places, word, factor, data, buffer)
        file.write(data[:size])
    table.filled[[NUM_WORDS, NUM_BYTES, NUM_KEPT]] = 0


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


def write_counts(path: Path, words: WordCounts) -> None:
    """Write a file of counts atomically, by descending count and then in the order of bytes.

    A link to a file stays, and that file is written.
    """
    order = np.argsort(-words.counts, kind="stable")
    data = words.values.data
    with write_atomically(follow_link(path)) as file:
        for start in range(0, len(order), _WRITE_LINES):
            lines = []
            for word in order[start : start + _WRITE_LINES].tolist():
                text = bytes(data[words.offsets[word] : words.offsets[word + 1]])
                escaped = _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0]], text)
                lines.append(b"%b\t%d\n" % (escaped, words.counts[word]))
            file.write(b"".join(lines))


def read_counts(
    unit: CorpusUnit, config: CorpusConfig, digest: "hashlib._Hash"
) -> Iterator[tuple[list[bytes], Int64, int]]:
    """Read a file of counts.

    Args:
        unit: all of the file.
        config: the longest line, and what to do about invalid UTF-8.
        digest: updated with the bytes that are read.

    Yields:
        Words, their counts, and the number of bytes read since the last time.

    Raises:
        TokkitError: naming the line that is wrong.
    """
    buffer = memoryview(bytearray(_READ_BYTES))
    parser = _LineParser(unit.source.name, config.errors)
    with open_stream(unit, digest) as stream:
        rest = b""
        final = False
        while not final:
            filled = stream.fill(buffer)
            final = filled < len(buffer)
            data = rest + buffer[:filled].tobytes()
            if not parser.number:
                data = data.removeprefix(_BOM)
            lines = data.split(b"\n")
            rest = b"" if final and not lines[-1] else lines[-1]
            if len(rest) > config.max_document_bytes:
                parser.number += 1
                raise parser.error(
                    f"more than {config.max_document_bytes:,} bytes", "raise --max-document-bytes"
                )
            if not final or not lines[-1]:
                lines.pop()
            words, counts = parser.parse(lines)
            yield words, np.array(counts, np.int64), stream.take_progress()
    require_same(unit)


class _LineParser:
    """Parses lines, and knows their number and the sum of the counts so far."""

    def __init__(self, name: str, errors: str) -> None:
        self.number = 0
        self._name = name
        self._errors = errors
        self._sum = 0

    def parse(self, lines: list[bytes]) -> tuple[list[bytes], list[int]]:
        """Return the words and counts of some lines, without lines that are skipped."""
        words = []
        counts = []
        for line in lines:
            self.number += 1
            text, tab, digits = line.removesuffix(b"\r").rpartition(b"\t")
            if not tab:
                raise self.error("no tab", "a line is a word, a tab and a count")
            if not _COUNT.fullmatch(digits) or not int(digits):
                shown = digits[:20].decode(errors="replace")
                raise self.error(
                    f"the count {shown!r} is not a positive integer",
                    "a line is a word, a tab and a count",
                )
            self._sum += int(digits)
            if self._sum > LARGEST_SUM:
                raise self.error("the sum of the counts exceeds 2^62", "divide all counts")
            if word := self._unescape(text):
                words.append(word)
                counts.append(int(digits))
        return words, counts

    def _unescape(self, text: bytes) -> bytes:
        """Return the word of a line; b"" if it is to be skipped."""
        if b"\t" in text:
            raise self.error("more than one tab", r"write a tab within a word as \t")
        if b"\\" in text:
            text = _ESCAPE.sub(self._resolve, text)
        try:
            text.decode()
        except UnicodeDecodeError:
            if self._errors == "strict":
                raise self.error(
                    "invalid UTF-8", "convert it to UTF-8, or pass --errors replace or skip"
                ) from None
            return text.decode(errors="replace").encode() if self._errors == "replace" else b""
        return text

    def _resolve(self, escape: "re.Match[bytes]") -> bytes:
        if escape[0] not in _MEANINGS:
            shown = escape[0].decode(errors="replace")
            raise self.error(f"unknown escape {shown}", r"write a backslash as \\")
        return _MEANINGS[escape[0]]

    def error(self, fault: str, remedy: str) -> TokkitError:
        """Return the error for the last line."""
        return TokkitError(f"{self._name}, line {self.number}: {fault}; {remedy}")
