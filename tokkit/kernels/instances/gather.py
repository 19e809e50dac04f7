"""Gather instances from record batches anywhere in memory.

The record batches of a shard are separate arrays, and a corpus has thousands of them, while a batch
of 256 instances in shuffled order takes hardly two from any. A call per record batch would cost more
than the copying. So the kernels take a table with the addresses of columns, a row per record batch.
For each instance they find the record batch by its number, then the row:

    starts    0   3   5   9          4 is row 1 of the second, whose addresses are in table[1]
    table     {input_ids: 0x7f01…, offsets: 0x7f05…, …}
              {input_ids: 0x7f09…, …}
              {input_ids: 0: not mapped yet}

Unlike other kernels, this one checks what it copies by: the columns were checked when they were
mapped, but another process may write to their file. The largest id that is copied tells whether all
are in the vocabulary.
"""

import numpy as np

from tokkit.kernels.arrays import Ids, Int64, PackedBits, Records, UInt16, UInt64
from tokkit.kernels.jit import inline, kernel
from tokkit.kernels.memory import copy_from, signed
from tokkit.kernels.ragged import copy_bits

TABLE_DTYPE = np.dtype(
    [  # addresses of the first elements; offsets have one more element than there are rows
        ("input_ids", np.int64),  # uint16 or uint32; 0 if the record batch is not mapped yet
        ("offsets", np.int64),  # int64, into input_ids
        ("segment_length", np.int64),  # int32
        ("document", np.int64),  # uint64
        ("next_sentence_label", np.int64),  # int8
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


@kernel
def gather_rows(
    numbers: UInt64,
    starts: Int64,
    table: Records,
    batches: Int64,
    out_ids: Ids,
    out_offsets: Int64,
    out_segment_lengths: Int64,
    out_documents: UInt64,
    out_labels: Int64,
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
        batches: int64, the record batch of each instance, which must be mapped.
        out_ids: uint16 or uint32, with room for the tokens of all.
        out_offsets: int64 ``[num_instances + 1]``, into ``out_ids``.
        out_segment_lengths: int64 ``[num_instances]``.
        out_documents: uint64 ``[num_instances]``.
        out_labels: int64 ``[num_instances]``, of pairs.
        out_masked_positions: uint16, with room for those of all.
        out_masked_labels: same type as ``out_ids``, with room for those of all.
        out_masked_offsets: int64 ``[num_instances + 1]``, into both.
        out_word_starts: packed, a bit per token, zeros; empty to leave them out.

    Returns:
        The largest id that was copied; -1 if offsets, lengths or positions are out of bounds.
    """
    bounds = np.empty(2, np.int64)
    segment_length = np.empty(1, np.int32)
    label = np.empty(1, np.int8)
    packed = np.empty(1, np.uint8)
    id_size = out_ids.itemsize
    end = 0
    masked_end = 0
    out_offsets[0] = 0
    out_masked_offsets[0] = 0
    for place in range(len(numbers)):
        columns = table[batches[place]]
        row = np.int64(numbers[place]) - starts[batches[place]]
        copy_from(columns.offsets + 8 * row, bounds, 0, 2)
        first = bounds[0]
        length = bounds[1] - first
        if first < 0 or length < 1 or first > columns.num_ids - length:
            return -1
        if length > len(out_ids) - end:
            return -1
        copy_from(columns.input_ids + id_size * first, out_ids, end, length)
        if out_word_starts.size:
            bit = columns.first_bit + first
            num_bytes = ((bit + length + 7) >> 3) - (bit >> 3)
            if num_bytes > packed.size:
                packed = np.empty(2 * num_bytes, np.uint8)
            copy_from(columns.word_starts + (bit >> 3), packed, 0, num_bytes)
            copy_bits(packed, bit & 7, length, end, out_word_starts)
        end += length
        out_offsets[place + 1] = end
        copy_from(columns.segment_length + 4 * row, segment_length, 0, 1)
        if segment_length[0] < 0 or segment_length[0] > length:
            return -1
        out_segment_lengths[place] = segment_length[0]
        copy_from(columns.document + 8 * row, out_documents, place, 1)
        copy_from(columns.next_sentence_label + row, label, 0, 1)
        out_labels[place] = label[0]
        copy_from(columns.masked_offsets + 8 * row, bounds, 0, 2)
        first = bounds[0]
        number = bounds[1] - first
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
    return max(_largest_of(out_ids, end), _largest_of(out_masked_labels, masked_end))
