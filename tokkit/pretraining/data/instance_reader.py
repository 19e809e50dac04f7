"""Instances by their number, read from memory-mapped shards.

All shards of one kind, ``train-`` or ``eval-``, are one sequence of instances, numbered through:

    shard                record batch   rows   numbers
    train-00000.arrow    0              3      0, 1, 2
    train-00000.arrow    1              2      3, 4
    train-00001.arrow    0              4      5, 6, 7, 8

so number 4 is row 1 of the second record batch. A list of record batches and where each begins is
all that is held in memory; what is touched is paged in by the operating system. (A shard that was
written with ``--compression`` cannot be mapped: its record batches are unpacked when they are
first touched, and stay in memory.)
"""

from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tokkit.errors import TokkitError
from tokkit.kernels.instances.gather import TABLE_DTYPE, find_rows, gather_rows
from tokkit.kernels.ragged import take_bit_rows, take_rows
from tokkit.shards.reader import BatchRef, ShardFolder, ragged

NO_LABEL = -100  # of a pair whose label is null; what torch's cross-entropy leaves out

Array = npt.NDArray[Any]
Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Instances:
    """A few instances, ragged: instance ``i`` is ``input_ids[offsets[i]:offsets[i + 1]]``.

    Attributes:
        input_ids: uint16 or uint32 ``[num_tokens]``, a copy that may be written to.
        offsets: int64 ``[num_instances + 1]``, beginning at 0.
        segment_lengths: int64 ``[num_instances]``, tokens of the first segment.
        documents: uint64 ``[num_instances]``, numbers of the documents that they are from.
        next_sentence_labels: int64 ``[num_instances]``, ``NO_LABEL`` where there is none.
        masked_positions: uint16 ``[num_masked]``, positions within each instance.
        masked_labels: as input_ids ``[num_masked]``, the ids that stood there.
        masked_offsets: int64 ``[num_instances + 1]``, into both.
        word_starts: uint8, a bit a token; empty where nobody needs it.
    """

    input_ids: Array
    offsets: Int64
    segment_lengths: Int64
    documents: npt.NDArray[np.uint64]
    next_sentence_labels: Int64
    masked_positions: npt.NDArray[np.uint16]
    masked_labels: Array
    masked_offsets: Int64
    word_starts: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Columns:
    """The columns of one record batch as arrays, without a copy but for the labels."""

    input_ids: Array
    offsets: Int64
    segment_length: npt.NDArray[np.int32]
    document: npt.NDArray[np.uint64]
    next_sentence_label: npt.NDArray[np.int8]
    masked_positions: npt.NDArray[np.uint16]
    masked_labels: Array
    masked_offsets: Int64
    word_starts: npt.NDArray[np.uint8]
    first_bit: int  # of word_starts, which is packed

    @classmethod
    def read(cls, folder: ShardFolder, ref: BatchRef) -> Self:
        """Map a record batch; the reader checks its offsets and bounds."""
        batch = folder.read_batch(ref, check_ids=False)
        input_ids, offsets = ragged(batch.column("input_ids"))
        if "masked_positions" in batch.schema.names:
            positions, masked_offsets = ragged(batch.column("masked_positions"))
            labels, _ = ragged(batch.column("masked_labels"))
        else:
            positions, labels = np.empty(0, np.uint16), input_ids[:0]
            masked_offsets = np.zeros(len(offsets), np.int64)
        words = batch.column("word_starts")
        return cls(
            input_ids=input_ids,
            offsets=offsets,
            segment_length=batch.column("segment_length").to_numpy(),
            document=batch.column("document").to_numpy(),
            next_sentence_label=batch.column("next_sentence_label").fill_null(NO_LABEL).to_numpy(),
            masked_positions=positions,
            masked_labels=labels,
            masked_offsets=masked_offsets,
            word_starts=np.frombuffer(words.values.buffers()[1], np.uint8),
            first_bit=words.values.offset + words.offsets[0].as_py(),
        )

    @property
    def addresses(self) -> tuple[int, ...]:
        """A row of the table that ``gather_rows`` takes; it holds as long as the columns live."""
        columns = [getattr(self, name) for name in TABLE_DTYPE.names or () if name != "first_bit"]
        return (*(column.ctypes.data for column in columns), self.first_bit)


class InstanceReader:
    """Random access to the instances of one kind of shard.

    Args:
        folder: of instances.
        prefix: ``train-`` or ``eval-``.
        with_words: also read where words start.
    """

    def __init__(self, folder: ShardFolder, prefix: str, *, with_words: bool = False) -> None:
        self._folder = folder
        self._with_words = with_words
        self._refs = [ref for ref in folder.batch_refs(prefix) if ref.rows]
        self._starts = np.cumsum([0, *(ref.rows for ref in self._refs)], dtype=np.int64)
        self._columns: dict[int, Columns] = {}  # what the addresses in the table belong to
        self._table = np.zeros(len(self._refs), TABLE_DTYPE)
        self._most_masked = 0  # in one instance, where masks are static

    def __len__(self) -> int:
        """How many instances there are."""
        return int(self._starts[-1])

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of all instances, control tokens among them."""
        return sum(ref.tokens for ref in self._refs)

    def gather(self, numbers: npt.NDArray[np.uint64]) -> Instances:
        """Copy instances out of the shards.

        Args:
            numbers: uint64 ``[num_instances]``, below ``len(self)``, in any order.

        Raises:
            TokkitError: where an id is beyond the vocabulary, which no model would survive.
        """
        header = self._folder.header
        batches = np.empty(len(numbers), np.int64)
        if find_rows(numbers, self._starts, self._table, batches):
            self._map(batches)
        num_rows, room = len(numbers), len(numbers) * header.max_seq_length
        instances = Instances(
            input_ids=np.empty(room, header.id_dtype),
            offsets=np.empty(num_rows + 1, np.int64),
            segment_lengths=np.empty(num_rows, np.int64),
            documents=np.empty(num_rows, np.uint64),
            next_sentence_labels=np.empty(num_rows, np.int64),
            masked_positions=np.empty(num_rows * self._most_masked, np.uint16),
            masked_labels=np.empty(num_rows * self._most_masked, header.id_dtype),
            masked_offsets=np.empty(num_rows + 1, np.int64),
            word_starts=np.zeros(room // 8 + 1 if self._with_words else 0, np.uint8),
        )
        columns = (getattr(instances, entry.name) for entry in fields(Instances))
        largest = gather_rows(numbers, self._starts, self._table, batches, *columns)
        # Ids are checked as they are used: checking each record batch when it is mapped would
        # read the whole corpus before the first steps, which touch every batch of it.
        if largest >= header.vocab_size:
            raise TokkitError(
                f"{self._folder.path}: an instance holds id {largest}, but the vocabulary has "
                f"{header.vocab_size} entries; make the folder again"
            )
        return _cut_to_size(instances)

    def _map(self, batches: Int64) -> None:
        """Map the record batches of these numbers, and note where they lie."""
        for number in np.unique(batches[self._table["input_ids"][batches] == 0]).tolist():
            columns = Columns.read(self._folder, self._refs[number])
            self._columns[number] = columns
            self._table[number] = columns.addresses
            self._most_masked = max(self._most_masked, int(np.diff(columns.masked_offsets).max()))
        allowed = self._folder.manifest.options.get("max_predictions_per_seq", 0)
        if self._most_masked > allowed:
            raise TokkitError(
                f"{self._folder.path}: an instance has {self._most_masked} masked positions, the "
                f"manifest says at most {allowed}; make the folder again"
            )


def _cut_to_size(instances: Instances) -> Instances:
    """Leave the room out that was not needed."""
    num_tokens, num_masked = instances.offsets[-1], instances.masked_offsets[-1]
    return replace(
        instances,
        input_ids=instances.input_ids[:num_tokens],
        masked_positions=instances.masked_positions[:num_masked],
        masked_labels=instances.masked_labels[:num_masked],
        word_starts=instances.word_starts[: num_tokens // 8 + 1],
    )


def join_instances(parts: list[Instances], rows: list[Int64]) -> Instances:
    """Put instances that were gathered apart into one batch.

    Args:
        parts: the instances.
        rows: int64, for each part which rows of the batch are its own.
    """
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate(rows))

    def join(name: str) -> Array:
        joined: Array = np.concatenate([getattr(part, name) for part in parts])
        return joined

    def join_offsets(name: str) -> Int64:
        return np.cumsum([0, *np.concatenate([np.diff(getattr(part, name)) for part in parts])])

    def take(name: str, offsets: Int64) -> Array:
        values = join(name)
        taken = np.empty_like(values)
        take_rows(order, values, offsets, 0, taken)
        return taken

    offsets, masked_offsets = join_offsets("offsets"), join_offsets("masked_offsets")
    return Instances(
        input_ids=take("input_ids", offsets),
        offsets=_reorder(offsets, order),
        segment_lengths=join("segment_lengths")[order],
        documents=join("documents")[order],
        next_sentence_labels=join("next_sentence_labels")[order],
        masked_positions=take("masked_positions", masked_offsets),
        masked_labels=take("masked_labels", masked_offsets),
        masked_offsets=_reorder(masked_offsets, order),
        word_starts=_join_words(parts, offsets, order),
    )


def _join_words(parts: list[Instances], offsets: Int64, order: Int64) -> npt.NDArray[np.uint8]:
    """Where words start; empty where one of the parts does not say."""
    if not all(part.word_starts.size for part in parts):
        return np.zeros(0, np.uint8)
    joined, taken = (np.zeros(offsets[-1] // 8 + 1, np.uint8) for _ in range(2))
    end, whole = 0, np.zeros(1, np.int64)
    for part in parts:
        bounds = np.array([0, len(part.input_ids)])
        end = take_bit_rows(whole, part.word_starts, 0, bounds, end, joined)
    take_bit_rows(order, joined, 0, offsets, 0, taken)
    return taken


def _reorder(offsets: Int64, order: Int64) -> Int64:
    return np.cumsum([0, *np.diff(offsets)[order]])
