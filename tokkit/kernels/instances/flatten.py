"""Flattening: ragged instances as the flat arrays that a model takes, one or more batches at once.

Two instances of 3 and 5 tokens, one token masked in each, where the arrays of the batch have room
for 10 tokens in 4 sequences and for 3 predictions:

    input_ids     2 9 3 2 4 3 5 3 1 1        cu_seqlens   0 3 8 10 10
    token_types   0 0 0 0 0 0 1 1 1 1        predicted    1 6 0
    positions     0 1 2 0 1 2 3 4 0 1        labels       7 8 -100
    rows          0 0 0 1 1 1 1 1 2 2        pair_labels  0 1 -100 -100

What is left of the tokens are sequences of padding (whose id is 1 here), what is left of the sequences are empty ones,
and what is left of the predictions has no label.
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.instances.mask_tokens import Ids
from tokkit.kernels.jit import inline, kernel

NO_LABEL = -100  # what torch's cross-entropy leaves out


@inline
def fill_sequence(
    row: int,
    start: int,
    stop: int,
    segment_length: int,
    out_types: NDArray[np.int64],
    out_positions: NDArray[np.int64],
    out_rows: NDArray[np.int64],
) -> None:
    """Say of the tokens of one sequence where they stand; one loop each, which LLVM vectorizes."""
    middle = min(start + segment_length, stop)
    for token in range(start, middle):
        out_types[token] = 0
    for token in range(middle, stop):
        out_types[token] = 1
    for token in range(start, stop):
        out_positions[token] = token - start
    for token in range(start, stop):
        out_rows[token] = row


@inline
def flatten_batch(
    ids: Ids,
    offsets: NDArray[np.int64],
    segment_lengths: NDArray[np.int64],
    pair_labels: NDArray[np.int64],
    masked_positions: NDArray[np.uint16],
    masked_labels: Ids,
    masked_offsets: NDArray[np.int64],
    pad_id: int,
    longest: int,
    causal: bool,  # noqa: FBT001  kernels take arguments by position
    out_ids: NDArray[np.int64],
    out_types: NDArray[np.int64],
    out_positions: NDArray[np.int64],
    out_rows: NDArray[np.int64],
    out_cu_seqlens: NDArray[np.int32],
    out_predicted: NDArray[np.int64],
    out_labels: NDArray[np.int64],
    out_pair_labels: NDArray[np.int64],
) -> int:
    """Lay one batch out; see ``flatten_batches``. Returns how many pairs have a label."""
    num_rows = len(offsets) - 1
    base = offsets[0]
    num_pairs = 0
    predicted = 0
    end = 0
    out_cu_seqlens[0] = 0
    for row in range(num_rows):
        start, end = offsets[row] - base, offsets[row + 1] - base
        for token in range(start, end):
            out_ids[token] = ids[base + token]
        fill_sequence(row, start, end, segment_lengths[row], out_types, out_positions, out_rows)
        out_cu_seqlens[row + 1] = end
        out_pair_labels[row] = pair_labels[row]
        num_pairs += pair_labels[row] != NO_LABEL
        if causal:
            for token in range(start, end - 1):
                out_predicted[predicted] = token
                out_labels[predicted] = ids[base + token + 1]
                predicted += 1
        else:
            for masked in range(masked_offsets[row], masked_offsets[row + 1]):
                out_predicted[predicted] = start + masked_positions[masked]
                out_labels[predicted] = masked_labels[masked]
                predicted += 1
    for row in range(num_rows, len(out_pair_labels)):
        start, end = end, min(end + longest, len(out_ids))
        for token in range(start, end):
            out_ids[token] = pad_id
        fill_sequence(row, start, end, 0, out_types, out_positions, out_rows)
        out_cu_seqlens[row + 1] = end
        out_pair_labels[row] = NO_LABEL
    out_predicted[predicted:] = 0
    out_labels[predicted:] = NO_LABEL
    return num_pairs


@kernel
def flatten_batches(
    ids: Ids,
    offsets: NDArray[np.int64],
    segment_lengths: NDArray[np.int64],
    pair_labels: NDArray[np.int64],
    masked_positions: NDArray[np.uint16],
    masked_labels: Ids,
    masked_offsets: NDArray[np.int64],
    bounds: NDArray[np.int64],
    longest: NDArray[np.int64],
    pad_id: int,
    causal: bool,  # noqa: FBT001  kernels take arguments by position
    out_ids: NDArray[np.int64],
    out_types: NDArray[np.int64],
    out_positions: NDArray[np.int64],
    out_rows: NDArray[np.int64],
    out_cu_seqlens: NDArray[np.int32],
    out_predicted: NDArray[np.int64],
    out_labels: NDArray[np.int64],
    out_pair_labels: NDArray[np.int64],
    out_num_pairs: NDArray[np.int64],
) -> None:
    """Lay instances out as batches of consecutive ones.

    Args:
        ids: uint16 or uint32, of all instances.
        offsets: int64 [num_instances + 1], into ``ids``.
        segment_lengths: int64 [num_instances], tokens of type 0.
        pair_labels: int64 [num_instances]; ``NO_LABEL`` where there is none.
        masked_positions: within each instance.
        masked_labels: as ``ids``, what is predicted there.
        masked_offsets: int64 [num_instances + 1], into both.
        bounds: int64 [4, num_batches + 1]: where each batch begins among the instances, among the
            tokens laid out, among the sequences and among the predictions. The room must do.
        longest: int64 [num_batches], length of the sequences of padding, but for the last.
        pad_id: the id of which they are.
        causal: predicted are, rather than masked tokens, all but the first of each instance, from
            the place before them.
        out_ids: int64, the tokens of all batches.
        out_types: int64, likewise: 0 in the first segment, 1 in the second.
        out_positions: int64, likewise: a token's place in its sequence.
        out_rows: int64, likewise: the number of its sequence in the batch.
        out_cu_seqlens: int32, where sequences begin in their batch: one more a batch than it has.
        out_predicted: int64, where in its batch something is predicted.
        out_labels: int64, what; ``NO_LABEL`` where nothing is.
        out_pair_labels: int64, of the sequences.
        out_num_pairs: int64 [num_batches], sequences whose pair has a label.
    """
    for batch in range(bounds.shape[1] - 1):
        row, last_row = bounds[0, batch], bounds[0, batch + 1]
        token, last_token = bounds[1, batch], bounds[1, batch + 1]
        sequence, last_sequence = bounds[2, batch], bounds[2, batch + 1]
        prediction, last_prediction = bounds[3, batch], bounds[3, batch + 1]
        out_num_pairs[batch] = flatten_batch(
            ids,
            offsets[row : last_row + 1],
            segment_lengths[row:last_row],
            pair_labels[row:last_row],
            masked_positions,
            masked_labels,
            masked_offsets[row : last_row + 1],
            pad_id,
            longest[batch],
            causal,
            out_ids[token:last_token],
            out_types[token:last_token],
            out_positions[token:last_token],
            out_rows[token:last_token],
            out_cu_seqlens[sequence + batch : last_sequence + batch + 1],
            out_predicted[prediction:last_prediction],
            out_labels[prediction:last_prediction],
            out_pair_labels[sequence:last_sequence],
        )
