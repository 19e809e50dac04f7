"""Dynamic masks: drawn afresh in each epoch, and the same for whoever asks again.

It stands without torch, so that ``tokkit inspect`` can show what a model will see.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from tokkit.kernels.masking import (
    MASK_SHARE,
    RANDOM_SHARE,
    count_masked,
    default_max_predictions,
    mask_tokens,
    replacement_ids,
)
from tokkit.kernels.philox import MASK, chance_threshold, stream_of
from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.data import Instances
from tokkit.pretraining.epochs import EpochPart
from tokkit.shards.reader import ShardFolder
from tokkit.vocab.tokenizer import Tokenizer


class Masker:
    """Masks instances afresh in each epoch, keyed by seed, epoch and the instance's number.

    Args:
        folder: of the instances, where ``build`` noted whether random tokens are drawn from the
            ``vocabulary`` less its control and unused entries, or from ``all`` of it.
        tokenizer: that made their ids.
        config: for the share of tokens and the cap.
    """

    def __init__(self, folder: ShardFolder, tokenizer: Tokenizer, config: PretrainConfig) -> None:
        self._seed = np.uint64(config.seed)
        self._probability = config.masked_lm_prob
        self._max_predictions = config.max_predictions_per_seq or default_max_predictions(
            folder.header.max_seq_length, config.masked_lm_prob
        )
        self._mask_id = tokenizer.special_ids["mask"]
        self._special_ids = [tokenizer.special_ids["cls"], tokenizer.special_ids["sep"]]
        kept_out = (*tokenizer.control_ids, *tokenizer.unused_ids)
        self._replacements = replacement_ids(
            tokenizer.vocab_size,
            () if folder.manifest.options["random_tokens"] == "all" else kept_out,
            folder.header.id_dtype,
        )

    def mask(
        self, instances: Instances, numbers: npt.NDArray[np.uint64], parts: list[EpochPart]
    ) -> Instances:
        """Mask instances in place.

        Args:
            instances: as gathered; their ids are overwritten.
            numbers: uint64 ``[num_instances]``, the number by which each draws.
            parts: which of them belong to which epoch.
        """
        ids, offsets = instances.input_ids, instances.offsets
        special = np.flatnonzero(np.isin(ids, self._special_ids))
        special_offsets = np.searchsorted(special, offsets)
        lengths, num_special = np.diff(offsets), np.diff(special_offsets)
        special_positions = (special - np.repeat(offsets[:-1], num_special)).astype(np.int32)
        num_masked = count_masked(lengths, num_special, self._probability, self._max_predictions)
        masked_offsets = np.concatenate([[0], np.cumsum(num_masked)])
        positions = np.empty(masked_offsets[-1], np.uint16)
        labels = np.empty(masked_offsets[-1], ids.dtype)
        for part in parts:
            bounds = slice(part.rows.start, part.rows.stop + 1)
            mask_tokens(
                ids,
                offsets[bounds],
                special_positions,
                special_offsets[bounds],
                masked_offsets[bounds],
                numbers[part.rows],
                self._seed,
                stream_of(MASK, part.epoch),
                self._mask_id,
                self._replacements,
                chance_threshold(MASK_SHARE),
                chance_threshold(MASK_SHARE + RANDOM_SHARE),
                positions,
                labels,
            )
        return replace(
            instances,
            masked_positions=positions.astype(np.int64),
            masked_labels=labels,
            masked_offsets=masked_offsets,
        )
