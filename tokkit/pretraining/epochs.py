"""Which instances stand at which positions: epochs and mixtures, as functions of the position.

The epochs of a folder, each in its own order, are one endless sequence. Where folders are mixed,
their sequences are dealt out by weight, evenly rather than by draws: of the first p positions the
first folder gets p * weight, rounded. With weights 0.7 and 0.3, and 4 instances in the second:

    position        0  1  2  3  4  5  6  7  8  9  10 11 12 13 14 15
    first folder    0     1  2     3  4  5     6  7     8  9     10
    second folder      0        1           2        3        0'       (0' in epoch 1)

The other positions are dealt out to the remaining folders likewise. So how far a folder is at any
position is a product, no count needs to be kept, and shares are exact to an instance a folder.
(Draws would give each position a folder as simply, but not say how many came before it.)
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

EVALUATION_EPOCH = (1 << 24) - 1  # the last that a stream can name; no training gets there

_ONE = 1 << 32  # weights in fixed point


@dataclass(frozen=True)
class EpochPart:
    """Instances of one epoch of one folder.

    Attributes:
        folder: its number.
        epoch: of that folder.
        start: the first instance's position in the epoch's order; the others follow it.
        rows: int64, ascending: where in the batch they stand.
    """

    folder: int
    epoch: int
    start: int
    rows: npt.NDArray[np.int64]

    def stream_number(self, num_folders: int) -> int:
        """What stands for the epoch in draws, so that no two folders share any."""
        return self.epoch * num_folders + self.folder


def deal_out(
    start: int, size: int, weights: tuple[float, ...]
) -> list[tuple[int, npt.NDArray[np.int64]]]:
    """Say which positions from ``start`` on are whose.

    Args:
        start: the first position.
        size: how many.
        weights: of the folders; none stands for one folder.

    Returns:
        For each folder how many positions it has before ``start``, and which of the ``size`` rows
        are its own.
    """
    dealt = []
    rows = np.arange(size)
    for number in range(len(weights) - 1):
        share = round(weights[number] / sum(weights[number:]) * _ONE)
        reached = start * share + _ONE // 2
        steps = np.uint64(reached % _ONE) + np.arange(len(rows) + 1, dtype=np.uint64) * np.uint64(
            share
        )
        is_own = np.diff(steps >> np.uint64(32)) == 1
        dealt.append((reached // _ONE, rows[is_own]))
        start -= reached // _ONE
        rows = rows[~is_own]
    return [*dealt, (start, rows)]


def split_epochs(
    start: int, size: int, num_instances: tuple[int, ...], weights: tuple[float, ...] = ()
) -> list[EpochPart]:
    """Cut positions ``start`` to ``start + size`` by folder, and where epochs end.

    Args:
        start: the first position.
        size: how many.
        num_instances: of each folder.
        weights: likewise, where there are several.

    Example:
        >>> [(part.epoch, part.start, part.rows.tolist()) for part in split_epochs(8, 4, (10,))]
        [(0, 8, [0, 1]), (1, 0, [2, 3])]
    """
    parts = []
    for folder, (before, rows) in enumerate(deal_out(start, size, weights)):
        done = 0
        while done < len(rows):
            epoch, position = divmod(before + done, num_instances[folder])
            stop = min(len(rows), done + num_instances[folder] - position)
            parts.append(EpochPart(folder, epoch, position, rows[done:stop]))
            done = stop
    return parts
