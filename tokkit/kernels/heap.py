"""A binary heap in any arrays, given functions that compare and swap two of its places.

The item at place ``i`` comes before those at ``2 * i + 1`` and ``2 * i + 2``, so the first of all is
at place 0. ``comes_before(heap, i, j)`` compares the items at two places, ``swap(heap, i, j)``
exchanges them. Both are compiled functions, inlined into the loops here; ``heap`` is whatever array
or tuple they work on.
"""

from collections.abc import Callable
from typing import Any

from tokkit.kernels.jit import splice


@splice
def move_up(
    comes_before: Callable[..., bool], swap: Callable[..., None], heap: Any, place: int
) -> int:
    """Move the item at ``place`` up to where it belongs; returns its new place."""
    while place > 0 and comes_before(heap, place, (place - 1) >> 1):
        swap(heap, place, (place - 1) >> 1)
        place = (place - 1) >> 1
    return place


@splice
def move_down(
    comes_before: Callable[..., bool], swap: Callable[..., None], heap: Any, place: int, size: int
) -> None:
    """Move the item at ``place``, in a heap of ``size`` items, down to where it belongs."""
    while 2 * place + 1 < size:
        child = 2 * place + 1
        if child + 1 < size and comes_before(heap, child + 1, child):
            child += 1
        if not comes_before(heap, child, place):
            break
        swap(heap, place, child)
        place = child
