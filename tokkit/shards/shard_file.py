"""One shard: written to a file that the engine makes atomic, and opened again, mapped or copied.

A map shows what another process writes into its file, and pyarrow follows references in it after it
has checked them. Stages map shards, and compare their identities at each visit; what is read once,
such as headers and the rows that ``inspect`` shows, is copied.
"""

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from tokkit.engine.files import require_file_inside
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.shards.claims import check_claims, read_footer
from tokkit.shards.mapping import map_file

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
        check_claims(file, footer, str(path))
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
