"""Training instances: what ``build`` makes, shards hold, masks change and batches are laid out from.

Instances are ragged: instance ``i`` is ``input_ids[offsets[i]:offsets[i + 1]]``. Two instances of
3 and 5 tokens, with one token masked in each:

    input_ids    2 9 3 2 4 3 9 3        predictions.positions    1 4
    offsets      0 3 8                  predictions.labels       7 6
                                        predictions.offsets      0 1 2

``build`` notes what it can count by looking at them, and ``verify`` counts it again:

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

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.kernels.arrays import INDEX_SHIFT
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.shards.arrow import boolean_array, large_list, ragged, to_arrow
from tokkit.shards.objectives import PAIRED, TARGET_COLUMNS
from tokkit.shards.schema import Header

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """What is predicted of instances: masked tokens or, for some objectives, targets.

    Attributes:
        positions: uint16 ``[num_predicted]``, within each instance, of masked tokens ascending; 0
            for ``target_ids``, which are no tokens of the inputs.
        labels: as ``input_ids`` ``[num_predicted]``, the ids to predict.
        offsets: int64 ``[num_instances + 1]``, into both.
        targets: the column of the targets, of ``TARGET_COLUMNS``; None for masked tokens.
    """

    positions: npt.NDArray[np.uint16]
    labels: Array
    offsets: Int64
    targets: str | None = None

    @classmethod
    def none(cls, num_instances: int, dtype: npt.DTypeLike) -> Self:
        """Return those of instances in which nothing is masked."""
        offsets = np.zeros(num_instances + 1, np.int64)
        return cls(np.empty(0, np.uint16), np.empty(0, dtype), offsets)

    @classmethod
    def of_ids(cls, ids: Array, offsets: Int64) -> Self:
        """Return targets that are ids."""
        return cls(np.zeros(len(ids), np.uint16), ids, offsets, "target_ids")

    @classmethod
    def of_positions(
        cls,
        positions: npt.NDArray[np.uint16],
        offsets: Int64,
        input_ids: Array,
        input_offsets: Int64,
    ) -> Self:
        """Return targets that are positions in the inputs."""
        places = np.repeat(input_offsets[:-1], np.diff(offsets)) + positions
        return cls(positions, input_ids[places], offsets, "target_positions")

    @property
    def columns(self) -> dict[str, Array]:
        """The values of the columns in which shards have them."""
        if self.targets is None:
            return {"masked_positions": self.positions, "masked_labels": self.labels}
        return {self.targets: self.labels if self.targets == "target_ids" else self.positions}


@dataclass(frozen=True)
class Instances:
    """Ragged instances of one objective.

    Attributes:
        input_ids: uint16 or uint32 ``[num_tokens]``.
        offsets: int64 ``[num_instances + 1]``, beginning at 0.
        word_starts: uint8, a bit per token: whether a word begins there. Empty where not read.
        segment_lengths: int64 ``[num_instances]``, tokens of the first segment, its ``[CLS]`` and
            ``[SEP]`` included; all tokens where there is one segment.
        documents: uint64 ``[num_instances]``, number of the document in which each begins.
        next_sentence_labels: int64 ``[num_instances]``, ``NO_LABEL`` where there are no pairs.
        indices: uint64 ``[num_instances]``, global numbers by which masks are drawn: when built
            ``document << 24`` plus the number in the document, when loaded the place in the
            folder.
        predictions: the masked tokens, or the targets.
    """

    input_ids: Array
    offsets: Int64
    word_starts: npt.NDArray[np.uint8]
    segment_lengths: Int64
    documents: npt.NDArray[np.uint64]
    next_sentence_labels: Int64
    indices: npt.NDArray[np.uint64]
    predictions: Predictions

    @classmethod
    def made_of(
        cls,
        input_ids: Array,
        offsets: Int64,
        word_starts: npt.NDArray[np.uint8],
        indices: npt.NDArray[np.uint64],
        **columns: Any,
    ) -> Self:
        """Return instances as ``build`` makes them.

        Args:
            input_ids: see above.
            offsets: see above.
            word_starts: see above.
            indices: see above.
            columns: other attributes; without them the instances have one segment, no pairs and no
                masks.
        """
        defaults: dict[str, Any] = {
            "segment_lengths": np.diff(offsets),
            "documents": indices >> INDEX_SHIFT,
            "next_sentence_labels": np.full(len(indices), NO_LABEL),
            "predictions": Predictions.none(len(indices), input_ids.dtype),
        }
        return cls(
            input_ids=input_ids,
            offsets=offsets,
            word_starts=word_starts,
            # One after the other in memory, as the loader's are, so that kernels are compiled once.
            indices=np.ascontiguousarray(indices),
            **(defaults | columns),
        )

    def __len__(self) -> int:
        """Number of instances."""
        return len(self.indices)

    @property
    def positions(self) -> Int64:
        """int64 ``[num_tokens]``, the position of each token in its instance."""
        return np.arange(self.offsets[-1]) - np.repeat(self.offsets[:-1], np.diff(self.offsets))

    @property
    def masked_tokens(self) -> Int64:
        """int64 ``[num_masked]``, where the masked tokens are in ``input_ids``."""
        masks = self.predictions
        return np.repeat(self.offsets[:-1], np.diff(masks.offsets)) + masks.positions


def to_record_batch(instances: Instances, schema: pa.Schema) -> pa.RecordBatch:
    """Convert instances to a record batch.

    Args:
        instances: of one objective.
        schema: from ``instances_schema``; it says whether masks and targets are columns.
    """
    labels, predictions = instances.next_sentence_labels, instances.predictions
    num_tokens = int(instances.offsets[-1])
    columns = {
        "input_ids": large_list(instances.input_ids, instances.offsets),
        "segment_length": to_arrow(instances.segment_lengths.astype(np.int32)),
        "document": to_arrow(instances.documents),
        "next_sentence_label": pa.nulls(len(instances), pa.int8())
        if NO_LABEL in labels
        else to_arrow(labels.astype(np.int8)),
        "word_starts": large_list(
            boolean_array(instances.word_starts, num_tokens), instances.offsets
        ),
        **{
            name: large_list(values, predictions.offsets)
            for name, values in predictions.columns.items()
        },
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


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
