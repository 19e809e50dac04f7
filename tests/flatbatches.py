"""Instances and flat batches of made-up tokens, of any lengths."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from tokkit.pretraining.data.batches import Batch, lay_out
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.shards.instances import Instances, Predictions


def pair_instances(
    lengths: Sequence[int],
    input_ids: npt.NDArray[Any],
    *,
    masked_positions: Sequence[Sequence[int] | npt.NDArray[Any]],
    masked_labels: npt.NDArray[Any],
    segment_lengths: npt.NDArray[Any],
    next_sentence_labels: npt.NDArray[Any],
) -> Instances:
    """Return masked pairs of segments.

    Args:
        lengths: tokens of each instance.
        input_ids: ids of all instances, in order.
        masked_positions: masked positions of each instance.
        masked_labels: labels of all instances, in order.
        segment_lengths: tokens of each instance's first segment.
        next_sentence_labels: label of each instance.
    """
    numbers = np.arange(len(lengths), dtype=np.uint64)
    return Instances(
        input_ids=input_ids.astype(np.uint16),
        offsets=np.cumsum([0, *lengths]),
        word_starts=np.zeros(0, np.uint8),
        segment_lengths=segment_lengths,
        documents=numbers,
        next_sentence_labels=next_sentence_labels,
        indices=numbers,
        predictions=Predictions(
            positions=np.array([p for row in masked_positions for p in row], np.uint16),
            labels=masked_labels.astype(np.uint16),
            offsets=np.cumsum([0, *map(len, masked_positions)]),
        ),
    )


def make_batch(lengths: Sequence[int], num_masked: int | None = None) -> Batch:
    """Return a batch of pairs that repeat one word.

    Args:
        lengths: tokens of each instance.
        num_masked: masked tokens in each; None masks 15%.
    """
    masked = [range(n * 15 // 100 if num_masked is None else num_masked) for n in lengths]
    instances = pair_instances(
        lengths,
        np.full(sum(lengths), 7),
        masked_positions=masked,
        masked_labels=np.full(sum(map(len, masked)), 8),
        segment_lengths=np.array(lengths) // 2,
        next_sentence_labels=np.zeros(len(lengths), np.int64),
    )
    return lay_out(instances, 0)


def pair_batch(instances: Instances, pad_id: int = 0) -> dict[str, Any]:
    """Return a padded batch as keyword arguments of a model of transformers."""
    labels = torch.from_numpy(instances.next_sentence_labels)
    return {**padded_batch(instances, pad_id), "next_sentence_label": labels}
