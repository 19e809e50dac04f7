"""Decorators that compile kernels, with Numba's flags, and the cache of compiled kernels on disk.

Kernels release the GIL (``nogil=True``), so threads can run next to them. They do not use
``parallel=True``: processes that share a cache crash on it (numba issue 4807), and tokkit runs
work units in parallel instead.

Compiled kernels are stored in ``__pycache__`` next to their source, else in the user's cache
folder, or where ``NUMBA_CACHE_DIR`` says. Where no folder can be written, every process compiles
them again.

Which decorator to use:

    kernel, tuple_kernel    called from Python; ``tuple_`` for those that take tuples of arrays
    inline, tuple_inline    called by kernels; LLVM decides whether to inline
    splice, tuple_splice    called by kernels; always inlined

A ``tuple_splice`` function can take other compiled functions as arguments. Numba compiles it once
for each of them, so that a loop or a heap is written once and costs no call.
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import re
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import event
from numba.core.caching import FunctionCache

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., object])

_KERNEL_IMPORT = re.compile(rb"^from (tokkit\.kernels\.[\w.]+) import", re.MULTILINE)

# A kernel that takes an array out of a tuple counts a reference to it with an atomic instruction:
# the encoding kernels ran at a third of their speed. This flag turns reference counts off. Without
# them no array can be made, and a slice is one. (Numba documents the flag under
# ``register_jitable``.)
_NO_REFERENCE_COUNTS = {"_nrt": False}


def kernel(function: Function) -> Function:
    """Compile ``function`` on its first call."""
    return _compile(function)


def tuple_kernel(function: Function) -> Function:
    """Compile a kernel that takes tuples of arrays; it can make neither slices nor arrays."""
    return _compile(function, **_NO_REFERENCE_COUNTS)


def inline(function: Function) -> Function:
    """Compile a function that kernels call; LLVM inlines it where it pays."""
    return _compile(function, inline="never")


def tuple_inline(function: Function) -> Function:
    """Compile like ``inline``, with the restrictions of ``tuple_kernel``."""
    return _compile(function, inline="never", **_NO_REFERENCE_COUNTS)


def splice(function: Function) -> Function:
    """Compile a small function whose body replaces each call, before types are inferred.

    With ``inline`` LLVM inlines after it has vectorized loops, which is too late for a random draw
    in a loop: a block of Philox took 16 ns, and takes 3.2 ns this way (AVX2).
    """
    return _compile(function, inline="always")


def tuple_splice(function: Function) -> Function:
    """Compile like ``tuple_inline``, and make LLVM inline every call.

    ``splice`` infers the types of a body again at every level of calls: the encoding kernels took
    9 and 13 s to compile instead of 6 and 8. Code that runs once per chunk of text became a
    twentieth faster by inlining.
    """
    return _compile(function, forceinline=True, **_NO_REFERENCE_COUNTS)


def _compile(function: Function, **flags: Any) -> Function:
    compiled = numba.njit(nogil=True, **flags)(function)
    try:
        compiled._cache = _KernelCache(function)  # noqa: SLF001  what cache=True does, with theirs
    except RuntimeError:  # no folder can be written
        log.debug("%s: no folder to cache the compiled kernel in", function.__name__)
    typed: Function = compiled
    return typed


class _KernelCache(FunctionCache):  # type: ignore[misc]  # Numba has no annotations
    """Numba's cache, made safe for concurrent processes and for edited sources.

    Numba takes a kernel as unchanged if its own file is, though the functions that it calls are in
    other files. Two processes that write an index at the same time can make it point to the wrong
    code. And processes that start together would each compile the same kernels: a process that
    finds a kernel missing locks it until it has stored it, and others wait for that.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = _digest_sources(function.__module__)  # noqa: SLF001  ours
        self._number = zlib.crc32(self._cache_file._index_name.encode())  # noqa: SLF001  same

    def load_overload(self, signature: Any, target_context: Any) -> Any:
        """Load a compiled kernel; return None, and keep others from compiling it, without one."""
        loaded = super().load_overload(signature, target_context)
        if loaded is None and self._lock(fcntl.LOCK_EX):
            loaded = super().load_overload(signature, target_context)
            if loaded is not None:
                self._lock(fcntl.LOCK_UN)
        return loaded

    def save_overload(self, signature: Any, data: Any) -> None:
        """Store a compiled kernel."""
        try:
            super().save_overload(signature, data)
        except OSError as error:
            log.warning("%s: cannot store compiled kernels: %s", self.cache_path, error.strerror)
        self._lock(fcntl.LOCK_UN)

    def _lock(self, operation: int) -> bool:
        """Lock or unlock this function's byte of a file; return False where that is impossible."""
        try:
            fcntl.lockf(_open_lock(self.cache_path), operation, 1, self._number)
        except OSError:
            return False
        return True


@cache
def _open_lock(folder: str) -> int:
    """Open the lock file of a folder for the life of the process: to close it would unlock all."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return os.open(Path(folder) / "tokkit-kernels.lock", os.O_RDWR | os.O_CREAT, 0o666)


@cache
def _digest_sources(module: str) -> str:
    """Return the SHA-256 of a module and of all modules of kernels that it imports."""
    spec = importlib.util.find_spec(module)
    assert spec is not None  # noqa: S101  it is being imported
    assert spec.origin is not None  # noqa: S101  it has a source
    source = Path(spec.origin).read_bytes()
    digest = hashlib.sha256(source)
    for name in _KERNEL_IMPORT.findall(source):
        digest.update(_digest_sources(name.decode()).encode())
    return digest.hexdigest()


class _CompilationLogger(event.Listener):  # type: ignore[misc]  # Numba has no annotations
    """Logs once per process that kernels are being compiled, since it takes a while."""

    logged = False

    def on_start(self, event: Any) -> None:
        """Log that a kernel that was not found on disk is about to be compiled."""
        folder = event.data["dispatcher"].stats.cache_path
        if folder is not None and not self.logged:
            self.logged = True
            log.info(
                "compiling kernels, once, which takes 10 to 30 seconds; storing them in %s", folder
            )

    def on_end(self, event: Any) -> None:
        """Do nothing."""


event.register("numba:compile", _CompilationLogger())
