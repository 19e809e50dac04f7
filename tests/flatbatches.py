"""Flat batches of made-up tokens, of whatever lengths."""

from collections.abc import Sequence

import numpy as np

from tokkit.pretraining.data.batches import Batch, lay_out
from tokkit.pretraining.data.instance_reader import Instances


def make_batch(lengths: Sequence[int], num_masked: int | None = None) -> Batch:
    """Pairs of one word over and over.

    Args:
        lengths: of the instances.
        num_masked: in each; None masks 15%.
    """
    masked = np.array([n * 15 // 100 if num_masked is None else num_masked for n in lengths])
    offsets = np.cumsum([0, *lengths])
    instances = Instances(
        input_ids=np.full(offsets[-1], 7, np.uint16),
        offsets=offsets,
        segment_lengths=np.array(lengths) // 2,
        documents=np.zeros(len(lengths), np.uint64),
        next_sentence_labels=np.zeros(len(lengths), np.int64),
        masked_positions=np.concatenate([np.arange(number) for number in masked]),
        masked_labels=np.full(masked.sum(), 8, np.uint16),
        masked_offsets=np.cumsum([0, *masked]),
        word_starts=np.zeros(0, np.uint8),
    )
    return lay_out(instances, 0)
