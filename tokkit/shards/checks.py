"""Checks of record batches: kernels check no bounds, so what they index by is checked here.

Each function looks at a whole column at once, and refuses the batch with one line. What they do not
find is a byte that has flipped inside a value that is still valid; the hashes find that.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.shards.arrow import ragged
from tokkit.shards.schema import Header

Int64 = npt.NDArray[np.int64]

ALIGNMENT = 8  # bytes, which Arrow's format requires of buffers


def check_batch(batch: pa.RecordBatch, header: Header, where: str, *, check_ids: bool) -> None:
    """Refuse a batch that would lead a kernel out of bounds, or a model astray.

    Args:
        batch: of a shard with this header.
        header: for kind, vocabulary size and special ids.
        where: the name of the batch in errors.
        check_ids: also check every id of ``input_ids``.

    Raises:
        TokkitError: says what is wrong.
    """
    lengths = check_columns(batch, where)
    if (lengths["word_starts"] != lengths["input_ids"]).any():
        raise TokkitError(f"{where}: word_starts and input_ids differ in length")
    if header.kind == "tokens":
        check_sentences(batch, lengths["input_ids"], where)
    else:
        check_segments(batch, header, lengths["input_ids"], where)
        check_pair_labels(batch, where)
        check_masks(batch, header, lengths, where)
        check_targets(batch, lengths, where)
    names = {"masked_labels", "target_ids"} | ({"input_ids"} if check_ids else set())
    for name in sorted(names & set(lengths)):
        check_ids_below(ragged(batch.column(name))[0], header.vocab_size, f"{where}: {name}")


def check_ids_below(ids: npt.NDArray[Any], vocab_size: int, where: str) -> None:
    """Check that ids are in the vocabulary."""
    if ids.size and int(ids.max()) >= vocab_size:
        raise TokkitError(
            f"{where} holds id {ids.max()}, but the vocabulary has {vocab_size} tokens; "
            f"recreate the folder"
        )


def check_columns(batch: pa.RecordBatch, where: str) -> dict[str, Int64]:
    """Check nulls, text, offsets and alignment; return the lengths of the rows of list columns."""
    lengths = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        is_list = pa.types.is_large_list(column.type)
        parts = [column, column.values] if is_list else [column]
        if not batch.schema.field(name).nullable and any(part.null_count for part in parts):
            raise TokkitError(f"{where}: {name} holds nulls")
        if any(buffer and buffer.address % ALIGNMENT for buffer in column.buffers()):
            raise TokkitError(f"{where}: {name} is not aligned to {ALIGNMENT} bytes")
        if pa.types.is_string(column.type):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                raise TokkitError(f"{where}: {name} holds damaged text") from error
        if is_list:
            offsets = column.offsets.to_numpy()
            row_lengths = np.diff(offsets)
            if offsets[0] < 0 or (row_lengths < 0).any() or offsets[-1] > len(column.values):
                raise TokkitError(f"{where}: offsets of {name} run backwards or out of bounds")
            lengths[name] = row_lengths
    return lengths


def check_sentences(batch: pa.RecordBatch, num_tokens: Int64, where: str) -> None:
    """Check that sentences have at least one token, and add up to their document."""
    sentence_lengths, offsets = ragged(batch.column("sentence_lengths"))
    if (np.diff(offsets) < 1).any() or (sentence_lengths < 1).any():
        raise TokkitError(f"{where}: a document without sentences, or a sentence without tokens")
    if not len(num_tokens):
        return
    sums = np.add.reduceat(sentence_lengths, offsets[:-1], dtype=np.int64)
    if not np.array_equal(sums, num_tokens):
        raise TokkitError(f"{where}: sentence_lengths do not add up to the length of input_ids")


def check_segments(batch: pa.RecordBatch, header: Header, num_tokens: Int64, where: str) -> None:
    """Check that instances are not too long, and that their first segment is inside them."""
    segment_length = batch.column("segment_length").to_numpy()
    if (num_tokens < 1).any() or (num_tokens > header.max_seq_length).any():
        raise TokkitError(f"{where}: an instance is empty or longer than {header.max_seq_length}")
    if (segment_length < 0).any() or (segment_length > num_tokens).any():
        raise TokkitError(f"{where}: a segment_length is beyond its instance")


def check_pair_labels(batch: pa.RecordBatch, where: str) -> None:
    """Check that labels of pairs are 0 or 1, or null in every row."""
    column = batch.column("next_sentence_label")
    if column.null_count == len(column):
        return
    labels = column.fill_null(-1).to_numpy()
    if labels.view(np.uint8).max() > 1:
        raise TokkitError(f"{where}: a next_sentence_label is neither 0 nor 1")


def check_masks(
    batch: pa.RecordBatch, header: Header, lengths: dict[str, Int64], where: str
) -> None:
    """Check that masked positions ascend within each instance, and that no special token is masked."""
    if "masked_positions" not in lengths:
        return
    num_masked = lengths["masked_positions"]
    if (num_masked != lengths["masked_labels"]).any():
        raise TokkitError(f"{where}: masked_positions and masked_labels differ in length")
    positions, offsets = ragged(batch.column("masked_positions"))
    is_masked = num_masked > 0
    is_first = np.zeros(len(positions), np.bool_)
    is_first[offsets[:-1][is_masked]] = True
    if not (is_first[1:] | (positions[1:] > positions[:-1])).all():
        raise TokkitError(f"{where}: masked_positions of an instance do not ascend")
    if (positions[offsets[1:][is_masked] - 1] >= lengths["input_ids"][is_masked]).any():
        raise TokkitError(f"{where}: one of masked_positions is beyond its instance")
    labels, _ = ragged(batch.column("masked_labels"))
    for role in ("cls", "sep"):
        if (labels == header.special_ids.get(role, header.vocab_size)).any():
            raise TokkitError(f"{where}: masked_labels holds the special token of {role}")


def check_targets(batch: pa.RecordBatch, lengths: dict[str, Int64], where: str) -> None:
    """Check that positions to predict are within their instance, each once."""
    if "target_positions" not in lengths:
        return
    positions, _ = ragged(batch.column("target_positions"))
    num_targets = lengths["target_positions"]
    if (positions >= np.repeat(lengths["input_ids"], num_targets)).any():
        raise TokkitError(f"{where}: one of target_positions is beyond its instance")
    # Sorted, which is 15 times as fast as np.unique of numpy 2.4.
    places = np.sort((np.repeat(np.arange(len(num_targets)), num_targets) << 16) + positions)
    if (places[1:] == places[:-1]).any():
        raise TokkitError(f"{where}: target_positions of an instance hold a position twice")
