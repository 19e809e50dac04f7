"""Masks that are drawn here, once and for all, and written beside the instances."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.instances.instances import Instances
from tokkit.kernels.masking import MASK_SHARE, RANDOM_SHARE, count_masked, mask_tokens
from tokkit.kernels.philox import MASK, chance_threshold, stream_of


@dataclass(frozen=True)
class MaskOptions:
    """How instances are masked.

    Attributes:
        masked_lm_prob: share of an instance's tokens that are predicted.
        max_predictions: most predictions in one instance.
        seed: of every draw.
        mask_id: the id of ``[MASK]``.
        special_ids: those of ``[CLS]`` and ``[SEP]``, which are never masked.
        replacements: the ids that a random replacement may be, of the instances' type.
    """

    masked_lm_prob: float
    max_predictions: int
    seed: np.uint64
    mask_id: int
    special_ids: tuple[int, int]
    replacements: npt.NDArray[Any]


@dataclass(frozen=True)
class Masks:
    """What is to be predicted.

    Attributes:
        positions: uint16 [num_masked], within each instance, ascending.
        labels: uint16 or uint32 [num_masked], the ids that stood there.
        offsets: int64 [num_instances + 1], into both.
    """

    positions: npt.NDArray[np.uint16]
    labels: npt.NDArray[Any]
    offsets: npt.NDArray[np.int64]


def mask_instances(instances: Instances, options: MaskOptions, number: int) -> Masks:
    """Mask instances in place.

    Args:
        instances: their ids are changed.
        options: how.
        number: of the pass over the corpus, from 0.
    """
    lengths = np.diff(instances.offsets)
    cls_id, sep_id = options.special_ids
    special = np.flatnonzero((instances.ids == cls_id) | (instances.ids == sep_id))
    special_offsets = np.searchsorted(special, instances.offsets)
    num_special = np.diff(special_offsets)
    special_positions = special - np.repeat(instances.offsets[:-1], num_special)
    num_masked = count_masked(lengths, num_special, options.masked_lm_prob, options.max_predictions)
    offsets = np.concatenate([[0], np.cumsum(num_masked)])
    positions = np.empty(offsets[-1], np.uint16)
    labels = np.empty(offsets[-1], instances.ids.dtype)
    mask_tokens(
        instances.ids,
        instances.offsets,
        special_positions.astype(np.int32),
        special_offsets,
        offsets,
        instances.indices,
        options.seed,
        stream_of(MASK, number),
        options.mask_id,
        options.replacements,
        chance_threshold(MASK_SHARE),
        chance_threshold(MASK_SHARE + RANDOM_SHARE),
        positions,
        labels,
    )
    return Masks(positions=positions, labels=labels, offsets=offsets)
