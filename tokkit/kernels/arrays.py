"""Type aliases for the arrays that kernels take."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Bytes = NDArray[np.uint8]
Float64 = NDArray[np.float64]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Records = NDArray[np.void]
UInt16 = NDArray[np.uint16]
UInt32 = NDArray[np.uint32]
UInt64 = NDArray[np.uint64]

# Token ids: uint16 where the vocabulary has at most 65,536 tokens, else uint32.
Ids = NDArray[np.unsignedinteger[Any]]
# Booleans packed eight to a byte, lowest bit first, as in Arrow.
PackedBits = Bytes

Integer = int | np.int64  # the same type inside a kernel

# An instance's index, by which it draws, is document << 24 | its number in the document.
INDEX_SHIFT = np.uint64(24)
