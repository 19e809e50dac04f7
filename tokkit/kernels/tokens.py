"""Token ids and word starts as they come out, a word start being a bit of a 64-bit word.

    num_tokens 3     ids  7 9 4 . . .      bits  1 0 1 | 0 0 0 …
    append_starts(bits, 3, 2, 0b01)              1 0 1 1 0 | 0 …

That is Arrow's layout of booleans. What lies beyond the tokens is zero within their last 64-bit
word, and the next is written when it is reached, so nothing needs to be cleared beforehand but
the first.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import kernel, splice, tuple_splice

Bits = NDArray[np.uint64]
Ids = NDArray[np.unsignedinteger[Any]]


@splice
def append_starts(bits: Bits, num_tokens: int, starts: np.uint64) -> None:
    """Set the bits of at most 63 tokens that come after ``num_tokens`` others."""
    word = np.uint64(num_tokens >> 6)
    shift = np.uint64(num_tokens & 63)
    bits[word] |= starts << shift
    bits[word + np.uint64(1)] = (starts >> np.uint64(1)) >> (np.uint64(63) - shift)


@tuple_splice
def read_starts(bits: Bits, first: int, count: int) -> np.uint64:
    """The bits of ``count`` tokens, at most 63, from ``first`` on."""
    word = first >> 6
    shift = np.uint64(first & 63)
    both: np.uint64 = (bits[word] >> shift) | (
        (bits[word + 1] << np.uint64(1)) << (np.uint64(63) - shift)
    )
    return both & np.uint64((np.uint64(1) << np.uint64(count)) - np.uint64(1))


@tuple_splice
def drop_starts(bits: Bits, num_tokens: int) -> None:
    """Forget the bits of all tokens but ``num_tokens``."""
    word = num_tokens >> 6
    bits[word] &= (np.uint64(1) << np.uint64(num_tokens & 63)) - np.uint64(1)


@kernel
def append_tokens(
    ids: Ids, starts: NDArray[np.bool_], num_tokens: int, out_ids: Ids, out_bits: Bits
) -> None:
    """Append tokens that were made elsewhere.

    Args:
        ids: ``[n]``.
        starts: bool ``[n]``.
        num_tokens: how many there are.
        out_ids: as ``ids``, with room for ``n`` more.
        out_bits: likewise.
    """
    drop_starts(out_bits, num_tokens)
    for index in range(ids.size):
        out_ids[num_tokens + index] = ids[index]
        append_starts(out_bits, num_tokens + index, np.uint64(starts[index]))
