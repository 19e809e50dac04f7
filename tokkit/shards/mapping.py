"""Memory-mapped files that may be cut while they are read.

Reading a mapped page beyond the end of its file raises SIGBUS, which ends a process. A handler puts
a page of zeros in its place and notes the file, so that the reader can refuse what it read; a disk
that fails is noticed in the same way. Faults of other memory are passed on to the handler that was
there before. The layouts are those of Linux; elsewhere no handler is installed.
"""

import ctypes
import mmap
import os
import signal
import sys
import weakref
from pathlib import Path

import numpy as np
import pyarrow as pa

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
