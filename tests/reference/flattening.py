"""Flatten a batch, token by token."""

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Row:
    """An instance; ``masked`` are positions and labels."""

    ids: Sequence[int]
    segment_length: int
    pair_label: int
    masked: Sequence[tuple[int, int]]


@dataclass
class Flat:
    """A batch, in the order of the kernel's outputs."""

    ids: list[int] = field(default_factory=list)
    types: list[int] = field(default_factory=list)
    positions: list[int] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    cu_seqlens: list[int] = field(default_factory=lambda: [0])
    predicted: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    pair_labels: list[int] = field(default_factory=list)


def flatten(
    rows: Sequence[Row],
    *,
    num_tokens: int,
    num_sequences: int,
    num_predictions: int,
    longest: int,
    pad_id: int,
    causal: bool,
) -> Flat:
    """Flatten rows into a batch of given sizes."""
    flat = Flat()
    for row in rows:
        start = len(flat.ids)
        masked = row.masked
        if causal:
            masked = [(place, row.ids[place + 1]) for place in range(len(row.ids) - 1)]
        for place, label in masked:
            flat.predicted.append(start + place)
            flat.labels.append(label)
        _append(flat, row.ids, row.segment_length, row.pair_label)
    while len(flat.pair_labels) < num_sequences:
        length = min(longest, num_tokens - len(flat.ids))
        _append(flat, [pad_id] * length, 0, -100)
    while len(flat.labels) < num_predictions:
        flat.predicted.append(0)
        flat.labels.append(-100)
    return flat


def _append(flat: Flat, ids: Sequence[int], segment_length: int, pair_label: int) -> None:
    row = len(flat.pair_labels)
    for place, token in enumerate(ids):
        flat.ids.append(token)
        flat.types.append(int(place >= segment_length))
        flat.positions.append(place)
        flat.rows.append(row)
    flat.cu_seqlens.append(len(flat.ids))
    flat.pair_labels.append(pair_label)
