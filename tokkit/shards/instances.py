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

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.kernels.arrays import INDEX_SHIFT, Bools
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.shards.arrow import boolean_array, large_list, ragged, to_arrow
from tokkit.shards.objectives import PAIRED, TARGET_COLUMNS

if TYPE_CHECKING:
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
class ValueColumn:
    """A column with one value for each instance: schema, writer, checks and loader follow from it.

    Attributes:
        name: of the column.
        type: in shards, int8, int32, int64 or uint64; in memory, int64 or uint64.
        default: the values of instances that are made without.
        null: what null is in memory; None if no value is null. Either all values of a record batch
            are null or none.
        check: which values are valid, given the number of tokens of each instance; or None.
        fault: what is wrong with the others, for errors.
    """

    name: str
    type: pa.DataType
    default: Callable[["Instances"], Array]
    null: int | None = None
    check: Callable[[Array, Int64], Bools] | None = None
    fault: str = ""

    def write(self, values: Array) -> pa.Array:
        """Convert values to Arrow."""
        if self.null is not None and self.null in values:
            return pa.nulls(len(values), self.type)
        return to_arrow(values.astype(self.type.to_pandas_dtype(), copy=False))

    def read(self, batch: pa.RecordBatch) -> Array:
        """Return the values in a record batch, without a copy unless they may be null."""
        values = batch.column(self.name)
        found: Array = (values if self.null is None else values.fill_null(self.null)).to_numpy()
        return found


# By the attributes of ``Instances`` that hold the values.
VALUE_COLUMNS = {
    "segment_lengths": ValueColumn(
        "segment_length",
        pa.int32(),
        lambda made: np.diff(made.offsets),
        check=lambda lengths, num_tokens: (lengths >= 0) & (lengths <= num_tokens),
        fault="is beyond its instance",
    ),
    "documents": ValueColumn("document", pa.uint64(), lambda made: made.indices >> INDEX_SHIFT),
    "next_sentence_labels": ValueColumn(
        "next_sentence_label",
        pa.int8(),
        lambda made: np.full(len(made), NO_LABEL),
        null=NO_LABEL,
        check=lambda labels, _: (labels == 0) | (labels == 1),
        fault="is neither 0 nor 1",
    ),
}
_DERIVED: Any = None  # a default that depends on other attributes


@dataclass(frozen=True, kw_only=True)
class Instances:
    """Ragged instances of one objective.

    To add a value for each instance, add it to ``VALUE_COLUMNS`` and here, compute it where
    ``instances/pairs.py``, ``packs.py`` or ``translations.py`` make instances (others have the
    default), raise ``FORMAT_VERSION`` of ``engine/manifest.py``, and describe it in the README. If a
    model is to read it, ``pretraining/data/batches.py`` lays it out. A ragged column also needs a
    line in ``instances_schema`` and ``to_record_batch``, and addresses in
    ``kernels/instances/flatten.py`` and ``pretraining/data/instance_reader.py``.

    Attributes:
        input_ids: uint16 or uint32 ``[num_tokens]``.
        offsets: int64 ``[num_instances + 1]``, beginning at 0.
        word_starts: uint8, a bit per token: whether a word begins there. Empty where not read.
        indices: uint64 ``[num_instances]``, global numbers by which masks are drawn: when built
            ``document << 24`` plus the number in the document, when loaded the place in the
            folder.
        predictions: the masked tokens, or the targets; nothing if left out.
        segment_lengths: int64 ``[num_instances]``, tokens of the first segment, its ``[CLS]`` and
            ``[SEP]`` included; all tokens where there is one segment.
        documents: uint64 ``[num_instances]``, number of the document in which each begins.
        next_sentence_labels: int64 ``[num_instances]``, ``NO_LABEL`` where there are no pairs.
    """

    input_ids: Array
    offsets: Int64
    word_starts: npt.NDArray[np.uint8]
    indices: npt.NDArray[np.uint64]
    predictions: Predictions = _DERIVED
    segment_lengths: Int64 = _DERIVED
    documents: npt.NDArray[np.uint64] = _DERIVED
    next_sentence_labels: Int64 = _DERIVED

    def __post_init__(self) -> None:
        """Fill in the defaults."""
        if self.predictions is None:
            vars(self)["predictions"] = Predictions.none(len(self), self.input_ids.dtype)
        for name, column in VALUE_COLUMNS.items():
            if getattr(self, name) is None:
                vars(self)[name] = column.default(self)

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


def new_rows(num_rows: int, num_tokens: int, dtype: npt.DTypeLike) -> dict[str, Any]:
    """Return memory for the tokens of instances, by the attributes, in the order of kernels."""
    return {
        "offsets": np.empty(num_rows + 1, np.int64),
        "input_ids": np.empty(num_tokens, dtype),
        "word_starts": np.zeros(num_tokens // 8 + 1, np.uint8),
    }


def to_record_batch(instances: Instances, schema: pa.Schema) -> pa.RecordBatch:
    """Convert instances to a record batch.

    Args:
        instances: of one objective.
        schema: from ``instances_schema``; it says whether masks and targets are columns.
    """
    predictions = instances.predictions
    num_tokens = int(instances.offsets[-1])
    columns = {
        "input_ids": large_list(instances.input_ids, instances.offsets),
        **{
            column.name: column.write(getattr(instances, name))
            for name, column in VALUE_COLUMNS.items()
        },
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


def count_instances(batch: pa.RecordBatch, header: "Header", objective: str) -> dict[str, int]:
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
