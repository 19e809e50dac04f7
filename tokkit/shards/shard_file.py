"""One shard: written to a file that the engine makes atomic, and opened again, mapped or copied.

A map shows what another process writes into its file, and pyarrow follows references in it after it
has checked them. Stages map shards, and compare their identities at each visit; what is read once,
such as headers and the rows that ``inspect`` shows, is copied.

Reading a mapped page beyond the end of its file raises SIGBUS, which ends a process. A handler puts
a page of zeros in its place and notes the file, so that the reader can refuse what it read; a disk
that fails is noticed in the same way. Faults of other memory are passed on to the handler that was
there before. The layouts are those of Linux; elsewhere no handler is installed.
"""

import ctypes
import mmap
import os
import signal
import struct
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from tokkit.engine.mirrors import fetch, is_stored
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.shards.claims import check_claims, read_footer

DAMAGE = (pa.ArrowException, OSError, ValueError, SystemError, IndexError, struct.error)


@contextmanager
def report_damage(where: str, fault: str = "damaged") -> Iterator[None]:
    """Turn an exception of ``DAMAGE`` inside the block into a ``TokkitError``."""
    try:
        yield
    except DAMAGE as error:
        reason = str(error).split("\n", 1)[0]
        raise TokkitError(f"{where}: {fault} ({reason}); recreate the folder") from error


def require_file_inside(path: Path, folder: Path) -> None:
    """Refuse what is not a regular file, which may never end, or a link out of the folder.

    Raises:
        TokkitError: also if it is missing.
    """
    if is_stored(path):
        fetch(path)
    with wrap_os_errors(path):
        path.stat()  # raises if it is missing
        if not path.is_file():
            raise TokkitError(f"{path}: is not a regular file; recreate the folder")
        if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
            raise TokkitError(
                f"{path}: is a link to a file outside the folder; replace it with a copy of the file"
            )


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


_SA_SIGINFO = 4
_ADDRESS_OFFSET = 16  # of si_addr in siginfo_t
_MAP_FIXED = 0x10
_FAILED = ctypes.c_void_p(-1).value


class _SigAction(ctypes.Structure):
    """``struct sigaction``."""

    _fields_ = (
        ("handler", ctypes.c_void_p),
        ("mask", ctypes.c_ubyte * 128),
        ("flags", ctypes.c_int),
        ("restorer", ctypes.c_void_p),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [
    *(ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
]
_libc.sigaction.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]

_ranges: dict[int, tuple[int, Path]] = {}  # by its start, the end of each mapped file
_unreadable: set[Path] = set()
_previous = _SigAction()


def _replace_page(_number: int, info: int, _context: int) -> None:
    address = ctypes.c_size_t.from_address(info + _ADDRESS_OFFSET).value
    maps = tuple(_ranges.items())
    path = next((path for start, (stop, path) in maps if start <= address < stop), None)
    if path is not None:
        _unreadable.add(path)
        page = address - address % mmap.PAGESIZE
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        if _libc.mmap(page, mmap.PAGESIZE, mmap.PROT_READ, flags, -1, 0) != _FAILED:
            return
    _libc.sigaction(signal.SIGBUS, ctypes.byref(_previous), None)  # the fault occurs again


_handler = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)(_replace_page)


def protect_maps() -> None:
    """Install the handler, also where a library has installed another one since."""
    if sys.platform != "linux":
        return
    action = _SigAction(handler=ctypes.cast(_handler, ctypes.c_void_p), flags=_SA_SIGINFO)
    current = _SigAction()
    _libc.sigaction(signal.SIGBUS, ctypes.byref(action), ctypes.byref(current))
    if current.handler != action.handler:
        ctypes.pointer(_previous)[0] = current


def has_unreadable_pages(path: Path | None = None) -> bool:
    """Return whether pages of a mapped file were missing when they were read; None is any file."""
    return bool(_unreadable) and (path is None or path in _unreadable)


def map_file(path: Path) -> pa.Buffer:
    """Map a file into memory.

    Raises:
        OSError: it cannot be opened.
    """
    pages = np.frombuffer(pa.memory_map(os.fsencode(path)).read_buffer(), np.uint8)
    start = pages.ctypes.data
    _unreadable.discard(path)
    _ranges[start] = start + len(pages), path
    weakref.finalize(pages, _ranges.pop, start).atexit = False
    protect_maps()
    return pa.py_buffer(pages)
