"""Checks the sizes that compressed record batches unpack to, before memory is allocated for them.

In the body of a compressed record batch, each buffer begins with the number of bytes that it unpacks
to. pyarrow allocates them before it looks at the rest, so a file of a few kilobytes can ask for
terabytes. The claims are found by the format's metadata, which are flatbuffers:

    end of the file   …footer, its length (4 bytes), "ARROW1"
    footer            record batches: where each message is, and the length of its metadata
    message           a record batch: where its buffers are in its body, and the compression

(https://arrow.apache.org/docs/format/Columnar.html). pyarrow has checked the footer; that a
reference is out of bounds elsewhere shows when it is followed.
"""

import os
import struct
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from tokkit.errors import TokkitError

# A record batch has 4 million tokens, or a document. Nothing real exceeds both.
MAX_BYTES = 1 << 30
MAX_GROWTH = 1000

_MAX_METADATA = 1 << 30
_MAGIC = b"ARROW1\0\0"
_CONTINUATION = b"\xff" * 4
_FOOTER_END = 10  # bytes: its length and the magic
_BLOCK = np.dtype([("offset", "<i8"), ("metadata", "<i4"), ("", "<i4"), ("body", "<i8")])
_BUFFER = np.dtype([("offset", "<i8"), ("size", "<i8")])
_BLOCKS_OF_FOOTER, _HEADER_OF_MESSAGE, _BUFFERS, _COMPRESSION = 3, 2, 2, 3


class _Table:
    """A table of a flatbuffer: a reference to a list of where its fields are, then the fields."""

    def __init__(self, data: bytes, reference: int) -> None:
        self._data = data
        self._start = reference + _read("<I", data, reference)

    def _field(self, number: int) -> int | None:
        """Return where a field is; None if it is not there."""
        fields = self._start - _read("<i", self._data, self._start)
        place = 4 + 2 * number
        if place >= _read("<H", self._data, fields):
            return None
        offset = _read("<H", self._data, fields + place)
        return self._start + offset if offset else None

    def table(self, number: int) -> "_Table | None":
        """Return a field that is a table."""
        field = self._field(number)
        return None if field is None else _Table(self._data, field)

    def structs(self, number: int, dtype: np.dtype[Any]) -> npt.NDArray[Any]:
        """Return a field that is a list of structs."""
        field = self._field(number)
        if field is None:
            return np.empty(0, dtype)
        start = field + _read("<I", self._data, field)
        count = _read("<I", self._data, start)
        return np.frombuffer(self._data, dtype, count, start + 4)


def _read(kind: str, data: bytes, place: int) -> int:
    if place < 0:
        raise ValueError("a reference leads out of the metadata")
    number: int = struct.unpack_from(kind, data, place)[0]
    return number


def read_footer(file: BinaryIO) -> bytes:
    """Return an Arrow file without its record batches: the magic, and the footer.

    Raises:
        ValueError: it is too short, or damaged; also ``struct.error``.
    """
    size = file.seek(0, os.SEEK_END)
    ending = _read_at(file, size - _FOOTER_END, _FOOTER_END)
    length = _read("<i", ending, 0)
    if not 0 < length <= size - len(_MAGIC) - _FOOTER_END:
        raise ValueError("it has no footer")
    return _MAGIC + _read_at(file, size - _FOOTER_END - length, length) + ending


def _read_at(file: BinaryIO, place: int, size: int) -> bytes:
    if place < 0 or not 0 <= size <= _MAX_METADATA:
        raise ValueError("a reference leads out of the file")
    file.seek(place)
    return file.read(size)


def check_claims(
    file: BinaryIO, footer: bytes, name: str, remedy: str = "recreate the folder"
) -> None:
    """Refuse a file whose record batches claim to unpack to far more than is in it.

    Args:
        file: an Arrow file.
        footer: from ``read_footer``.
        name: of the file, for the error.
        remedy: what to do, for the error.

    Raises:
        TokkitError: naming the record batch.
        ValueError: the metadata are damaged; also ``struct.error``.
    """
    blocks = _Table(footer, len(_MAGIC)).structs(_BLOCKS_OF_FOOTER, _BLOCK)
    for number, block in enumerate(blocks):
        start, length = int(block["offset"]), int(block["metadata"])
        message = _read_at(file, start, length)
        prefix = 8 if message.startswith(_CONTINUATION) else 4  # as before Arrow 0.15
        header = _Table(message[prefix:], 0).table(_HEADER_OF_MESSAGE)
        if header is None or header.table(_COMPRESSION) is None:
            continue
        claimed = 0
        for buffer in header.structs(_BUFFERS, _BUFFER):
            if buffer["size"] >= 8:
                claim = _read_at(file, start + length + int(buffer["offset"]), 8)
                claimed += max(0, _read("<q", claim, 0))
        if claimed > max(MAX_BYTES, MAX_GROWTH * int(block["body"])):
            raise TokkitError(
                f"{name}, record batch {number}: claims to unpack {block['body']:,} bytes to "
                f"{claimed:,}; {remedy}"
            )
