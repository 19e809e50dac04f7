"""Epochs as one endless sequence of positions, and where each of them ends."""

from dataclasses import dataclass

EVALUATION_EPOCH = (1 << 24) - 1  # the last that a stream can name; no training gets there


@dataclass(frozen=True)
class EpochPart:
    """Consecutive positions of one epoch: ``rows`` of a batch."""

    epoch: int
    start: int
    rows: slice


def split_epochs(start: int, size: int, num_instances: int) -> list[EpochPart]:
    """Cut positions ``start`` to ``start + size`` of the endless sequence where epochs end.

    Example:
        >>> split_epochs(8, 4, 10)
        [EpochPart(epoch=0, start=8, rows=slice(0, 2, None)), EpochPart(epoch=1, start=0, rows=slice(2, 4, None))]
    """
    parts = []
    row = 0
    while row < size:
        epoch, position = divmod(start + row, num_instances)
        stop = min(size, row + num_instances - position)
        parts.append(EpochPart(epoch, position, slice(row, stop)))
        row = stop
    return parts
