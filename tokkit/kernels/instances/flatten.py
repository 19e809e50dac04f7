"""Flatten ragged instances into the arrays that a model takes, one or more batches at once.

Two instances of 3 and 5 tokens, with one token masked in each, in a batch with room for 10 tokens in
4 sequences and for 3 predictions:

    input_ids     2 9 3 2 4 3 5 3 1 1        cu_seqlens   0 3 8 10 10
    token_types   0 0 0 0 0 0 1 1 1 1        predicted    1 6 0
    positions     0 1 2 0 1 2 3 4 0 1        labels       7 8 -100
    rows          0 0 0 1 1 1 1 1 2 2        pair_labels  0 1 -100 -100

Unused tokens become sequences of padding (id 1 here), unused sequences are empty, and unused
predictions have no label.
"""

from tokkit.kernels.arrays import Ids, Int32, Int64, UInt16
from tokkit.kernels.jit import inline, kernel

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
    for batch in range(bounds.shape[1] - 1):
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
        out_predicted[prediction:last_prediction] = 0
        out_labels[prediction:last_prediction] = NO_LABEL
        out_num_pairs[batch] = num_pairs
