"""UTF-8, which was found valid before."""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import tuple_splice
from tokkit.kernels.memory import signed


@tuple_splice
def decode_character(values: NDArray[np.uint8], position: int) -> tuple[int, int]:
    """The code point that begins at a byte, and how many bytes it has."""
    byte = signed(values[position])
    if byte < 0x80:
        return byte, 1
    second = signed(values[position + 1]) & 0x3F
    if byte < 0xE0:
        return (byte & 0x1F) << 6 | second, 2
    third = signed(values[position + 2]) & 0x3F
    if byte < 0xF0:
        return (byte & 0xF) << 12 | second << 6 | third, 3
    fourth = signed(values[position + 3]) & 0x3F
    return (byte & 7) << 18 | second << 12 | third << 6 | fourth, 4
