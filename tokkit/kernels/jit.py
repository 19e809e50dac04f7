"""The one place where Numba's flags stand, and where compiled kernels are kept.

``nogil=True`` lets threads run beside kernels. ``parallel=True`` is left out on purpose: processes
that share a cache crash on it (numba issue 4807), and tokkit is parallel by work unit.

Compiled kernels are kept on disk, in ``__pycache__`` beside their source, else in the user's cache
folder, or where ``NUMBA_CACHE_DIR`` says. Where nothing can be written they are compiled in every
process.
"""

import fcntl
import hashlib
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numba
from numba.core import event
from numba.core.caching import FunctionCache

log = logging.getLogger(__name__)

Function = TypeVar("Function", bound=Callable[..., object])

# A kernel that takes tuples of arrays counts references to each array that it takes out of one,
# with an atomic instruction each time: the encoding kernels ran at a third of their speed. The
# flag turns that off; for slices, too, an array is made, so there may be none. (Numba's
# documentation shows it under ``register_jitable``.)
_UNCOUNTED = {"_nrt": False}


def kernel(function: Function) -> Function:
    """Compile ``function`` on its first call; it takes and fills arrays and checks nothing."""
    return _compile(function)


def tuple_kernel(function: Function) -> Function:
    """Like ``kernel``, for one that takes tuples of arrays; no slices, no arrays of its own."""
    return _compile(function, **_UNCOUNTED)


def inline(function: Function) -> Function:
    """Compile a small function that kernels call, inlined where LLVM finds it worth it."""
    return _compile(function, inline="never")


def tuple_inline(function: Function) -> Function:
    """Like ``inline``, for one that takes tuples of arrays; no slices, no arrays of its own."""
    return _compile(function, inline="never", **_UNCOUNTED)


def splice(function: Function) -> Function:
    """Compile a small function that is pasted into the kernels that call it.

    ``inline`` leaves the pasting to LLVM, which does it after loops have been vectorized: too
    late for a draw in a loop. A block of Philox took 16 ns so, and takes 3.2 ns pasted (AVX2).
    """
    return _compile(function, inline="always")


def tuple_splice(function: Function) -> Function:
    """Like ``tuple_inline``, and pasted into its callers by LLVM whatever it costs.

    ``splice`` pastes before types are inferred, at every level anew: the encoding kernels took 9
    and 13 s to compile instead of 6 and 8. What runs once a chunk is a twentieth faster so, and is
    spliced; the rest is not.
    """
    return _compile(function, forceinline=True, **_UNCOUNTED)


def _compile(function: Function, **flags: Any) -> Function:
    compiled = numba.njit(nogil=True, **flags)(function)
    try:
        compiled._cache = _KernelCache(function)  # noqa: SLF001  what cache=True does, with theirs
    except RuntimeError:  # no folder can be written
        log.debug("%s: no place to keep it compiled", function.__name__)
    typed: Function = compiled
    return typed


class _KernelCache(FunctionCache):  # type: ignore[misc]  # Numba has no annotations
    """Numba's cache, safe for processes that compile at the same time, and for edited sources.

    Numba takes a kernel for unchanged if its own file is, though what it calls stands in others;
    and two processes that add to an index at the same time can make it point to the wrong code.
    """

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        self._cache_file._source_stamp = _digest_sources()  # noqa: SLF001  a part of ours

    def save_overload(self, signature: Any, data: Any) -> None:
        """Keep what was compiled, one process at a time."""
        try:
            folder = Path(self.cache_path)
            folder.mkdir(parents=True, exist_ok=True)
            with (folder / "tokkit-kernels.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                super().save_overload(signature, data)
        except OSError as error:
            log.warning("%s: compiled kernels cannot be kept: %s", self.cache_path, error.strerror)


@cache
def _digest_sources() -> str:
    """SHA-256 of all files of this folder."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class _Announcer(event.Listener):  # type: ignore[misc]  # likewise
    """Says once that kernels are being compiled, since it takes a while."""

    said = False

    def on_start(self, event: Any) -> None:
        """A function is about to be compiled, which was not found on disk."""
        folder = event.data["dispatcher"].stats.cache_path
        if folder is not None and not self.said:
            self.said = True
            log.info("compiling kernels, 10 to 30 seconds and once; they are kept in %s", folder)

    def on_end(self, event: Any) -> None:
        """It was compiled."""


event.register("numba:compile", _Announcer())
