"""What can be counted of instances by looking at them: ``build`` notes it, ``verify`` counts again.

instances                   rows
instance_tokens             of input_ids, control tokens among them
lengths_in_quarter_1 to 4   instances of at most 1/4, 2/4, 3/4 and 4/4 of max_seq_length
random_pairs                nsp: B is random            swapped_pairs   sop: B stands before A
tokens_in_a, tokens_in_b    of pairs, without control tokens; B follows A, or is swapped
tokens_in_random_b          nsp: used for a second time, here beside a strange A
masked_tokens               static masks, of which masked_by_mask, …_random_tokens,
                            …_themselves say what stands in their places
targets                     of span-corruption and plm: ids or positions to predict
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.shards.objectives import PAIRED, TARGET_COLUMNS
from tokkit.shards.reader import ragged
from tokkit.shards.schema import Header

NUM_QUARTERS = 4


def tally_instances(batch: pa.RecordBatch, header: Header, objective: str) -> dict[str, int]:
    """Count what is in a record batch of instances.

    Args:
        batch: checked.
        header: of its shard.
        objective: that it was built for.
    """
    ids, offsets = ragged(batch.column("input_ids"))
    lengths = np.diff(offsets)
    figures = {"instances": len(batch), "instance_tokens": len(ids)}
    quarters = np.bincount((lengths - 1) * NUM_QUARTERS // header.max_seq_length, minlength=4)
    for number, count in enumerate(quarters.tolist(), 1):
        figures[f"lengths_in_quarter_{number}"] = count
    if objective in PAIRED:
        figures |= _tally_pairs(batch, lengths, objective)
    if "masked_positions" in batch.schema.names:
        positions, masked_offsets = ragged(batch.column("masked_positions"))
        labels, _ = ragged(batch.column("masked_labels"))
        found = ids[np.repeat(offsets[:-1], np.diff(masked_offsets)) + positions]
        figures |= tally_masks(found, labels, header.special_ids.get("mask", -1))
    for name in TARGET_COLUMNS:
        if name in batch.schema.names:
            figures["targets"] = len(ragged(batch.column(name))[0])
    return figures


def _tally_pairs(
    batch: pa.RecordBatch, lengths: npt.NDArray[np.int64], objective: str
) -> dict[str, int]:
    """Segments, by what B is."""
    segment_lengths = batch.column("segment_length").to_numpy()
    is_one = batch.column("next_sentence_label").fill_null(0).to_numpy() == 1
    b_lengths = lengths - segment_lengths - 1
    figures = {"tokens_in_a": int((segment_lengths - 2).sum()), "tokens_in_b": int(b_lengths.sum())}
    if objective == "sop":
        return {**figures, "swapped_pairs": int(is_one.sum())}
    num_random = int(b_lengths[is_one].sum())
    return {
        **figures,
        "tokens_in_b": figures["tokens_in_b"] - num_random,
        "tokens_in_random_b": num_random,
        "random_pairs": int(is_one.sum()),
    }


def tally_masks(found: npt.NDArray[Any], labels: npt.NDArray[Any], mask_id: int) -> dict[str, int]:
    """What stands in the place of masked tokens.

    A random replacement that happens to be the token itself counts as the token itself.

    Args:
        found: ids at masked positions.
        labels: the ids that stood there.
        mask_id: the id of ``[MASK]``.
    """
    num_mask = int(np.count_nonzero(found == mask_id))
    num_kept = int(np.count_nonzero(found == labels))
    return {
        "masked_tokens": len(labels),
        "masked_by_mask": num_mask,
        "masked_by_themselves": num_kept,
        "masked_by_random_tokens": len(labels) - num_mask - num_kept,
    }
