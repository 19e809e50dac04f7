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

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from tokkit.errors import TokkitError
from tokkit.kernels.bits import copy_bits
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
        masked_positions: int64 ``[num_masked]``, positions within each instance.
        masked_labels: as input_ids ``[num_masked]``, the ids that stood there.
        masked_offsets: int64 ``[num_instances + 1]``, into both.
        word_starts: uint8, a bit a token; empty where nobody needs it.
    """

    input_ids: Array
    offsets: Int64
    segment_lengths: Int64
    documents: npt.NDArray[np.uint64]
    next_sentence_labels: Int64
    masked_positions: Int64
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
        self._starts = np.cumsum([0, *(ref.rows for ref in self._refs)])
        self._columns: dict[int, Columns] = {}

    def __len__(self) -> int:
        """How many instances there are."""
        return int(self._starts[-1])

    @cached_property
    def num_tokens(self) -> int:
        """Tokens of all instances, control tokens among them."""
        return sum(ref.tokens for ref in self._refs)

    def gather(self, numbers: npt.NDArray[np.uint64]) -> Instances:
        """Copy instances out of the shards.

        One slice an instance and one concatenation: 22 million tokens/s at 100 tokens an instance.

        Args:
            numbers: uint64 ``[num_instances]``, below ``len(self)``, in any order.

        Raises:
            TokkitError: where an id is beyond the vocabulary, which no model would survive.
        """
        batch_numbers = np.searchsorted(self._starts, numbers.astype(np.int64), side="right") - 1
        rows = numbers.astype(np.int64) - self._starts[batch_numbers]
        ids, positions, labels = [], [], []
        segment_lengths = np.empty(len(numbers), np.int64)
        documents = np.empty(len(numbers), np.uint64)
        next_sentence_labels = np.empty(len(numbers), np.int64)
        for number, (batch_number, row) in enumerate(
            zip(batch_numbers.tolist(), rows.tolist(), strict=True)
        ):
            columns = self._open(batch_number)
            ids.append(columns.input_ids[columns.offsets[row] : columns.offsets[row + 1]])
            masked = slice(columns.masked_offsets[row], columns.masked_offsets[row + 1])
            positions.append(columns.masked_positions[masked])
            labels.append(columns.masked_labels[masked])
            segment_lengths[number] = columns.segment_length[row]
            documents[number] = columns.document[row]
            next_sentence_labels[number] = columns.next_sentence_label[row]
        offsets = _offsets(ids)
        word_starts = np.zeros(offsets[-1] // 8 + 1 if self._with_words else 0, np.uint8)
        if self._with_words:
            for number, (batch_number, row) in enumerate(
                zip(batch_numbers.tolist(), rows.tolist(), strict=True)
            ):
                columns = self._open(batch_number)
                first = columns.first_bit + columns.offsets[row]
                length = len(ids[number])
                copy_bits(columns.word_starts, first, length, offsets[number], word_starts)
        instances = Instances(
            input_ids=np.concatenate(ids),
            offsets=offsets,
            segment_lengths=segment_lengths,
            documents=documents,
            next_sentence_labels=next_sentence_labels,
            masked_positions=np.concatenate(positions).astype(np.int64),
            masked_labels=np.concatenate(labels),
            masked_offsets=_offsets(positions),
            word_starts=word_starts,
        )
        self._check_ids(instances)
        return instances

    def _open(self, batch_number: int) -> Columns:
        if batch_number not in self._columns:
            self._columns[batch_number] = Columns.read(self._folder, self._refs[batch_number])
        return self._columns[batch_number]

    def _check_ids(self, instances: Instances) -> None:
        # Ids are checked as they are used: checking each record batch when it is opened would
        # read the whole corpus before the first steps, which touch every batch of it.
        vocab_size = self._folder.header.vocab_size
        for ids in (instances.input_ids, instances.masked_labels):
            if ids.size and int(ids.max()) >= vocab_size:
                raise TokkitError(
                    f"{self._path}: an instance holds id {ids.max()}, but the vocabulary has "
                    f"{vocab_size} entries; make the folder again"
                )

    @property
    def _path(self) -> Path:
        return self._folder.path


def slice_instances(instances: Instances, start: int, stop: int) -> Instances:
    """Instances ``start`` to ``stop`` without a copy, and without where words start."""
    tokens = slice(*instances.offsets[[start, stop]])
    masked = slice(*instances.masked_offsets[[start, stop]])
    return Instances(
        input_ids=instances.input_ids[tokens],
        offsets=instances.offsets[start : stop + 1] - tokens.start,
        segment_lengths=instances.segment_lengths[start:stop],
        documents=instances.documents[start:stop],
        next_sentence_labels=instances.next_sentence_labels[start:stop],
        masked_positions=instances.masked_positions[masked],
        masked_labels=instances.masked_labels[masked],
        masked_offsets=instances.masked_offsets[start : stop + 1] - masked.start,
        word_starts=np.zeros(0, np.uint8),
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

    offsets, masked_offsets = join_offsets("offsets"), join_offsets("masked_offsets")
    word_starts = np.zeros(0, np.uint8)
    if all(part.word_starts.size for part in parts):
        bits = [
            np.unpackbits(p.word_starts, count=len(p.input_ids), bitorder="little") for p in parts
        ]
        word_starts = np.packbits(_take(np.concatenate(bits), offsets, order), bitorder="little")
    return Instances(
        input_ids=_take(join("input_ids"), offsets, order),
        offsets=_reorder(offsets, order),
        segment_lengths=join("segment_lengths")[order],
        documents=join("documents")[order],
        next_sentence_labels=join("next_sentence_labels")[order],
        masked_positions=_take(join("masked_positions"), masked_offsets, order),
        masked_labels=_take(join("masked_labels"), masked_offsets, order),
        masked_offsets=_reorder(masked_offsets, order),
        word_starts=word_starts,
    )


def _take(values: Array, offsets: Int64, order: Int64) -> Array:
    """The rows of a ragged array in another order."""
    ends = _reorder(offsets, order)
    moved = np.repeat(offsets[:-1][order] - ends[:-1], np.diff(ends))
    taken: Array = values[np.arange(len(values)) + moved]
    return taken


def _reorder(offsets: Int64, order: Int64) -> Int64:
    return np.cumsum([0, *np.diff(offsets)[order]])


def _offsets(parts: list[Array]) -> Int64:
    return np.cumsum([0, *map(len, parts)], dtype=np.int64)
