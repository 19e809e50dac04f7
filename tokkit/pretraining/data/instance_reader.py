"""Instances by number, read from memory-mapped shards.

The shards of a split, ``train-`` or ``eval-``, form one sequence of instances, numbered from 0:

    shard                record batch   rows   numbers
    train-0000000.arrow    0              3      0, 1, 2
    train-0000000.arrow    1              2      3, 4
    train-0000001.arrow    0              4      5, 6, 7, 8

Number 4 is row 1 of the second record batch. Only the list of record batches, and where each begins,
is held in memory; the operating system pages in what is read. A shard that was written with
``--compression`` cannot be mapped: its record batches are decompressed when they are first read, and
stay in memory.
"""

import threading
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.kernels.instances.flatten import TABLE_DTYPE, find_rows, gather_rows
from tokkit.kernels.instances.noise import LONGEST_TARGET_SPAN
from tokkit.kernels.ragged import take_bit_rows, take_rows
from tokkit.shards.arrow import packed_bits, ragged
from tokkit.shards.instances import VALUE_COLUMNS, Instances, Predictions
from tokkit.shards.objectives import OBJECTIVES, TARGET_COLUMNS
from tokkit.shards.reader import BatchRef, ShardFolder
from tokkit.shards.schema import check_ids_below
from tokkit.shards.shard import Shard
from tokkit.shards.shard_file import has_unreadable_pages, protect_maps

Int64 = npt.NDArray[np.int64]
VALUE_SIZES = np.array([column.type.bit_width // 8 for column in VALUE_COLUMNS.values()])
UNSIGNED = [name for name, column in VALUE_COLUMNS.items() if column.type == pa.uint64()]
# Values that another process may change after they were checked; those that may be null are copied.
MAPPED_CHECKS = [
    (name, column.check)
    for name, column in VALUE_COLUMNS.items()
    if column.check is not None and column.null is None
]
PREDICTED = ("masked_positions", "masked_labels", *TARGET_COLUMNS)
CHECK_INTERVAL = 100  # between checks of shards' identities, in durations of a check

Columns = dict[str, npt.NDArray[Any]]  # of a record batch, by names, also those in ``TABLE_DTYPE``


class InstanceReader:
    """Random access to the instances of one split. It is thread-safe; a pickled copy maps again.

    Args:
        folder: instance folder.
        prefix: ``train-`` or ``eval-``.
        with_words: whether to read where words start.
    """

    def __init__(self, folder: ShardFolder, prefix: str, *, with_words: bool = False) -> None:
        folder.fetch(prefix)
        self._folder = folder
        self._with_words = with_words
        self._refs = [ref for ref in folder.batch_refs(prefix) if ref.rows]
        self._starts = np.cumsum([0, *(ref.rows for ref in self._refs)], dtype=np.int64)
        objective = folder.manifest.options["objective"]
        self._targets = OBJECTIVES[objective].targets
        self._start_mapping()

    def _start_mapping(self) -> None:
        protect_maps()
        self._lock = threading.Lock()
        self._next_check = 0.0  # when the identities of shards are checked again
        self._shards: dict[str, Shard] = {}  # those with mapped record batches
        self._columns: list[Columns] = []  # keep alive what the addresses in the table point to
        self._table = np.zeros(len(self._refs), TABLE_DTYPE)
        self._value_addresses = np.zeros((len(self._refs), len(VALUE_COLUMNS)), np.int64)
        self._most_masked = 0  # in one instance, if masks are static

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is mapped, whose addresses are valid in this process only."""
        kept = {"_folder", "_with_words", "_refs", "_starts", "_targets"}
        return {name: value for name, value in vars(self).items() if name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._start_mapping()

    def __len__(self) -> int:
        """Number of instances."""
        return int(self._starts[-1])

    def gather(self, numbers: npt.NDArray[np.uint64]) -> Instances:
        """Copy instances out of the shards.

        Args:
            numbers: uint64 ``[num_instances]``, below ``len(self)``, in any order.

        Raises:
            TokkitError: a shard is damaged or has changed, or an id is beyond the vocabulary.
        """
        header, num_rows = self._folder.header, len(numbers)
        batches = np.empty(num_rows, np.int64)
        with self._lock:  # a row of the table is complete before another thread reads it
            if find_rows(numbers, self._starts, self._table, batches):
                self._map(batches)
        room, masked_room = num_rows * header.max_seq_length, num_rows * self._most_masked
        input_ids = np.empty(room, header.id_dtype)
        offsets = np.empty(num_rows + 1, np.int64)
        values = np.empty((len(VALUE_COLUMNS), num_rows), np.int64)
        masked_positions = np.empty(masked_room, np.uint16)
        masked_labels = np.empty(masked_room, header.id_dtype)
        masked_offsets = np.empty(num_rows + 1, np.int64)
        word_starts = np.zeros(room // 8 + 1 if self._with_words else 0, np.uint8)
        largest = gather_rows(
            numbers,
            self._starts,
            self._table,
            self._value_addresses,
            VALUE_SIZES,
            batches,
            input_ids,
            offsets,
            values,
            masked_positions,
            masked_labels,
            masked_offsets,
            word_starts,
        )
        by_name: Columns = dict(zip(VALUE_COLUMNS, values, strict=True))
        for name in UNSIGNED:
            by_name[name] = by_name[name].view(np.uint64)
        num_tokens = offsets[1:] - offsets[:-1]
        is_damaged = largest < 0 or not all(
            check(by_name[name], num_tokens).all() for name, check in MAPPED_CHECKS
        )
        self._require_unchanged(is_damaged=is_damaged)
        # Ids are checked as they are used: checking each record batch when it is mapped would
        # read the whole corpus before the first steps, which touch every batch of it.
        if largest >= header.vocab_size:
            where = f"{self._folder.path}: an instance"
            check_ids_below(np.array([largest]), header.vocab_size, where)
        end, num_masked = offsets[-1], masked_offsets[-1]
        positions, labels = masked_positions[:num_masked], masked_labels[:num_masked]
        predictions = Predictions(positions, labels, masked_offsets, self._targets)
        if self._targets == "target_positions":
            predictions = Predictions.of_positions(positions, masked_offsets, input_ids, offsets)
        return Instances(
            input_ids=input_ids[:end],
            offsets=offsets,
            word_starts=word_starts[: end // 8 + 1],
            indices=numbers,
            predictions=predictions,
            **by_name,
        )

    def _require_unchanged(self, *, is_damaged: bool) -> None:
        """Refuse instances from shards that have changed.

        Identities are compared so often that it takes at most a hundredth of the time, which is at
        each step of a real training; and immediately if what was read is damaged.

        Raises:
            TokkitError: if a shard has changed; it names the shard.
        """
        started = time.perf_counter()
        if started < self._next_check and not is_damaged and not has_unreadable_pages():
            return
        for shard in [*self._shards.values()]:  # another thread may map more
            shard.require_unchanged()
        if is_damaged:
            raise TokkitError(
                f"{self._folder.path}: a shard was damaged while it was read; check the folder with "
                f"tokkit verify"
            )
        self._next_check = started + CHECK_INTERVAL * (time.perf_counter() - started)

    def _map(self, batches: Int64) -> None:
        """Map the record batches that are not mapped yet."""
        allowed = most_predictions(self._folder)
        for number in np.unique(batches[self._table["input_ids"][batches] == 0]).tolist():
            shard = self._refs[number].shard
            self._shards[shard] = self._folder.shards[shard]
            columns, first_bit = _map_columns(self._folder, self._refs[number])
            max_masked = int(np.diff(columns["masked_offsets"]).max())
            if max_masked > allowed:
                raise TokkitError(
                    f"{self._folder.path}: an instance has {max_masked} masked positions or targets, "
                    f"the manifest says at most {allowed}; recreate the folder"
                )
            self._most_masked = max(self._most_masked, max_masked)
            self._columns.append(columns)
            self._value_addresses[number] = [
                columns[column.name].ctypes.data for column in VALUE_COLUMNS.values()
            ]
            names = (TABLE_DTYPE.names or ())[:-3]  # new fields come before ``first_bit``
            addresses = (columns[name].ctypes.data for name in names)
            sizes = len(columns["input_ids"]), len(columns["masked_positions"])
            self._table[number] = (*addresses, first_bit, *sizes)


def most_predictions(folder: ShardFolder) -> int:
    """Return the maximum number of masks or targets per instance, from the manifest."""
    options, figures = folder.manifest.options, folder.manifest.accounts.get("figures", {})
    longest = folder.header.max_seq_length
    if options["objective"] == "span-corruption" and figures.get("instances"):
        return int(-(-figures.get("targets", 0) // figures["instances"]))  # all have as many
    if options["objective"] == "plm":  # see ``order_targets``
        return min(longest, longest // int(options.get("predict_one_in", 1)) + LONGEST_TARGET_SPAN)
    is_target = OBJECTIVES[options["objective"]].targets is not None
    return longest if is_target else folder.manifest.max_predictions


def _map_columns(folder: ShardFolder, ref: BatchRef) -> tuple[Columns, int]:
    """Map a record batch; the reader checks its offsets and bounds.

    Returns:
        Its columns, without a copy unless they may have nulls, and the first bit of ``word_starts``.
    """
    batch = folder.read_batch(ref, check_ids=False)
    input_ids, offsets = ragged(batch.column("input_ids"))
    # The kernel copies targets as it does masks.
    predicted = {
        name: ragged(batch.column(name)) for name in PREDICTED if name in batch.schema.names
    }
    positions = predicted.get("masked_positions") or predicted.get("target_positions")
    labels = predicted.get("masked_labels") or predicted.get("target_ids")
    _, masked_offsets = positions or labels or (None, np.zeros(len(batch) + 1, np.int64))
    num_masked = masked_offsets[-1]
    word_starts, first_bit = packed_bits(batch.column("word_starts"))
    columns = {
        "input_ids": input_ids,
        "offsets": offsets,
        **{column.name: column.read(batch) for column in VALUE_COLUMNS.values()},
        "masked_positions": positions[0] if positions else np.zeros(num_masked, np.uint16),
        "masked_labels": labels[0] if labels else np.zeros(num_masked, input_ids.dtype),
        "masked_offsets": masked_offsets,
        "word_starts": word_starts,
    }
    return columns, first_bit


def join_instances(parts: Sequence[Instances], rows: Sequence[Int64]) -> Instances:
    """Merge instances that were gathered separately into one batch.

    Args:
        parts: the instances.
        rows: int64, the rows of the batch that each part fills.
    """
    if len(parts) == 1:
        return parts[0]
    order = np.argsort(np.concatenate(rows))

    def join(name: str) -> npt.NDArray[Any]:
        joined: npt.NDArray[Any] = np.concatenate([getattr(part, name) for part in parts])[order]
        return joined

    predicted = [part.predictions for part in parts]
    all_offsets = _join_offsets([part.offsets for part in parts])
    predicted_offsets = _join_offsets([one.offsets for one in predicted])
    predictions = Predictions(
        positions=_take([one.positions for one in predicted], predicted_offsets, order),
        labels=_take([one.labels for one in predicted], predicted_offsets, order),
        offsets=_reorder(predicted_offsets, order),
        targets=predicted[0].targets,
    )
    return Instances(
        input_ids=_take([part.input_ids for part in parts], all_offsets, order),
        offsets=_reorder(all_offsets, order),
        word_starts=_take_words(parts, all_offsets, order),
        predictions=predictions,
        **{name: join(name) for name in ("indices", *VALUE_COLUMNS)},
    )


def _join_offsets(parts: Sequence[Int64]) -> Int64:
    return np.cumsum([0, *np.concatenate([np.diff(offsets) for offsets in parts])])


def _reorder(offsets: Int64, order: Int64) -> Int64:
    return np.cumsum([0, *np.diff(offsets)[order]])


def _take(parts: Sequence[npt.NDArray[Any]], offsets: Int64, order: Int64) -> npt.NDArray[Any]:
    """Concatenate ragged values and take their rows in order."""
    values = np.concatenate(parts)
    taken = np.empty_like(values)
    take_rows(order, values, offsets, 0, taken)
    return taken


def _take_words(parts: Sequence[Instances], offsets: Int64, order: Int64) -> npt.NDArray[np.uint8]:
    """Join where words start; empty if one of the parts does not know."""
    if not all(part.word_starts.size for part in parts):
        return np.zeros(0, np.uint8)
    joined, taken = (np.zeros(offsets[-1] // 8 + 1, np.uint8) for _ in range(2))
    end, whole = 0, np.zeros(1, np.int64)
    for part in parts:
        bounds = np.array([0, len(part.input_ids)])
        end = take_bit_rows(whole, part.word_starts, 0, bounds, end, joined)
    take_bit_rows(order, joined, 0, offsets, 0, taken)
    return taken
