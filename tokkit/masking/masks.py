"""Masking instances: once, when ``build`` makes them, or by the loader in each epoch.

Masks are a function of seed, epoch and the instance's index, so the same ones are found again by
``tokkit inspect``, which shows what a model sees, without torch.
"""

from dataclasses import dataclass, replace
from typing import Self

import numpy as np

from tokkit.kernels.instances.mask_tokens import (
    Replacement,
    count_masked,
    find_special,
    mask_tokens,
    new_mask_memory,
    replacement_ids,
)
from tokkit.kernels.instances.mask_words import length_thresholds, mask_words, new_word_memory
from tokkit.kernels.philox import MASK, MASK_UNIT, chance_threshold, stream_of
from tokkit.masking.mask_config import MaskConfig
from tokkit.shards.instances import Array, Instances, Predictions
from tokkit.shards.schema import Header
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class MaskOptions:
    """How instances are masked, in terms of ids.

    Attributes:
        masked_lm_prob: share of an instance's tokens that are predicted.
        max_predictions: most predictions in one instance.
        mask_id: id of ``[MASK]``.
        unmaskable_ids: ids of ``[CLS]`` and ``[SEP]``, which are never masked.
        replacements: ids that random tokens are drawn from, of the instances' type.
        unit: what is masked together; see ``MaskConfig``.
        draw_per_unit: draw what replaces the tokens of a unit once for all of them.
        ratios: shares of the masked tokens that become ``[MASK]``, become random tokens, and stay.
    """

    masked_lm_prob: float
    max_predictions: int
    mask_id: int
    unmaskable_ids: tuple[int, ...]
    replacements: Array
    unit: str = MaskConfig.mask_unit
    draw_per_unit: bool = False
    ratios: tuple[float, ...] = MaskConfig.mask_ratios

    @classmethod
    def make(cls, config: MaskConfig, tokenizer: Tokenizer, header: Header) -> Self:
        """Resolve the options of a config.

        Args:
            config: the options.
            tokenizer: which made the ids of the instances.
            header: of the instances.
        """
        options = config.mask_options(header.max_seq_length)
        excluded = tokenizer.hole_ids
        if config.random_tokens != "all":
            excluded = (*tokenizer.all_special_ids, *tokenizer.unused_ids)
        return cls(
            unit=config.mask_unit,
            draw_per_unit=config.mask_draw == "word",
            masked_lm_prob=config.masked_lm_prob,
            max_predictions=options["max_predictions_per_seq"],
            ratios=config.mask_ratios,
            mask_id=tokenizer.special_ids["mask"],
            unmaskable_ids=(tokenizer.special_ids["cls"], tokenizer.special_ids["sep"]),
            replacements=replacement_ids(tokenizer.vocab_size, excluded, header.id_dtype),
        )


def mask_instances(
    instances: Instances, options: MaskOptions, *, seed: int | np.uint64, epoch: int
) -> Instances:
    """Mask instances.

    Args:
        instances: their ids are overwritten. ``word_starts`` is read where the unit is not
            ``token``.
        options: which tokens are masked, and by what.
        seed: random seed.
        epoch: number of the epoch, or of the pass of ``build`` over the corpus, from 0.

    Returns:
        The instances with the same ids, now masked, and their masks.
    """
    ids, offsets = instances.input_ids, instances.offsets
    mask_share, random_share, _ = options.ratios
    thresholds = chance_threshold(mask_share), chance_threshold(mask_share + random_share)
    replaced_by = Replacement(options.mask_id, *thresholds), options.replacements
    special = np.empty(len(ids), np.int32), np.empty(len(offsets), np.int64)
    find_special(ids, offsets, np.array(options.unmaskable_ids, np.int64), *special)
    num_masked = count_masked(
        np.diff(offsets), np.diff(special[1]), options.masked_lm_prob, options.max_predictions
    )
    masked_offsets = np.concatenate([[0], np.cumsum(num_masked)])
    positions = np.empty(masked_offsets[-1], np.uint16)
    labels = np.empty(masked_offsets[-1], ids.dtype)
    draw = instances.indices, np.uint64(seed)
    stream = stream_of(MASK, epoch)
    memory = new_mask_memory(offsets, num_masked)
    if options.unit == "token":
        mask_tokens(
            ids,
            offsets,
            *special,
            masked_offsets,
            *draw,
            stream,
            *replaced_by,
            memory,
            positions,
            labels,
        )
    else:
        mask_words(
            ids,
            offsets,
            instances.word_starts,
            *special,
            num_masked,
            *draw,
            stream_of(MASK_UNIT, epoch),
            stream,
            *replaced_by,
            length_thresholds(options.unit),
            options.draw_per_unit,
            memory,
            new_word_memory(offsets),
            masked_offsets,
            positions,
            labels,
        )
        # Whole words may fill less than what was allowed; the kernel sets the offsets again.
        positions, labels = positions[: masked_offsets[-1]], labels[: masked_offsets[-1]]
    return replace(instances, predictions=Predictions(positions, labels, masked_offsets))
