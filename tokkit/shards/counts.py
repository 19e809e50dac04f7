"""What can be counted by looking at instances: ``build`` notes it, ``verify`` counts it again.

instances                   rows
instance_tokens             of input_ids, special tokens included
lengths_in_quarter_1 to 4   instances of at most 1/4, 2/4, 3/4 and 4/4 of max_seq_length
random_pairs                nsp: B is random            swapped_pairs   sop: B stands before A
tokens_in_a, tokens_in_b    of pairs, without special tokens; B follows A, or is swapped
tokens_in_random_b          nsp: used a second time, next to a segment A from another document
masked_tokens               static masks, of which masked_by_mask, …_random_tokens,
                            …_themselves say what replaced them
targets                     of span-corruption and plm: ids or positions to predict
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.shards.arrow import ragged
from tokkit.shards.objectives import PAIRED, TARGET_COLUMNS
from tokkit.shards.schema import Header

NUM_QUARTERS = 4


def count_instances(batch: pa.RecordBatch, header: Header, objective: str) -> dict[str, int]:
    """Count what is in a record batch of instances.

    Args:
        batch: checked.
        header: of its shard.
        objective: of the instances.
    """
    ids, offsets = ragged(batch.column("input_ids"))
    lengths = np.diff(offsets)
    figures = {"instances": len(batch), "instance_tokens": len(ids)}
    quarters = np.bincount((lengths - 1) * NUM_QUARTERS // header.max_seq_length, minlength=4)
    for number, count in enumerate(quarters.tolist(), 1):
        figures[f"lengths_in_quarter_{number}"] = count
    if objective in PAIRED:
        figures |= _count_segments(batch, lengths, objective)
    if "masked_positions" in batch.schema.names:
        positions, masked_offsets = ragged(batch.column("masked_positions"))
        labels, _ = ragged(batch.column("masked_labels"))
        found = ids[np.repeat(offsets[:-1], np.diff(masked_offsets)) + positions]
        figures |= count_replacements(found, labels, header.special_ids.get("mask", -1))
    for name in TARGET_COLUMNS:
        if name in batch.schema.names:
            figures["targets"] = len(ragged(batch.column(name))[0])
    return figures


def _count_segments(
    batch: pa.RecordBatch, lengths: npt.NDArray[np.int64], objective: str
) -> dict[str, int]:
    segment_lengths = batch.column("segment_length").to_numpy()
    is_one = batch.column("next_sentence_label").fill_null(0).to_numpy() == 1
    b_lengths = lengths - segment_lengths - 1
    tokens_in_b = int(b_lengths.sum())
    figures = {"tokens_in_a": int((segment_lengths - 2).sum()), "tokens_in_b": tokens_in_b}
    if objective == "sop":
        return {**figures, "swapped_pairs": int(is_one.sum())}
    num_random = int(b_lengths[is_one].sum())
    return {
        **figures,
        "tokens_in_b": tokens_in_b - num_random,
        "tokens_in_random_b": num_random,
        "random_pairs": int(is_one.sum()),
    }


def count_replacements(
    found: npt.NDArray[Any], labels: npt.NDArray[Any], mask_id: int
) -> dict[str, int]:
    """Count what replaced masked tokens.

    A random token that happens to be the token itself counts as the token itself.

    Args:
        found: ids at masked positions.
        labels: the original ids.
        mask_id: id of ``[MASK]``.
    """
    num_mask = int(np.count_nonzero(found == mask_id))
    num_kept = int(np.count_nonzero(found == labels))
    return {
        "masked_tokens": len(labels),
        "masked_by_mask": num_mask,
        "masked_by_themselves": num_kept,
        "masked_by_random_tokens": len(labels) - num_mask - num_kept,
    }
