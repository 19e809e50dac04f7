"""The one place where Numba's flags stand.

``cache=True`` keeps compiled kernels on disk, ``nogil=True`` lets threads run beside them.
``parallel=True`` is left out on purpose: processes that share a cache crash on it (numba issue
4807), and tokkit is parallel by work unit.
"""

from collections.abc import Callable
from typing import TypeVar

import numba

Function = TypeVar("Function", bound=Callable[..., object])


def kernel(function: Function) -> Function:
    """Compile ``function`` on its first call; it takes and fills arrays and checks nothing."""
    compiled: Function = numba.njit(cache=True, nogil=True)(function)
    return compiled


def inline(function: Function) -> Function:
    """Compile a small function that kernels call, inlined where LLVM finds it worth it."""
    compiled: Function = numba.njit(cache=True, nogil=True, inline="never")(function)
    return compiled


def splice(function: Function) -> Function:
    """Compile a small function that is pasted into the kernels that call it.

    ``inline`` leaves the pasting to LLVM, which does it after loops have been vectorized: too
    late for a draw in a loop. A block of Philox took 16 ns so, and takes 3.2 ns pasted (AVX2).
    """
    compiled: Function = numba.njit(cache=True, nogil=True, inline="always")(function)
    return compiled
