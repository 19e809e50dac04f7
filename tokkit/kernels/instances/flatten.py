"""Flatten ragged instances into the arrays that a model takes, one or more batches at once.

Two instances of 3 and 5 tokens, with one token masked in each, in a batch with room for 10 tokens in
4 sequences and for 3 predictions:

    input_ids     2 9 3 2 4 3 5 3 1 1        cu_seqlens   0 3 8 10 10
    token_types   0 0 0 0 0 0 1 1 1 1        predicted    1 6 0
    positions     0 1 2 0 1 2 3 4 0 1        labels       7 8 -100
    rows          0 0 0 1 1 1 1 1 2 2        pair_labels  0 1 -100 -100

Unused tokens become sequences of padding (id 1 here), unused sequences are empty, and unused
predictions have no label.

Before that, they are gathered from record batches anywhere in memory. The record batches of a shard
are separate arrays, and a corpus has thousands of them, while a batch of 256 instances in shuffled
order takes hardly two from any. A call per record batch would cost more than the copying. So the
kernels take a table with the addresses of columns, a row per record batch. For each instance they
find the record batch by its number, then the row:

    starts    0   3   5   9          4 is row 1 of the second, whose addresses are in table[1]
    table     {input_ids: 0x7f01…, offsets: 0x7f05…, …}
              {input_ids: 0x7f09…, …}
              {input_ids: 0: not mapped yet}

Unlike other kernels, the one that gathers checks what it copies by: the columns were checked when
they were mapped, but another process may write to their file. The largest id that is copied tells
whether all are in the vocabulary.
"""

import numpy as np

from tokkit.kernels.arrays import Ids, Int32, Int64, PackedBits, Records, UInt16, UInt64
from tokkit.kernels.jit import inline, kernel
from tokkit.kernels.memory import (
    bytes_at,
    copy_from,
    int8_at,
    int32_at,
    int64_at,
    item_bytes,
    signed,
)
from tokkit.kernels.ragged import copy_bits

NO_LABEL = -100  # ignored by torch's cross-entropy


@inline
def _fill_sequence(
    row: int,
    start: int,
    stop: int,
    segment_length: int,
    out_types: Int64,
    out_positions: Int64,
    out_rows: Int64,
) -> None:
    """Write types, positions and row of one sequence; a loop each, which LLVM vectorizes."""
    middle = min(start + segment_length, stop)
    for token in range(start, middle):
        out_types[token] = 0
    for token in range(middle, stop):
        out_types[token] = 1
    for token in range(start, stop):
        out_positions[token] = token - start
    for token in range(start, stop):
        out_rows[token] = row


@kernel
def flatten_batches(
    ids: Ids,
    offsets: Int64,
    segment_lengths: Int64,
    pair_labels: Int64,
    masked_positions: UInt16,
    masked_labels: Ids,
    masked_offsets: Int64,
    bounds: Int64,
    longest: Int64,
    pad_id: int,
    causal: bool,
    out_ids: Int64,
    out_types: Int64,
    out_positions: Int64,
    out_rows: Int64,
    out_cu_seqlens: Int32,
    out_predicted: Int64,
    out_labels: Int64,
    out_pair_labels: Int64,
    out_num_pairs: Int64,
) -> None:
    """Flatten instances into batches of consecutive ones.

    Args:
        ids: uint16 or uint32, the tokens of all instances.
        offsets: int64 ``[num_instances + 1]``, into ``ids``.
        segment_lengths: int64 ``[num_instances]``, number of tokens of type 0.
        pair_labels: int64 ``[num_instances]``, or ``NO_LABEL``.
        masked_positions: uint16, positions within each instance.
        masked_labels: same type as ``ids``, the tokens to predict there.
        masked_offsets: int64 ``[num_instances + 1]``, into both.
        bounds: int64 ``[4, num_batches + 1]``: where each batch begins among the instances, the
            flat tokens, the sequences and the predictions. Each batch must have room.
        longest: int64 ``[num_batches]``, length of the sequences of padding, except the last.
        pad_id: id of the padding.
        causal: predict all tokens but the first of each instance, each from the position before
            it, and ignore masks.
        out_ids: int64, the tokens of all batches.
        out_types: int64, 0 in the first segment, 1 in the second.
        out_positions: int64, position of each token in its sequence.
        out_rows: int64, number of its sequence in the batch.
        out_cu_seqlens: int32, where sequences begin in their batch: one more per batch than it has.
        out_predicted: int64, positions in the batch to predict at.
        out_labels: int64, the tokens to predict, or ``NO_LABEL``.
        out_pair_labels: int64, of the sequences.
        out_num_pairs: int64 ``[num_batches]``, number of sequences with a pair label.
    """
    for batch in range(len(longest)):
        first_row, last_row = bounds[0, batch], bounds[0, batch + 1]
        first_token, last_token = bounds[1, batch], bounds[1, batch + 1]
        sequence, last_sequence = bounds[2, batch], bounds[2, batch + 1]
        prediction, last_prediction = bounds[3, batch], bounds[3, batch + 1]
        first_sequence = sequence
        ahead = first_token - offsets[first_row]  # from a place in ``ids`` to one in the output
        end = first_token
        num_pairs = 0
        out_cu_seqlens[sequence + batch] = 0
        for row in range(first_row, last_row):
            start, end = offsets[row] + ahead, offsets[row + 1] + ahead
            for token in range(start, end):
                out_ids[token] = ids[token - ahead]
            _fill_sequence(
                row - first_row,
                start,
                end,
                segment_lengths[row],
                out_types,
                out_positions,
                out_rows,
            )
            out_pair_labels[sequence] = pair_labels[row]
            num_pairs += pair_labels[row] != NO_LABEL
            if causal:
                for token in range(start, end - 1):
                    out_predicted[prediction] = token - first_token
                    out_labels[prediction] = ids[token - ahead + 1]
                    prediction += 1
            else:
                for masked in range(masked_offsets[row], masked_offsets[row + 1]):
                    out_predicted[prediction] = start - first_token + masked_positions[masked]
                    out_labels[prediction] = masked_labels[masked]
                    prediction += 1
            sequence += 1
            out_cu_seqlens[sequence + batch] = end - first_token
        for padding in range(sequence, last_sequence):
            start, end = end, min(end + longest[batch], last_token)
            for token in range(start, end):
                out_ids[token] = pad_id
            _fill_sequence(
                padding - first_sequence, start, end, 0, out_types, out_positions, out_rows
            )
            out_cu_seqlens[padding + batch + 1] = end - first_token
            out_pair_labels[padding] = NO_LABEL
        for place in range(prediction, last_prediction):
            out_predicted[place] = 0
            out_labels[place] = NO_LABEL
        out_num_pairs[batch] = num_pairs


TABLE_DTYPE = np.dtype(
    [  # addresses of the first elements; offsets have one more element than there are rows
        ("input_ids", np.int64),  # uint16 or uint32; 0 if the record batch is not mapped yet
        ("offsets", np.int64),  # int64, into input_ids
        ("masked_positions", np.int64),  # uint16
        ("masked_labels", np.int64),  # same type as input_ids
        ("masked_offsets", np.int64),  # int64, into both
        ("word_starts", np.int64),  # packed, a bit per token
        # These are no addresses.
        ("first_bit", np.int64),  # where the bits of the first row begin
        ("num_ids", np.int64),
        ("num_masked", np.int64),
    ]
)


@inline
def _largest_of(values: Ids, number: int) -> int:
    """Return the largest of the first ``number`` values, or 0."""
    if not number:
        return 0
    largest = values[0]  # of the type of the values, so that LLVM compares many at a time
    for place in range(1, number):
        largest = max(largest, values[place])
    return signed(largest)


@kernel
def find_rows(numbers: UInt64, starts: Int64, table: Records, out_batches: Int64) -> int:
    """Find the record batch of each instance.

    Args:
        numbers: uint64, of instances, below the last of ``starts``.
        starts: int64 ``[num_batches + 1]``, number of the first instance of each; ascending.
        table: ``TABLE_DTYPE`` ``[num_batches]``.
        out_batches: int64, the record batch of each instance.

    Returns:
        The number of instances in record batches that are not mapped yet.
    """
    num_missing = 0
    for place in range(len(numbers)):
        number = np.int64(numbers[place])
        batch = 0
        beyond = len(table)
        while beyond - batch > 1:
            middle = (batch + beyond) >> 1
            if starts[middle] <= number:
                batch = middle
            else:
                beyond = middle
        out_batches[place] = batch
        num_missing += table[batch].input_ids == 0
    return num_missing


@inline
def _gather_values(
    numbers: UInt64,
    starts: Int64,
    batches: Int64,
    value_addresses: Int64,
    value_sizes: Int64,
    out_values: Int64,
) -> None:
    """Copy the columns with a value for each instance; see ``gather_rows``."""
    for column in range(len(value_sizes)):
        size = value_sizes[column]
        for place in range(len(numbers)):
            batch = batches[place]
            row = np.int64(numbers[place]) - starts[batch]
            address = value_addresses[batch, column] + size * row
            if size == 1:
                out_values[column, place] = int8_at(address)
            elif size == 4:
                out_values[column, place] = int32_at(address)
            else:
                out_values[column, place] = int64_at(address)


@kernel
def gather_rows(
    numbers: UInt64,
    starts: Int64,
    table: Records,
    value_addresses: Int64,
    value_sizes: Int64,
    batches: Int64,
    out_ids: Ids,
    out_offsets: Int64,
    out_values: Int64,
    out_masked_positions: UInt16,
    out_masked_labels: Ids,
    out_masked_offsets: Int64,
    out_word_starts: PackedBits,
) -> int:
    """Copy instances out of record batches, one after the other.

    Args:
        numbers: uint64, of instances.
        starts: int64 ``[num_batches + 1]``, number of the first instance of each record batch.
        table: ``TABLE_DTYPE`` ``[num_batches]``.
        value_addresses: int64 ``[num_batches, num_values]``, of columns with a value for each
            instance.
        value_sizes: int64 ``[num_values]``, bytes of a value in each of these columns: 1 or 4 of a
            signed integer, or 8 of anything.
        batches: int64, the record batch of each instance, which must be mapped.
        out_ids: uint16 or uint32, with room for the tokens of all.
        out_offsets: int64 ``[num_instances + 1]``, into ``out_ids``.
        out_values: int64 ``[num_values, num_instances]``, which the caller checks.
        out_masked_positions: uint16, with room for those of all.
        out_masked_labels: same type as ``out_ids``, with room for those of all.
        out_masked_offsets: int64 ``[num_instances + 1]``, into both.
        out_word_starts: packed, a bit per token, zeros; empty to leave them out.

    Returns:
        The largest id that was copied; -1 if offsets or positions are out of bounds.
    """
    id_size = item_bytes(out_ids)
    end = 0
    masked_end = 0
    out_offsets[0] = 0
    out_masked_offsets[0] = 0
    for place in range(len(numbers)):
        columns = table[batches[place]]
        row = np.int64(numbers[place]) - starts[batches[place]]
        first = int64_at(columns.offsets + 8 * row)
        length = int64_at(columns.offsets + 8 * (row + 1)) - first
        if first < 0 or length < 1 or first > columns.num_ids - length:
            return -1
        if length > len(out_ids) - end:
            return -1
        copy_from(columns.input_ids + id_size * first, out_ids, end, length)
        if out_word_starts.size:
            bit = columns.first_bit + first
            num_bytes = ((bit + length + 7) >> 3) - (bit >> 3)
            packed = bytes_at(columns.word_starts + (bit >> 3), num_bytes)
            copy_bits(packed, bit & 7, length, end, out_word_starts)
        end += length
        out_offsets[place + 1] = end
        first = int64_at(columns.masked_offsets + 8 * row)
        number = int64_at(columns.masked_offsets + 8 * (row + 1)) - first
        if first < 0 or number < 0 or first > columns.num_masked - number:
            return -1
        if number > len(out_masked_positions) - masked_end:
            return -1
        copy_from(columns.masked_positions + 2 * first, out_masked_positions, masked_end, number)
        copy_from(columns.masked_labels + id_size * first, out_masked_labels, masked_end, number)
        for masked in range(masked_end, masked_end + number):
            if out_masked_positions[masked] >= length:
                return -1
        masked_end += number
        out_masked_offsets[place + 1] = masked_end
    _gather_values(numbers, starts, batches, value_addresses, value_sizes, out_values)
    return max(_largest_of(out_ids, end), _largest_of(out_masked_labels, masked_end))
