"""Decompression of inputs: what a file is compressed with, and readers of its content.

A file may have several members, streams or frames; they read as one text. Zero bytes after a
member are padding, as for gzip and xz themselves; anything else there is an error, and so is a
truncated member.

To add one, add its suffixes and its first bytes to the tables below, and a decompressor with the
methods of ``bz2.BZ2Decompressor``. The help of ``train`` and ``encode`` (``cli/stages.py``) names it.
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import pyarrow as pa

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ERRORS = (OSError, EOFError, pa.ArrowException, lzma.LZMAError, zlib.error, zstd.ZstdError)

_READ_BYTES = 1 << 16
_GZIP_HEADER = 16 + zlib.MAX_WBITS
# What zstd --long=31 writes; the library itself stops at 27, and needs the memory only if asked.
_ZSTD_OPTIONS: Mapping[int, int] = {zstd.DecompressionParameter.window_log_max: 31}

_SUFFIXES = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".zstd": "zstd",
    ".bz2": "bz2",
    ".xz": "xz",
    ".lzma": "xz",
    ".lz4": "lz4",
}
# The first bytes of compressed data. None of them but bzip2's are those of any text.
_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\x50\x2a\x4d\x18": "zstd",  # a skippable frame, as pzstd writes first
    b"BZh91AY&SY": "bz2",
    b"BZh9\x17rE8P\x90": "bz2",  # without content
    b"\xfd7zXZ\x00": "xz",
    b"\x5d\x00\x00": "xz",  # .lzma
    b"\x04\x22\x4d\x18": "lz4",
}


class Reader(Protocol):
    """A source of bytes."""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; return the number of bytes, 0 at the end."""


def named_codec(suffix: str) -> str | None:
    """Return what a file with this suffix is compressed with, or None."""
    return _SUFFIXES.get(suffix)


def find_codec(head: bytes, named: str | None) -> str | None:
    """Return what data are compressed with, by their first bytes.

    Args:
        head: the first bytes.
        named: what the file's name says; it holds for data too short to tell.
    """
    for magic, codec in _MAGIC.items():
        start = magic[:3] + head[3:4] + magic[4:] if codec == "bz2" else magic
        if head.startswith(start) or (codec == named and start.startswith(head)):
            return codec
    return None


def open_reader(raw: Any, codec: str | None) -> Reader:
    """Return a reader of what a file holds, decompressed.

    Args:
        raw: the file, at its beginning.
        codec: ``gzip``, ``zstd``, ``bz2``, ``xz``, ``lz4`` or None.
    """
    if codec is None:
        return raw  # type: ignore[no-any-return]  # any file has readinto
    if codec == "lz4":
        return pa.CompressedInputStream(raw, codec)  # type: ignore[no-any-return]  # no annotations
    return _MemberReader(raw, _DECOMPRESSORS[codec])


class _GzipDecompressor:
    """Decompresses one member of gzip data, with the methods of ``bz2.BZ2Decompressor``."""

    def __init__(self) -> None:
        self._inner = zlib.decompressobj(_GZIP_HEADER)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


_DECOMPRESSORS: Mapping[str, Callable[[], Any]] = {
    "gzip": _GzipDecompressor,
    "zstd": lambda: zstd.ZstdDecompressor(options=_ZSTD_OPTIONS),
    "bz2": bz2.BZ2Decompressor,
    "xz": lzma.LZMADecompressor,
}


class _MemberReader:
    """Reads compressed data, member after member."""

    def __init__(self, raw: Any, make: Callable[[], Any]) -> None:
        self._raw = raw
        self._make = make
        self._member: Any = None
        self._rest = b""  # read, and not decompressed, when a member ended
        self._padding = b""

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; return the number of bytes, 0 at the end.

        Raises:
            EOFError: if the data end within a member.
            OSError: if the bytes are no such data, or one of the other ``ERRORS``.
        """
        while True:
            data = b""
            is_at_end = False
            if self._member is None:
                data = self._rest.lstrip(self._padding) if self._padding else self._rest
                self._rest = b""
                if not data:
                    self._rest = self._raw.read(_READ_BYTES)
                    if not self._rest:
                        return 0
                    continue
                self._member = self._make()
            elif self._member.needs_input:
                data = self._raw.read(_READ_BYTES)
                is_at_end = not data
            text = self._member.decompress(data, len(buffer))
            if self._member.eof:
                self._rest = self._member.unused_data
                self._member = None
                self._padding = b"\0"
            elif is_at_end and not text:
                raise EOFError("the data end within a member")
            if text:
                buffer[: len(text)] = text
                return len(text)
