r"""Files of words and counts: ``word<TAB>count``, a word a line, in UTF-8.

    the\t61183
    can\\not\t2

Within a word, ``\t``, ``\n``, ``\r`` and ``\\`` stand for tab, line feed, carriage return and
backslash. A word is text: it is normalized and split like any other, and counted so often.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from tokkit.corpus.units import CorpusUnit
from tokkit.engine.files import write_atomically
from tokkit.errors import TokkitError
from tokkit.vocab.word_counts import WordCounts

if TYPE_CHECKING:
    import hashlib

# Of all words together, so that sums of weighted counts fit into 64 bits.
LARGEST_SUM = 1 << 62

_READ_BYTES = 4 << 20
_BOM = b"\xef\xbb\xbf"
_ESCAPES = {b"\\": b"\\\\", b"\t": b"\\t", b"\n": b"\\n", b"\r": b"\\r"}
_MEANINGS = {escape: char for char, escape in _ESCAPES.items()}
_ESCAPE = re.compile(rb"\\.?", re.DOTALL)
_TO_ESCAPE = re.compile(rb"[\\\t\n\r]")
_COUNT = re.compile(rb"[0-9]{1,19}")
_WRITE_LINES = 1 << 16


def write_counts(path: Path, words: WordCounts) -> None:
    """Write a file of counts, atomically: the most frequent first, then in the order of bytes."""
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
    unit: CorpusUnit, errors: str, digest: "hashlib._Hash"
) -> Iterator[tuple[list[bytes], npt.NDArray[np.int64], int]]:
    """Read a file of counts.

    Args:
        unit: all of the file.
        errors: what invalid UTF-8 does: ``strict``, ``replace`` or ``skip``.
        digest: updated with the bytes that are read.

    Yields:
        Words, their counts, and how far the file was read since the last time, in bytes.

    Raises:
        TokkitError: naming the line that is wrong.
    """
    from tokkit.corpus.streams import open_stream, require_unchanged

    buffer = memoryview(bytearray(_READ_BYTES))
    reader = _LineReader(unit.source.name, errors)
    with open_stream(unit, digest) as stream:
        rest = b""
        final = False
        while not final:
            filled = stream.fill(buffer)
            final = filled < len(buffer)
            data = rest + buffer[:filled].tobytes()
            if not reader.number:
                data = data.removeprefix(_BOM)
            lines = data.split(b"\n")
            rest = b"" if final and not lines[-1] else lines[-1]
            if not final or not lines[-1]:
                lines.pop()
            words, counts = reader.read(lines)
            yield words, np.array(counts, np.int64), stream.take_progress()
    require_unchanged(unit.source)


class _LineReader:
    """Reads lines, and knows where it is."""

    def __init__(self, name: str, errors: str) -> None:
        self.number = 0
        self._name = name
        self._errors = errors
        self._sum = 0

    def read(self, lines: list[bytes]) -> tuple[list[bytes], list[int]]:
        """The words and counts of some lines."""
        words = []
        counts = []
        for line in lines:
            self.number += 1
            text, tab, digits = line.removesuffix(b"\r").rpartition(b"\t")
            if not tab:
                raise self._fault("no tab", "a line is a word, a tab and a count")
            if not _COUNT.fullmatch(digits) or not int(digits):
                shown = digits[:20].decode(errors="replace")
                raise self._fault(
                    f"the count {shown!r} is no positive whole number",
                    "a line is a word, a tab and a count",
                )
            self._sum += int(digits)
            if self._sum > LARGEST_SUM:
                raise self._fault("the counts exceed 2^62 in sum", "divide all counts")
            word = self._unescape(text)
            if word:
                words.append(word)
                counts.append(int(digits))
        return words, counts

    def _unescape(self, text: bytes) -> bytes:
        """The word that a line spells; nothing where it is skipped."""
        if b"\t" in text:
            raise self._fault("more than one tab", r"spell a tab within a word \t")
        if b"\\" in text:
            text = _ESCAPE.sub(self._meaning, text)
        try:
            text.decode()
        except UnicodeDecodeError:
            if self._errors == "strict":
                raise self._fault(
                    "invalid UTF-8", "convert it to UTF-8, or pass --errors replace or skip"
                ) from None
            return text.decode(errors="replace").encode() if self._errors == "replace" else b""
        return text

    def _meaning(self, escape: "re.Match[bytes]") -> bytes:
        if escape[0] not in _MEANINGS:
            shown = escape[0].decode(errors="replace")
            raise self._fault(f"{shown} has no meaning", r"spell a backslash \\")
        return _MEANINGS[escape[0]]

    def _fault(self, fault: str, remedy: str) -> TokkitError:
        return TokkitError(f"{self._name}, line {self.number}: {fault}; {remedy}")
