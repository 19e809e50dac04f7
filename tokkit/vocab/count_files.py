r"""Files of words and counts: ``word<TAB>count``, a word a line, in UTF-8.

    the\t61183
    can\\not\t2

Within a word, ``\t``, ``\n``, ``\r`` and ``\\`` stand for tab, line feed, carriage return and
backslash. A word is text: it is normalized and split like any other, and counts that many times.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.streams import open_stream, require_unchanged
from tokkit.corpus.units import CorpusUnit
from tokkit.engine.files import write_atomically
from tokkit.errors import TokkitError
from tokkit.vocab.word_counts import WordCounts

if TYPE_CHECKING:
    import hashlib

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


def write_counts(path: Path, words: WordCounts) -> None:
    """Write a file of counts atomically, by descending count and then in the order of bytes."""
    order = np.argsort(-words.counts, kind="stable")
    data = words.values.data
    with write_atomically(path) as file:
        for start in range(0, len(order), _WRITE_LINES):
            lines = []
            for word in order[start : start + _WRITE_LINES].tolist():
                text = bytes(data[words.offsets[word] : words.offsets[word + 1]])
                escaped = _TO_ESCAPE.sub(lambda match: _ESCAPES[match[0]], text)
                lines.append(b"%b\t%d\n" % (escaped, words.counts[word]))
            file.write(b"".join(lines))


def read_counts(
    unit: CorpusUnit, config: CorpusConfig, digest: "hashlib._Hash"
) -> Iterator[tuple[list[bytes], npt.NDArray[np.int64], int]]:
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
    require_unchanged(unit.source)


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
