"""Kernels that are compiled: stored on disk, loaded without Numba, and called.

A kernel is stored as a file of its object code for each combination of argument types: in
``__pycache__`` next to this module, else in the user's cache folder, or where ``NUMBA_CACHE_DIR``
says. Where no folder can be written, every process compiles kernels again. LLVM links the code into
the process in 1 ms; Numba's own cache, which needs Numba and its types, takes 40 ms a kernel.

A file is used as long as the sources of the kernel, Numba and the processor are the same: these are
part of its name. The first process that misses a kernel locks it until it is stored, and others
wait for that.

The function in the code follows Numba's calling convention: it gets the address for its result,
that of an exception, and the arguments, of which arrays and tuples are split into numbers:

    array    address, size, and of two dimensions the number of columns
    tuple    the numbers of its items, one after the other

and returns 0, unless there is an exception.
"""

import ctypes
import fcntl
import hashlib
import importlib.util
import json
import logging
import mmap
import os
import re
import shutil
import sys
import tempfile
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import llvmlite.binding as llvm
import numpy as np

log = logging.getLogger(__name__)

_KERNEL_IMPORT = re.compile(rb"^\s*from (tokkit\.kernels\.[\w.]+) import", re.MULTILINE)
_SUFFIX = ".kernel"
_LINK_BYTES = 16 << 20  # address space that must be there for LLVM to link a kernel
# By their codes, which NumPy has, too.
_C_TYPES: dict[str, Any] = {
    kind._type_: kind
    for kind in (
        *(ctypes.c_bool, ctypes.c_byte, ctypes.c_short, ctypes.c_int, ctypes.c_long),
        *(ctypes.c_ubyte, ctypes.c_ushort, ctypes.c_uint, ctypes.c_ulong),
        *(ctypes.c_longlong, ctypes.c_ulonglong, ctypes.c_float, ctypes.c_double),
    )
}
_DIMENSIONS = (1, 2)
# Where NumPy's C structure of an array has the address of its data, as its headers say. Python's way
# to the address, ``ctypes.data``, takes ten times as long.
_DATA_OFFSET = object.__basicsize__

Types = tuple[Any, ...]


def read_arguments(arguments: tuple[Any, ...]) -> tuple[Types, list[int | float]]:
    """Return the types of arguments, and the numbers to call a kernel with.

    Args:
        arguments: arrays, numbers, booleans and tuples of these.

    Raises:
        ValueError: if an array is not contiguous, or has not one or two dimensions.
    """
    types: list[Any] = []
    numbers: list[int | float] = []
    for argument in arguments:
        _read_argument(argument, types, numbers)
    return tuple(types), numbers


def _read_argument(argument: Any, types: list[Any], numbers: list[int | float]) -> None:
    if isinstance(argument, np.ndarray):
        if argument.ndim not in _DIMENSIONS or not argument.flags.c_contiguous:
            raise ValueError(f"no array for a kernel: {argument.shape}, {argument.strides}")
        types.append((argument.dtype, argument.ndim))
        address = ctypes.c_void_p.from_address(id(argument) + _DATA_OFFSET).value or 0
        numbers += (address, argument.size, *argument.shape[1:])
    elif isinstance(argument, tuple):
        types.append((type(argument), len(argument)))
        for item in argument:
            _read_argument(item, types, numbers)
    elif isinstance(argument, np.generic):
        types.append(type(argument))
        numbers.append(argument.item())
    else:
        is_large = isinstance(argument, int) and argument >> 63 > 0
        types.append(np.uint64 if is_large else type(argument))
        numbers.append(argument)


def _c_types(types: Types) -> Iterator[Any]:
    """Yield the C types of the numbers that stand for arguments of these types."""
    for kind in types:
        if isinstance(kind, type):
            yield _C_TYPES[np.dtype(kind).char]
        elif isinstance(kind[0], np.dtype):
            yield from [ctypes.c_int64] * (1 + kind[1])


@dataclass(frozen=True)
class KernelHeader:
    """What a file says about its code.

    Attributes:
        symbol: name of the function.
        returns: NumPy's codes of the types that it returns.
        returns_tuple: whether it returns a tuple of these.
        seconds: how long it took to compile, with Numba loaded.
    """

    symbol: str
    returns: str
    returns_tuple: bool
    seconds: float


def _check_memory() -> None:
    """Check that there is address space for a kernel: without it, LLVM ends the process by a signal.

    Raises:
        MemoryError: if there is none.
    """
    try:
        mmap.mmap(-1, _LINK_BYTES).close()
    except OSError as error:
        raise MemoryError from error


class CompiledKernel:
    """A kernel that is loaded into this process.

    Args:
        header: describes the code.
        code: an object file.
        types: from ``read_arguments``.
    """

    def __init__(self, header: KernelHeader, code: bytes, types: Types) -> None:
        self._header = header
        builder = llvm.JITLibraryBuilder().add_object_img(code).add_current_process()
        builder.export_symbol(header.symbol)
        _check_memory()
        self._library = builder.link(_linker(), f"{header.symbol}-{id(self)}")
        names = [f"part{number}" for number in range(len(header.returns))]

        class Result(ctypes.Structure):
            _fields_ = [
                (name, _C_TYPES[code]) for name, code in zip(names, header.returns, strict=True)
            ]

        self._result, self._names = Result, names
        make = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p, *_c_types(types))
        self._function = make(self._library[header.symbol])

    def __call__(self, numbers: list[int | float]) -> Any:
        """Call it with the numbers of ``read_arguments``, without the GIL."""
        result, error = self._result(), ctypes.c_void_p()
        if status := self._function(ctypes.addressof(result), ctypes.addressof(error), *numbers):
            raise RuntimeError(f"{self._header.symbol}: exception {status} in a kernel")
        parts = tuple(getattr(result, name) for name in self._names)
        if self._header.returns_tuple:
            return parts
        return parts[0] if parts else None


@cache
def _linker() -> Any:
    llvm.initialize_native_target()
    llvm.initialize_native_asmprinter()
    return llvm.create_lljit_compiler()


@dataclass(frozen=True)
class KernelFile:
    """The file of a kernel for some argument types: a line of JSON, and object code.

    Attributes:
        name: its name.
        types: from ``read_arguments``.
    """

    name: str
    types: Types

    @classmethod
    def of_function(cls, function: Callable[..., Any], types: Types) -> Self:
        """Return the file of a function for arguments of these types."""
        kernel = f"{function.__module__.removeprefix('tokkit.kernels.')}.{function.__name__}"
        version = _digest_source(function.__code__.co_filename) + _read_numba_version()
        variant = repr((_describe_compiler(), types)).encode()
        return cls(f"{kernel}-{_shorten(version)}-{_shorten(variant)}{_SUFFIX}", types)

    @contextmanager
    def locked_if_missing(self) -> Iterator[CompiledKernel | None]:
        """Load the kernel, or keep other processes from compiling it inside the block."""
        kernel = self._load()
        lock = _open_lock() if kernel is None else None
        if lock is None:
            yield kernel
            return
        number = zlib.crc32(self.name.encode())  # a byte of the lock file for each kernel
        fcntl.lockf(lock, fcntl.LOCK_EX, 1, number)
        try:
            yield self._load()
        finally:
            fcntl.lockf(lock, fcntl.LOCK_UN, 1, number)

    def _load(self) -> CompiledKernel | None:
        """Load the kernel from disk; None if there is no file, or a damaged one."""
        for folder in _list_folders():
            try:
                head, _, code = (folder / self.name).read_bytes().partition(b"\n")
                data = json.loads(head)
                if data.pop("checksum") == zlib.crc32(code):
                    return CompiledKernel(KernelHeader(**data), code, self.types)
            except (OSError, ValueError):
                continue
        return None

    def write(self, header: KernelHeader, code: bytes) -> None:
        """Store a compiled kernel, in place of those of other sources."""
        if (folder := find_folder()) is None:
            return
        head = json.dumps({**asdict(header), "checksum": zlib.crc32(code)})
        path = folder / self.name
        temporary = path.with_suffix(f".{os.getpid()}-{threading.get_native_id()}.tmp")
        kernel, version, _ = self.name.rsplit("-", 2)
        try:
            temporary.write_bytes(head.encode() + b"\n" + code)
            temporary.replace(path)
            for other in folder.glob(f"{kernel}-*{_SUFFIX}"):
                if not other.name.startswith(f"{kernel}-{version}-"):
                    other.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s: cannot store compiled kernels: %s", folder, error.strerror)


def find_folder() -> Path | None:
    """Return the first folder for compiled kernels that can be written; None if none can."""
    for folder in _list_folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK | os.X_OK):
            return folder
    return None


@cache
def _list_folders() -> tuple[Path, ...]:
    """Return the folders in which compiled kernels may be."""
    package = Path(__file__).parent
    name = f"tokkit-{_shorten(os.fsencode(package))}"
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return (Path(chosen) / name,)
    caches = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return package / "__pycache__", Path(os.environ.get("XDG_CACHE_HOME") or caches) / name


def keep_kernels_on_machine() -> None:
    """Store kernels in a folder of this machine from now on, unless ``NUMBA_CACHE_DIR`` is set.

    The package may be on a file system of a whole cluster, where locks are slow or missing. Kernels
    that are stored with it are copied. A folder of another user is not trusted.
    """
    folder = Path(tempfile.gettempdir()) / f"tokkit-kernels-{os.getuid()}"
    if "NUMBA_CACHE_DIR" in os.environ:
        return
    stored = [path for other in _list_folders() for path in other.glob(f"*{_SUFFIX}")]
    with suppress(OSError):
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            return
        os.environ["NUMBA_CACHE_DIR"] = str(folder)
        _list_folders.cache_clear()
        if (own := find_folder()) is None:
            return
        for path in stored:
            if not (own / path.name).exists():
                draft = own / f"{path.name}.{os.getpid()}.tmp"
                shutil.copyfile(path, draft)
                draft.rename(own / path.name)


@cache
def _open_lock() -> int | None:
    """Open the lock file for the life of the process: to close it would unlock all kernels."""
    if (folder := find_folder()) is None:
        return None
    try:
        return os.open(folder / "tokkit-kernels.lock", os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        return None


@cache
def _digest_source(path: str) -> bytes:
    """Return the SHA-256 of a module and of all modules of kernels that it imports."""
    source = Path(path).read_bytes()
    digest = hashlib.sha256(source)
    for name in _KERNEL_IMPORT.findall(source):
        spec = importlib.util.find_spec(name.decode())
        assert spec is not None  # noqa: S101  the module has imported it
        assert spec.origin is not None  # noqa: S101  it has a source
        digest.update(_digest_source(spec.origin))
    return digest.digest()


@cache
def _read_numba_version() -> bytes:
    """Return what changes with Numba's version, without importing it."""
    spec = importlib.util.find_spec("numba")
    assert spec is not None  # noqa: S101  it is a dependency
    assert spec.origin is not None  # noqa: S101  it is a package
    return Path(spec.origin).with_name("_version.py").read_bytes()


@cache
def _describe_compiler() -> tuple[Any, ...]:
    """Return the processor that code is compiled for, and the settings of Numba."""
    settings = [item for item in sorted(os.environ.items()) if item[0].startswith("NUMBA_")]
    processor = llvm.get_host_cpu_name(), llvm.get_host_cpu_features().flatten()
    return *processor, *(item for item in settings if item[0] != "NUMBA_CACHE_DIR")


def _shorten(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]
