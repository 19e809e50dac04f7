"""Instances: what every objective makes, laid out one after the other."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.kernels.instances.pair_segments import INDEX_SHIFT


@dataclass(frozen=True)
class Targets:
    """What is to be predicted, where that is no mask: a ragged column of its own.

    Attributes:
        name: of the column, ``target_ids`` or ``target_positions``.
        values: of its type.
        offsets: int64 [num_instances + 1], into ``values``.
    """

    name: str
    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Instances:
    """Instances laid out one after the other.

    Attributes:
        ids: uint16 or uint32 [num_tokens].
        offsets: int64 [num_instances + 1], into ``ids``.
        word_starts: uint8, a bit a token.
        segment_lengths: int64 [num_instances], tokens up to and with the first ``[SEP]``; all
            tokens where there is one segment.
        indices: uint64 [num_instances], what each draws by: document << 24 | number in it.
        labels: int8 [num_instances], of a pair; None where instances are no pairs.
        targets: where the objective has some.
    """

    ids: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]
    word_starts: npt.NDArray[np.uint8]
    segment_lengths: npt.NDArray[np.int64]
    indices: npt.NDArray[np.uint64]
    labels: npt.NDArray[np.int8] | None = None
    targets: Targets | None = None

    def __len__(self) -> int:
        """How many there are."""
        return len(self.indices)

    @property
    def documents(self) -> npt.NDArray[np.uint64]:
        """uint64 [num_instances], the number of the document in which each begins."""
        return self.indices >> INDEX_SHIFT
