"""Ragged rows: taking some of them, in order, into arrays that other rows are taken into too."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.bits import copy_bits
from tokkit.kernels.jit import kernel
from tokkit.kernels.memory import copy_values


@kernel
def take_rows(
    rows: NDArray[np.int64],
    values: NDArray[Any],
    offsets: NDArray[np.int64],
    out_start: int,
    out_values: NDArray[Any],
) -> int:
    """Copy the values of some rows, one after the other.

    Args:
        rows: int64, which rows.
        values: of all rows.
        offsets: int64 [num_rows + 1], into ``values``.
        out_start: where the first goes.
        out_values: as ``values``.

    Returns:
        Where the next would go.
    """
    for row in rows:
        start, stop = offsets[row], offsets[row + 1]
        copy_values(values, start, out_values, out_start, stop - start)
        out_start += stop - start
    return out_start


@kernel
def take_bit_rows(
    rows: NDArray[np.int64],
    bits: NDArray[np.uint8],
    first_bit: int,
    offsets: NDArray[np.int64],
    out_start: int,
    out_bits: NDArray[np.uint8],
) -> int:
    """Copy the bits of some rows, one after the other.

    Args:
        rows: int64, which rows.
        bits: of all rows, packed.
        first_bit: where the first row begins.
        offsets: int64 [num_rows + 1], counted from ``first_bit``.
        out_start: the bit where the first goes.
        out_bits: zero from there on.

    Returns:
        Where the next would go.
    """
    for row in rows:
        start, stop = offsets[row], offsets[row + 1]
        copy_bits(bits, first_bit + start, stop - start, out_start, out_bits)
        out_start += stop - start
    return out_start
