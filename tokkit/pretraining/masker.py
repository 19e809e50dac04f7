"""Dynamic masks: drawn afresh in each epoch, and the same for whoever asks again.

It stands without torch, so that ``tokkit inspect`` can show what a model will see.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tokkit.instances.instances import Instances as Unmasked
from tokkit.instances.masks import MaskOptions, mask_instances
from tokkit.pretraining.data import Instances


def mask_gathered(
    instances: Instances, numbers: npt.NDArray[np.uint64], options: MaskOptions, epoch: int
) -> Instances:
    """Mask instances in place.

    Args:
        instances: as gathered; their ids are overwritten.
        numbers: uint64 ``[num_instances]``, the number by which each draws.
        options: how.
        epoch: by which all draw.
    """
    laid_out = Unmasked(
        ids=instances.input_ids,
        offsets=instances.offsets,
        word_starts=instances.word_starts,
        segment_lengths=instances.segment_lengths,
        indices=numbers,
    )
    masks = mask_instances(laid_out, options, epoch)
    return replace(
        instances,
        masked_positions=masks.positions,
        masked_labels=masks.labels,
        masked_offsets=masks.offsets,
    )
