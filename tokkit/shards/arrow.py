"""NumPy arrays as Arrow columns and back, without a copy.

``pa.array`` would do, but it imports pandas where that is installed, in every process: 0.3 s.
"""

import sys
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_STEP = 1 << 20
_MAX_KEPT = 8


def id_dtype(vocab_size: int) -> npt.DTypeLike:
    """Return the NumPy type of token ids: uint16 for at most 65,536 tokens, else uint32."""
    return np.uint16 if vocab_size <= 1 << 16 else np.uint32


def to_arrow(values: npt.NDArray[Any]) -> pa.Array:
    """Convert a NumPy array to an Arrow array, without a copy except for booleans."""
    if values.dtype == np.bool_:
        return boolean_array(np.packbits(values, bitorder="little"), len(values))
    data = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(pa.from_numpy_dtype(values.dtype), len(values), [None, data])


def boolean_array(bits: npt.NDArray[Any], length: int) -> pa.BooleanArray:
    """Wrap packed bits, eight to a byte and lowest first, as an Arrow array without a copy.

    Args:
        bits: of any unsigned type; see ``tokkit.kernels.ragged``.
        length: number of booleans.
    """
    return pa.BooleanArray.from_buffers(pa.bool_(), length, [None, pa.py_buffer(bits)])


def large_list(
    values: npt.NDArray[Any] | pa.Array, offsets: npt.NDArray[np.int64]
) -> pa.LargeListArray:
    """Wrap ragged rows as an Arrow column, without a copy except for NumPy booleans.

    Args:
        values: of all rows in order, of any fixed-width type.
        offsets: ``[num_rows + 1]``, row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    Example:
        >>> large_list(np.array([7, 8, 9]), np.array([0, 2, 3])).to_pylist()
        [[7, 8], [9]]
    """
    items = values if isinstance(values, pa.Array) else to_arrow(values)
    return pa.LargeListArray.from_arrays(to_arrow(offsets), items)


def string_array(
    values: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> pa.LargeStringArray:
    """Wrap UTF-8 bytes and their offsets as an Arrow string column, without a copy."""
    used = values[: offsets[-1]]
    return pa.LargeStringArray.from_buffers(
        offsets.size - 1, pa.py_buffer(offsets), pa.py_buffer(used)
    )


def text_arrays(texts: Sequence[bytes]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return texts as kernels take them: the bytes of all, and their bounds."""
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    return np.frombuffer(b"".join(texts), np.uint8), offsets


def string_buffers(
    texts: pa.LargeStringArray,
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Return the bytes and offsets of an Arrow string column, without a copy.

    Returns:
        uint8, and int64 ``[num_texts + 1]``, whose first is above 0 for a slice.
    """
    _, bounds, data = texts.buffers()
    offsets = np.zeros(1, dtype=np.int64)
    if bounds is not None and bounds.size:
        offsets = np.frombuffer(bounds, dtype=np.int64)
        offsets = offsets[texts.offset : texts.offset + len(texts) + 1]
    values = np.frombuffer(data if data is not None else b"", dtype=np.uint8)
    return values, offsets


def call_compute(name: str, *columns: pa.Array) -> Any:
    """Call a function of ``pyarrow.compute`` with its default options.

    That module makes Python functions of all of them when it is imported, which takes 60 ms.
    """
    from pyarrow._compute import call_function

    return call_function(name, list(columns))


class SpareMemory:
    """Buffers that are used again once nobody refers to them.

    A new buffer of megabytes comes from the system in pages of zeros: to clear these takes as long as
    to copy text into them, or three times as long on a virtual machine.

    Args:
        limit: number of bytes of the largest buffer that is kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffers: list[npt.NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def take(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Return an uninitialized array: uint8 ``[num_bytes]``; views of it keep it in use."""
        if num_bytes > self._limit:
            return np.empty(num_bytes, np.uint8)
        with self._lock:
            for index in range(len(self._buffers)):
                if self._is_free(index) and len(self._buffers[index]) >= num_bytes:
                    return self._buffers[index][:num_bytes]
            small = [index for index in range(len(self._buffers)) if self._is_free(index)]
            for index in [
                *reversed(small),
                *range(len(self._buffers) - len(small) - _MAX_KEPT + 1),
            ]:
                del self._buffers[index]
            # Of sizes that are nearly the same, one fits the other.
            buffer = np.empty(-(-num_bytes // _STEP) * _STEP, np.uint8)
            self._buffers.append(buffer)
            return buffer[:num_bytes]

    def _is_free(self, index: int) -> bool:
        """Return whether nothing refers to a buffer, beside the list and the call that counts."""
        return sys.getrefcount(self._buffers[index]) == 2


def ragged(column: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the ``values`` and ``offsets`` of a list column.

    Args:
        column: large_list, or a slice of one.

    Returns:
        values: without a copy, except that packed booleans become ``np.bool_``.
        offsets: int64 ``[num_rows + 1]``, from 0 for a slice too.

    Example:
        >>> ragged(pa.array([[7, 8], [9]], pa.large_list(pa.int32())))
        (array([7, 8, 9], dtype=int32), array([0, 2, 3]))
    """
    offsets = column.offsets.to_numpy()
    values = column.values[offsets[0] : offsets[-1]]
    if offsets[0]:
        offsets = offsets - offsets[0]
    return values.to_numpy(zero_copy_only=not pa.types.is_boolean(values.type)), offsets


def packed_bits(column: pa.LargeListArray) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the bits of a column of booleans without a copy, and the place of the first row's bit."""
    values = column.values
    bits = np.frombuffer(values.buffers()[1], np.uint8)
    return bits, values.offset + column.offsets[0].as_py()
