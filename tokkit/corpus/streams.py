"""The bytes of a work unit, decompressed and in order, hashed and counted on the way.

pyarrow decompresses gzip, zstd and lz4; files of several members or frames, one after the other,
read as one text, and a file that is cut short is an error. Its bzip2 fails on a member without
content (``wrong sequence of calls``, pyarrow 26), so that one goes through the standard library.
"""

import bz2
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa

from tokkit.corpus.files import changed, first_line, open_files
from tokkit.corpus.sources import TO_THE_END, Source
from tokkit.corpus.units import CorpusUnit
from tokkit.errors import TokkitError, wrap_os_errors

_READ_BYTES = 1 << 16
_HEAD_BYTES = 8

# What a file begins with that is no text, whatever its name says.
_MAGIC = {
    b"\xff\xfe": "UTF-16 text",
    b"\xfe\xff": "UTF-16 text",
    b"\x1f\x8b": "gzip data",
    b"\x28\xb5\x2f\xfd": "zstd data",
    b"\x04\x22\x4d\x18": "lz4 data",
    b"BZh": "bzip2 data",
    b"PK\x03\x04": "a zip archive",
    b"PAR1": "a Parquet file",
    b"ARROW1": "an Arrow file",
    b"%PDF": "a PDF file",
}


class _Reader(Protocol):
    """Where bytes come from."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer and say how much; 0 at the end."""


class ByteStream:
    """The bytes of one unit.

    Attributes:
        head: the file's first bytes, once the unit that begins the file has read them.
    """

    def __init__(
        self, unit: CorpusUnit, raw: Any, reader: _Reader, digest: "hashlib._Hash | None"
    ) -> None:
        self.unit = unit
        self.head = b""
        self._raw = raw
        self._reader = reader
        self._digest = digest
        self._num_read = 0
        self._reported = unit.start

    def fill(self, view: memoryview) -> int:
        """Fill ``view`` with what comes next.

        Returns:
            How many bytes were put in: fewer than there is room for at the end only.

        Raises:
            TokkitError: where the file is damaged, cut short, or changed meanwhile.
        """
        filled = 0
        if self.unit.stop != TO_THE_END:
            view = view[: self.unit.stop - self.unit.start - self._num_read]
        while filled < len(view):
            read = self._read(view[filled:])
            if not read:
                break
            filled += read
            self._num_read += read
        if filled < len(view) and self.unit.stop != TO_THE_END:
            raise changed(self.unit.source.name)
        if self.unit.start == 0 and len(self.head) < _HEAD_BYTES:
            self.head += view[: min(filled, _HEAD_BYTES - len(self.head))]
        if self._digest is not None:
            self._digest.update(view[:filled])
        return filled

    def take_progress(self) -> int:
        """How far the file was read since the last call, in bytes as they lie on disk."""
        compressed = self.unit.source.compression is not None
        position = self._raw.tell() if compressed else self.unit.start + self._num_read
        progress = position - self._reported
        self._reported = position
        return progress

    def describe_head(self) -> str | None:
        """What the file is, where it begins with the mark of something that is no text."""
        return next((what for magic, what in _MAGIC.items() if self.head.startswith(magic)), None)

    def _read(self, view: memoryview) -> int:
        """Read a part of what comes next."""
        source = self.unit.source
        try:
            return self._reader.readinto(view)
        except (OSError, EOFError, pa.ArrowException) as error:
            if source.compression is None:
                with wrap_os_errors(source.name):
                    raise
            raise TokkitError(
                f"{source.name}: no valid {source.compression} data after {self._num_read} bytes "
                f"of text ({first_line(error)}); it is damaged, cut short, or not what its name says"
            ) from error


@contextmanager
def open_stream(unit: CorpusUnit, digest: "hashlib._Hash | None") -> Iterator[ByteStream]:
    """Open the bytes of a unit of plain text or JSON lines.

    Args:
        unit: a range of a file, a whole compressed file, or standard input.
        digest: updated with the bytes as they are read, after decompression.
    """
    source = unit.source
    if source.is_stdin:
        stdin: Any = sys.stdin.buffer
        yield ByteStream(unit, stdin, stdin, digest)
        return
    with open_files(source.uri).open(source.path) as raw:
        require_unchanged(source)
        raw.seek(unit.start)
        yield ByteStream(unit, raw, _decompress(raw, source.compression), digest)


def require_unchanged(source: Source) -> None:
    """See that a file still is what it was when the work was planned.

    Raises:
        TokkitError: where its size or time stamp is another, or it is gone.
    """
    if source.is_stdin:
        return
    now = open_files(source.uri).find(source.path)
    if now is None or (now.bytes, now.mtime_ns) != (source.bytes, source.mtime_ns):
        raise changed(source.name)


def _decompress(raw: Any, compression: str | None) -> _Reader:
    """What gives the bytes that a file stands for."""
    if compression is None:
        reader: _Reader = raw
    elif compression == "bz2":
        reader = _Bzip2Reader(raw)
    else:
        reader = pa.CompressedInputStream(raw, compression)
    return reader


class _Bzip2Reader:
    """Bzip2 data, member after member."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._decompressor = bz2.BZ2Decompressor()
        self._within_member = False

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer and say how much; 0 at the end.

        Raises:
            EOFError: within a member.
            OSError: where the bytes are no bzip2 data.
        """
        while True:
            data = b""
            if self._decompressor.eof:
                data = self._decompressor.unused_data
                self._decompressor = bz2.BZ2Decompressor()
                self._within_member = False
            if self._decompressor.needs_input and not data:
                data = self._raw.read(_READ_BYTES)
                if not data:
                    if self._within_member:
                        raise EOFError("the data end within a member")
                    return 0
            self._within_member = True
            text = self._decompressor.decompress(data, len(buffer))
            if text:
                buffer[: len(text)] = text
                return len(text)
