"""Writing shards: record batches into a file that the engine makes atomic."""

from types import TracebackType
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
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


def large_list(
    values: npt.NDArray[Any] | pa.Array, offsets: npt.NDArray[np.int64]
) -> pa.LargeListArray:
    """Ragged rows as an Arrow column, without a copy but of NumPy's booleans.

    Args:
        values: of all rows in order, of any fixed-width type.
        offsets: ``[num_rows + 1]``, row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Example:
        >>> large_list(np.array([7, 8, 9]), np.array([0, 2, 3])).to_pylist()
        [[7, 8], [9]]
    """
    items = values if isinstance(values, pa.Array) else numbers(values)
    return pa.LargeListArray.from_arrays(numbers(offsets), items)


def numbers(values: npt.NDArray[Any]) -> pa.Array:
    """A NumPy array as an Arrow array, without a copy but of booleans.

    ``pa.array`` imports pandas where that is installed, in every process: 0.3 s.
    """
    if values.dtype == np.bool_:
        return booleans(np.packbits(values, bitorder="little"), len(values))
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, data])


def booleans(bits: npt.NDArray[Any], number: int) -> pa.BooleanArray:
    """Booleans that are packed as in ``tokkit.kernels.ragged``, as an Arrow array without a copy.

    Args:
        bits: of any unsigned type.
        number: how many there are.
    """
    return pa.BooleanArray.from_buffers(pa.bool_(), number, [None, pa.py_buffer(bits)])
