"""Drawing documents by their names, so that the draw does not depend on how work is cut.

A name is hashed (FNV-1a, then the finalizer of MurmurHash3) from behind its last slash on: a
corpus may move to another folder. A document is drawn if its hash is below a threshold.
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import kernel
from tokkit.kernels.memory import Bytes

_BASIS = np.uint64(0xCBF2_9CE4_8422_2325)
_PRIME = np.uint64(0x0000_0100_0000_01B3)
_MIX_1 = np.uint64(0xFF51_AFD7_ED55_8CCD)
_MIX_2 = np.uint64(0xC4CE_B9FE_1A85_EC53)
_SHIFT = np.uint64(33)
_SLASH = 0x2F


@kernel
def draw_names(
    values: Bytes, offsets: NDArray[np.int32], threshold: np.uint64, out_drawn: NDArray[np.bool_]
) -> None:
    """Draw names whose hash is below a threshold.

    Args:
        values: uint8, the names.
        offsets: int32 ``[num_names + 1]``, into ``values``.
        threshold: 2^64 times the share that is drawn.
        out_drawn: bool ``[num_names]``.
    """
    for name in range(out_drawn.size):
        mixed = _BASIS
        for index in range(offsets[name], offsets[name + 1]):
            mixed = (mixed ^ np.uint64(values[index])) * _PRIME
            if values[index] == _SLASH:
                mixed = _BASIS
        mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX_1
        mixed = (mixed ^ (mixed >> _SHIFT)) * _MIX_2
        out_drawn[name] = (mixed ^ (mixed >> _SHIFT)) < threshold
