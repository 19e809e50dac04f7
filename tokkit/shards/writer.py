"""Writing shards: record batches into a file that the engine makes atomic."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import pyarrow as pa


class Sink(Protocol):
    """A binary file that is written in order, such as the engine's ``HashedFile``."""

    def write(self, data: Any) -> int:
        """Write bytes, or anything with a contiguous buffer; return their number."""


@contextmanager
def open_writer(
    sink: Sink, schema: pa.Schema, compression: str = "none"
) -> Iterator[pa.RecordBatchFileWriter]:
    """Write record batches of one schema as an Arrow IPC file.

    The footer is written at the end of the block, but not after an exception.

    Args:
        sink: is not closed.
        schema: from ``tokkit.shards.schema``.
        compression: of ``COMPRESSIONS``.
    """
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    writer = pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema, options=options)
    yield writer
    writer.close()
