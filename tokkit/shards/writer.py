"""Writing shards: record batches into a file that the engine makes atomic."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa


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
