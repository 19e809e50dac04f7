"""Writing shards: record batches into a file that the engine makes atomic."""

from types import TracebackType
from typing import Any, Protocol, Self

import pyarrow as pa


class Sink(Protocol):
    """A binary file that takes bytes in order, such as the engine's ``HashedFile``."""

    def write(self, data: Any) -> int:
        """Write bytes or anything with a contiguous buffer; returns how many."""


class ShardWriter:
    """Writes record batches of one schema as an Arrow IPC file.

    Args:
        sink: binary file that takes bytes in order; it is not closed.
        schema: from ``tokkit.shards.schema``.
        compression: of the buffers: ``none``, ``zstd`` or ``lz4``.
    """

    def __init__(self, sink: Sink, schema: pa.Schema, compression: str = "none") -> None:
        codec = None if compression == "none" else compression
        self._writer = pa.ipc.new_file(
            pa.PythonFile(sink, mode="w"), schema, options=pa.ipc.IpcWriteOptions(compression=codec)
        )

    def write(self, batch: pa.RecordBatch) -> None:
        """Append a record batch."""
        self._writer.write_batch(batch)

    def close(self) -> None:
        """Write the footer; the file is whole from now on."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.close()
