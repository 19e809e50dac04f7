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
from collections.abc import Container, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import pyarrow as pa

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
# Numbers of fields, and of the kinds of messages.
DICTIONARIES, RECORD_BATCHES = 2, 3
_KIND_OF_MESSAGE, _HEADER_OF_MESSAGE, _BODY_OF_MESSAGE = 1, 2, 3
_ROWS_OF_DICTIONARY, _BUFFERS, _COMPRESSION = 1, 2, 3
_DICTIONARY, _RECORD_BATCH = 2, 3


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

    def number(self, number: int, kind: str = "<q") -> int:
        """Return a field that is a number; 0 if it is not there."""
        field = self._field(number)
        return 0 if field is None else _read(kind, self._data, field)

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


def check_claims(file: BinaryIO, footer: bytes, name: str) -> None:
    """Refuse a shard whose record batches claim to unpack to far more than is in it.

    Args:
        file: an Arrow file.
        footer: from ``read_footer``.
        name: of the file, for the error.

    Raises:
        TokkitError: naming the record batch.
        ValueError: the metadata are damaged; also ``struct.error``.
    """
    for number, message in enumerate(find_messages(footer, RECORD_BATCHES)):
        claimed = measure_message(file, message)
        if claimed > max(MAX_BYTES, MAX_GROWTH * message.body):
            raise TokkitError(
                f"{name}, record batch {number}: claims to unpack {message.body:,} bytes to "
                f"{claimed:,}; recreate the folder"
            )


@dataclass(frozen=True)
class Message:
    """Where a message is in a file.

    Attributes:
        start: its first byte.
        metadata: bytes of its metadata, with the prefix that gives their length.
        body: bytes of the buffers, which follow.
        has_rows: whether it is a record batch.
    """

    start: int
    metadata: int
    body: int
    has_rows: bool = True

    @property
    def stop(self) -> int:
        """Where the next message of a stream begins."""
        return self.start + self.metadata + self.body


def find_messages(footer: bytes, field: int) -> list[Message]:
    """Return the record batches of an Arrow file, or with ``DICTIONARIES`` its dictionaries."""
    blocks = _Table(footer, len(_MAGIC)).structs(field, _BLOCK)
    return [Message(int(b["offset"]), int(b["metadata"]), int(b["body"])) for b in blocks]


def read_message(file: BinaryIO, start: int) -> Message | None:
    """Return the message of a stream that begins at a byte; None at the end of the stream."""
    prefix = _read_at(file, start, 8)
    is_marked = prefix.startswith(_CONTINUATION)  # not before Arrow 0.15
    length = _read("<i", prefix, 4 if is_marked else 0)
    if not length:
        return None
    place = 8 if is_marked else 4
    table = _Table(_read_at(file, start + place, length), 0)
    has_rows = table.number(_KIND_OF_MESSAGE, "<B") == _RECORD_BATCH
    body = table.number(_BODY_OF_MESSAGE)
    if body < 0:
        raise ValueError("a reference leads out of the file")
    return Message(start, place + length, body, has_rows)


def measure_message(
    file: BinaryIO,
    message: Message,
    types: Sequence[pa.DataType] = (),
    columns: Container[int] = (),
) -> int:
    """Return how many bytes the buffers of a record batch or dictionary say that they unpack to.

    Args:
        file: an Arrow file or stream.
        message: a record batch, a dictionary or another one.
        types: of the columns; none to measure all of them.
        columns: indices of those that are measured. All are if the layout of one is not known.

    Returns:
        The bytes; 0 for a message of another kind.

    Raises:
        ValueError: the metadata are damaged; also ``struct.error``.
    """
    metadata = _read_at(file, message.start, message.metadata)
    prefix = 8 if metadata.startswith(_CONTINUATION) else 4
    table = _Table(metadata[prefix:], 0)
    kind, rows = table.number(_KIND_OF_MESSAGE, "<B"), table.table(_HEADER_OF_MESSAGE)
    if kind == _DICTIONARY and rows is not None:
        rows = rows.table(_ROWS_OF_DICTIONARY)
    if rows is None or kind not in (_DICTIONARY, _RECORD_BATCH):
        return 0
    buffers = rows.structs(_BUFFERS, _BUFFER)
    counts = [*map(_count_buffers, types)]
    if kind == _RECORD_BATCH and None not in counts and sum(filter(None, counts)) == len(buffers):
        owners = np.repeat(np.arange(len(counts)), np.array(counts, np.int64))
        buffers = buffers[[owner in columns for owner in owners.tolist()]]
    if rows.table(_COMPRESSION) is None:
        return int(buffers["size"].sum())
    claimed = 0
    for buffer in buffers[buffers["size"] >= 8]:
        claim = _read_at(file, message.start + message.metadata + int(buffer["offset"]), 8)
        unpacked = _read("<q", claim, 0)
        claimed += int(buffer["size"]) if unpacked < 0 else unpacked  # -1 if it is not compressed
    return claimed


def _count_buffers(column: pa.DataType) -> int | None:
    """Return how many buffers a column has, with those of its children; None if batches differ."""
    kind = pa.types
    if kind.is_dictionary(column):
        return 2
    if kind.is_nested(column):
        fields = (column.field(number).type for number in range(column.num_fields))
        children = [*map(_count_buffers, fields)]
        own = 1 if kind.is_struct(column) or kind.is_fixed_size_list(column) else 2
        is_plain = kind.is_struct(column) or str(column).partition("<")[0].endswith(("list", "map"))
        return own + sum(filter(None, children)) if is_plain and None not in children else None
    if isinstance(column, pa.BaseExtensionType) or str(column).endswith("_view"):
        return None
    if kind.is_null(column):
        return 0
    is_long = any(
        check(column)
        for check in (kind.is_string, kind.is_large_string, kind.is_binary, kind.is_large_binary)
    )
    return 3 if is_long else 2
