"""Batches as the model takes them: sequences one after the other, and nothing between them.

Two instances of 3 and 5 tokens, one token masked in each, make N = 8 and S = 2:

    input_ids_N            2 9 3 2 4 3 5 3      cu_seqlens             0 3 8
    token_type_ids_N       0 0 0 0 0 0 1 1      predicted_positions_M  1 6
    position_ids_N         0 1 2 0 1 2 3 4
    row_ids_N              0 0 0 1 1 1 1 1

A compiled model wants few shapes. So sizes may be rounded up: tokens by sequences of padding after
the others, sequences by empty ones, predictions by some that have no label. None of them has a part
in the loss or in a gradient.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from tokkit.pretraining.data import NO_LABEL, Instances
from tokkit.pretraining.model import Inputs

LENGTH_MULTIPLE = 8  # of the padded block that attention may need

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rounding:
    """To multiples of what the sizes of batches are rounded up.

    Attributes:
        tokens: N.
        sequences: S.
        predictions: M.
        max_seqlen: what all batches give for it; None goes by the longest sequence of each.
    """

    tokens: int = 1
    sequences: int = 1
    predictions: int = 1
    max_seqlen: int | None = None


EXACT = Rounding()


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        inputs: of the model.
        num_tokens: without padding.
        num_predicted: tokens that have a label.
        num_pairs: that have a label.
    """

    inputs: Inputs
    num_tokens: int
    num_predicted: int
    num_pairs: int

    def to(self, device: torch.device) -> Self:
        """The batch on another device; copies from pinned memory do not wait."""
        return replace(self, inputs=Inputs(*(_move(part, device) for part in self.inputs)))


def _move(part: Any, device: torch.device) -> Any:
    if not isinstance(part, torch.Tensor):
        return part
    return part.to(device, non_blocking=True)


def lay_out(
    instances: Instances, pad_id: int, rounding: Rounding = EXACT, *, causal: bool = False
) -> Batch:
    """Lay ragged instances out as one batch.

    Args:
        instances: a few.
        pad_id: the id of ``[PAD]``, or any other where there is none.
        rounding: of the sizes.
        causal: each token but the first of its instance is to be predicted, from those before it.
    """
    lengths = np.diff(instances.offsets)
    longest = rounding.max_seqlen or _round_up(int(lengths.max()), LENGTH_MULTIPLE)
    num_tokens = int(instances.offsets[-1])
    padding = _round_up(num_tokens, rounding.tokens) - num_tokens
    filled = np.concatenate([lengths, _cut(padding, longest)])
    num_empty = _round_up(len(filled), rounding.sequences) - len(filled)
    all_lengths = np.concatenate([filled, np.zeros(num_empty, np.int64)])
    starts = np.concatenate([[0], np.cumsum(all_lengths)])
    row_ids = np.repeat(np.arange(len(all_lengths)), all_lengths)
    position_ids = np.arange(starts[-1]) - starts[row_ids]
    segment_lengths = np.zeros(len(all_lengths), np.int64)
    segment_lengths[: len(lengths)] = instances.segment_lengths
    token_type_ids = position_ids >= segment_lengths[row_ids]
    input_ids = np.full(starts[-1], pad_id, np.int64)
    input_ids[:num_tokens] = instances.input_ids
    pair_labels = np.full(len(all_lengths), NO_LABEL, np.int64)
    pair_labels[: len(lengths)] = instances.next_sentence_labels
    positions, labels = _find_predictions(instances, causal=causal)
    spare = _round_up(len(positions), rounding.predictions) - len(positions)
    return Batch(
        inputs=Inputs(
            input_ids_N=torch.from_numpy(input_ids),
            token_type_ids_N=torch.from_numpy(token_type_ids.astype(np.int64)),
            position_ids_N=torch.from_numpy(position_ids),
            row_ids_N=torch.from_numpy(row_ids),
            cu_seqlens=torch.from_numpy(starts.astype(np.int32)),
            predicted_positions_M=torch.from_numpy(np.pad(positions, (0, spare))),
            labels_M=torch.from_numpy(np.pad(labels, (0, spare), constant_values=NO_LABEL)),
            pair_labels_S=torch.from_numpy(pair_labels),
            max_seqlen=longest,
        ),
        num_tokens=num_tokens,
        num_predicted=len(positions),
        num_pairs=int((instances.next_sentence_labels != NO_LABEL).sum()),
    )


def _find_predictions(instances: Instances, *, causal: bool) -> tuple[Int64, Int64]:
    """Where in the batch something is predicted, and what."""
    if causal:
        is_last = np.zeros(len(instances.input_ids), np.bool_)
        is_last[instances.offsets[1:] - 1] = True
        positions = np.flatnonzero(~is_last)
        return positions, instances.input_ids[positions + 1].astype(np.int64)
    rows = np.repeat(instances.offsets[:-1], np.diff(instances.masked_offsets))
    return rows + instances.masked_positions, instances.masked_labels.astype(np.int64)


def _cut(length: int, longest: int) -> Int64:
    """Lengths of at most ``longest`` that add up."""
    return np.diff(np.append(np.arange(0, length, longest), length))


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple
