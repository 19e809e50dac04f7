"""The bytes of a unit, decompressed and in order, hashed and counted as they are read.

pyarrow decompresses gzip, zstd and lz4; files of several members or frames read as one text, and a
truncated file is an error. Its bzip2 fails on a member without content (``wrong sequence of
calls``, pyarrow 26), so bzip2 is left to the standard library.
"""

import bz2
import hashlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa

from tokkit.corpus.file_systems import changed_error, first_line, open_files
from tokkit.corpus.sources import TO_THE_END, Source
from tokkit.corpus.units import CorpusUnit
from tokkit.errors import TokkitError, wrap_os_errors

_READ_BYTES = 1 << 16
_HEAD_BYTES = 8

# The first bytes of files that are no text, whatever their names say.
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
    """A source of bytes."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; return the number of bytes, 0 at the end."""


class ByteStream:
    """The bytes of one unit.

    Args:
        unit: of plain text or JSON lines.
        raw: the file, for its position.
        reader: reads what the file holds, decompressed.
        digest: updated with the bytes that are read.

    Attributes:
        unit: the unit.
        head: the file's first bytes, once the unit at its beginning has read them.
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
        """Fill ``view`` with the next bytes.

        Returns:
            Number of bytes read, less than the length of ``view`` only at the end.

        Raises:
            TokkitError: if the file is damaged or truncated, or has changed.
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
            raise changed_error(self.unit.source.name)
        if self.unit.start == 0 and len(self.head) < _HEAD_BYTES:
            self.head += view[: min(filled, _HEAD_BYTES - len(self.head))]
        if self._digest is not None:
            self._digest.update(view[:filled])
        return filled

    def take_progress(self) -> int:
        """Return the number of bytes of the file, as on disk, read since the last call."""
        compressed = self.unit.source.compression is not None
        position = self._raw.tell() if compressed else self.unit.start + self._num_read
        progress = position - self._reported
        self._reported = position
        return progress

    def describe_head(self) -> str | None:
        """Return what the file is, if it begins like something that is no text."""
        return next((what for magic, what in _MAGIC.items() if self.head.startswith(magic)), None)

    def _read(self, view: memoryview) -> int:
        source = self.unit.source
        try:
            return self._reader.readinto(view)
        except (OSError, EOFError, pa.ArrowException) as error:
            if source.compression is None:
                with wrap_os_errors(source.name):
                    raise
            raise TokkitError(
                f"{source.name}: invalid {source.compression} data after {self._num_read} bytes of "
                f"text ({first_line(error)}); it is damaged, truncated, or not what its name says"
            ) from error


@contextmanager
def open_stream(unit: CorpusUnit, digest: "hashlib._Hash | None") -> Iterator[ByteStream]:
    """Open the bytes of a unit of plain text or JSON lines.

    Args:
        unit: a range of a file, a whole compressed file, or standard input.
        digest: updated with the bytes that are read, after decompression.
    """
    source = unit.source
    if source.is_stdin:
        stdin: Any = sys.stdin.buffer
        yield ByteStream(unit, stdin, stdin, digest)
        return
    with open_files(source.uri).open(source.path) as raw:
        require_unchanged(source)
        raw.seek(unit.start)
        reader: _Reader = raw
        if source.compression == "bz2":
            reader = _Bzip2Reader(raw)
        elif source.compression is not None:
            reader = pa.CompressedInputStream(raw, source.compression)
        yield ByteStream(unit, raw, reader, digest)


def require_unchanged(source: Source) -> None:
    """Check that a file is still what it was when the work was planned.

    Raises:
        TokkitError: if its size or modification time differs, or it is gone.
    """
    if source.is_stdin:
        return
    now = open_files(source.uri).find(source.path)
    if now is None or (now.bytes, now.mtime_ns) != (source.bytes, source.mtime_ns):
        raise changed_error(source.name)


class _Bzip2Reader:
    """Reads bzip2 data, member after member."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._decompressor = bz2.BZ2Decompressor()
        self._within_member = False

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; return the number of bytes, 0 at the end.

        Raises:
            EOFError: if the data end within a member.
            OSError: if the bytes are no bzip2 data.
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
