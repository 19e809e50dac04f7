"""Padded batches, for training loops of one's own: to the longest instance, rounded up to 8 tokens.

Two instances of 3 and 5 tokens, one token masked in each, make B = 2 and T = 8:

    input_ids_BT         2 9 3 0 0 0 0 0      attention_mask_BT    1 1 1 0 0 0 0 0
                         2 4 3 5 3 0 0 0                           1 1 1 1 1 0 0 0
    token_type_ids_BT    0 0 0 0 0 0 0 0      masked_positions_M   1 11
                         0 0 0 1 1 0 0 0      (row 0 column 1, row 1 column 3)
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tokkit.pretraining.data import NO_LABEL, Instances

LENGTH_MULTIPLE = 8  # matrix units want it, and it keeps the number of shapes small


@dataclass(frozen=True)
class PaddedBatch:
    """One batch; B instances of T tokens, M masked ones.

    Attributes:
        input_ids_BT: int64, padded with the id of ``[PAD]``.
        token_type_ids_BT: int64, 0 in the first segment, 1 in the second, 0 in the padding.
        attention_mask_BT: bool, false in the padding; None where nothing is padded.
        masked_positions_M: int64, ``b * T + t``, ascending.
        masked_labels_M: int64, the ids to be predicted there.
        next_sentence_labels_B: int64; ``NO_LABEL`` where there is none.
        num_tokens: without padding.
        num_pairs: that have a label.
    """

    input_ids_BT: Tensor
    token_type_ids_BT: Tensor
    attention_mask_BT: Tensor | None
    masked_positions_M: Tensor
    masked_labels_M: Tensor
    next_sentence_labels_B: Tensor
    num_tokens: int
    num_pairs: int

    @property
    def num_masked(self) -> int:
        """Predictions, M."""
        return len(self.masked_positions_M)


def pad_instances(instances: Instances, pad_id: int) -> PaddedBatch:
    """Lay ragged instances out as one batch."""
    lengths = np.diff(instances.offsets)
    num_rows, longest = len(lengths), int(lengths.max())
    width = -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
    num_tokens = int(instances.offsets[-1])
    positions = np.arange(num_tokens) - np.repeat(instances.offsets[:-1], lengths)
    cells = positions + np.repeat(np.arange(num_rows) * width, lengths)

    input_ids = np.full(num_rows * width, pad_id, np.int64)
    input_ids[cells] = instances.input_ids
    token_type_ids = np.zeros(num_rows * width, np.int64)
    token_type_ids[cells] = positions >= np.repeat(instances.segment_lengths, lengths)
    attention_mask = np.zeros(num_rows * width, np.bool_)
    attention_mask[cells] = True
    num_masked = np.diff(instances.masked_offsets)
    masked_rows = np.repeat(np.arange(num_rows) * width, num_masked)

    def tensor(values: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> Tensor:
        return torch.from_numpy(values.reshape(num_rows, width))

    return PaddedBatch(
        input_ids_BT=tensor(input_ids),
        token_type_ids_BT=tensor(token_type_ids),
        attention_mask_BT=None if num_tokens == num_rows * width else tensor(attention_mask),
        masked_positions_M=torch.from_numpy(instances.masked_positions + masked_rows),
        masked_labels_M=torch.from_numpy(instances.masked_labels.astype(np.int64)),
        next_sentence_labels_B=torch.from_numpy(instances.next_sentence_labels),
        num_tokens=num_tokens,
        num_pairs=int((instances.next_sentence_labels != NO_LABEL).sum()),
    )
