"""One shard: written to a file that the engine makes atomic, and opened again, mapped or copied.

A map shows what another process writes into its file, and pyarrow follows references in it after it
has checked them. Stages map shards, and compare their identities at each visit; what is read once,
such as headers and the rows that ``inspect`` shows, is copied.

What compressed record batches unpack to is checked before memory is allocated for them. In the body of a compressed record batch, each buffer begins with the number of bytes that it unpacks
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
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.engine.files import require_file_inside
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.shards.mapping import map_file

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


def check_claims(file: BinaryIO, footer: bytes, path: Path) -> None:
    """Refuse a file whose record batches claim to unpack to far more than is in it.

    Args:
        file: an Arrow file.
        footer: from ``read_footer``.
        path: of the file.

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
                f"{path}, record batch {number}: claims to unpack {block['body']:,} bytes to "
                f"{claimed:,}; recreate the folder"
            )


# What pyarrow and NumPy raise if a file is damaged, or changes while they look at it.
DAMAGE = (pa.ArrowException, OSError, ValueError, SystemError, IndexError, struct.error)


@contextmanager
def report_damage(where: str, fault: str = "damaged") -> Iterator[None]:
    """Turn an exception of ``DAMAGE`` inside the block into a ``TokkitError``."""
    try:
        yield
    except DAMAGE as error:
        reason = str(error).split("\n", 1)[0]
        raise TokkitError(f"{where}: {fault} ({reason}); recreate the folder") from error


def read_schema(path: Path) -> pa.Schema:
    """Read the schema of a shard, and check what its record batches claim to unpack to.

    What is read is copied first, since a map changes with its file.

    Raises:
        TokkitError: it is missing, truncated, or not an Arrow file.
    """
    require_file_inside(path, path.parent)
    with (
        wrap_os_errors(path),
        path.open("rb") as file,
        report_damage(str(path), "not a whole Arrow file"),
    ):
        footer = read_footer(file)
        schema = pa.ipc.open_file(pa.py_buffer(footer)).schema
        check_claims(file, footer, path)
    return schema


def open_shard(path: Path) -> pa.RecordBatchFileReader:
    """Open one shard, memory-mapped.

    From a buffer pyarrow reads the footer at once; for a file it would start threads.

    Raises:
        TokkitError: it is missing, truncated, or not an Arrow file.
    """
    require_file_inside(path, path.parent)
    with report_damage(str(path), "not a whole Arrow file"):
        with wrap_os_errors(path):
            mapped = map_file(path)
        return pa.ipc.open_file(mapped)


def open_copy(path: Path) -> tuple[pa.RecordBatchFileReader, int]:
    """Open one shard so that what is read of it is copied, which no writer of the file changes.

    Returns:
        The reader, and the number of rows.

    Raises:
        TokkitError: as ``read_schema``.
    """
    read_schema(path)
    with report_damage(str(path)):
        reader = pa.ipc.open_file(pa.OSFile(os.fsencode(path)))
        return reader, reader.count_rows()


def map_batch(reader: pa.RecordBatchFileReader, index: int, where: str) -> pa.RecordBatch:
    """Map one record batch, the sizes of its buffers checked.

    Args:
        reader: from ``open_shard``.
        index: of the record batch.
        where: its name in errors.

    Raises:
        TokkitError: it is damaged.
    """
    with report_damage(where):
        batch = reader.get_batch(index)
        batch.validate()
        return batch


class Sink(Protocol):
    """A binary file that is written in order, such as the engine's ``HashedFile``."""

    def write(self, data: Any) -> int:
        """Write bytes, or anything with a contiguous buffer; return their number."""


class ShardWriter:
    """Writes record batches, and notes what the manifest says of each.

    Attributes:
        batches: rows and tokens of each record batch.
    """

    def __init__(self, writer: pa.RecordBatchFileWriter) -> None:
        self.batches: list[tuple[int, int]] = []
        self._writer = writer

    def write(self, batch: pa.RecordBatch) -> None:
        """Write a record batch."""
        self._writer.write(batch)
        self.batches.append((len(batch), count_tokens(batch)))


def count_tokens(batch: pa.RecordBatch) -> int:
    """Return the number of tokens of a record batch, from the ends of its offsets alone."""
    offsets = batch.column("input_ids").offsets
    return int(offsets[-1].as_py() - offsets[0].as_py())


@contextmanager
def open_writer(sink: Sink, schema: pa.Schema, compression: str = "none") -> Iterator[ShardWriter]:
    """Write record batches of one schema as an Arrow IPC file.

    The footer is written at the end of the block, but not after an exception.

    Args:
        sink: is not closed.
        schema: from ``tokkit.shards.schema``.
        compression: of ``COMPRESSIONS``.
    """
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    writer = pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema, options=options)
    yield ShardWriter(writer)
    writer.close()
