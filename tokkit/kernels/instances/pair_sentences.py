"""Cut documents into BERT's pairs of segments, as google-research/bert does.

A document of six sentences of 4 tokens each, with a target of 13 tokens. Sentences are collected
until the target is reached or the document ends:

    chunk 0 1 2 3    A ends after sentence 1 (a draw from 1, 2 or 3 sentences)
                     heads: B is the rest of the chunk:    A = 0 1   B = 2 3    label 0
                     tails: B is from another document:    A = 0 1   B = ? ?    label 1

After heads the next chunk begins at sentence 4. After tails sentences 2 and 3 were not used, and
the next chunk begins with them. So in one pass over a document each of its sentences is in an A or
in a following B exactly once. A chunk of one sentence is all A, and its B is random.

The kernel only tells where segments are. For a random B it draws the other document, and 64 bits
that select its first sentence when that document is read. The other document is drawn from ranges of
documents: one of these, and then one of its documents in the split. The whole folder is one range if
it has few record batches, so that the draws do not depend on how documents are spread over them. Else
there are 32 ranges, record batches that ``draw_strata`` drew for the unit.

ALBERT's pairs are of one document: there is no random B, and tails swaps A and B. A chunk takes a
second sentence even if the first alone reaches the target, and a last sentence that stays alone
gives no pair (google-research/albert makes random pairs of both):

    chunk 0 1 2 3    heads:  A = 0 1   B = 2 3   label 0      tails:  A = 2 3   B = 0 1   label 1

A document's draws are blocks 0, 1, 2, … of ``(PAIR, pass, document)``: first whether the pass is
short and how short, then for each chunk one block for the end of A and the coin, and after tails
one or more for the other document, until it is a different one in the same split: another document
of the same range if the last was of the other split, and another range if it was the same document.
"""

import numpy as np

from tokkit.kernels.arrays import INDEX_SHIFT, Bools, Int32, Int64, Records, UInt64
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.philox import join, philox, uniform_below

# For a random B ``pair_sentences`` writes ``source`` and ``source_draw``, and the length to reach as
# ``b_length``; ``copy_segments`` writes the rest.
PAIR_DTYPE = np.dtype(
    [
        ("index", np.uint64),  # document << 24 | number of the pair: the index by which it draws
        ("a_start", np.int64),  # first token of A
        ("a_length", np.int64),
        ("b_start", np.int64),  # first token of B, among the copied ones if it is random
        ("b_length", np.int64),
        ("b_whole", np.int64),  # length of B before truncation
        ("source", np.uint64),  # the document that a random B is from
        ("source_draw", np.uint64),  # 64 bits that its first sentence is drawn from
        ("is_random", np.bool_),
        ("is_swapped", np.bool_),  # B is before A in the document
    ],
    align=True,
)

_ONE = np.uint64(1)
_TAILS = np.uint64(1 << 31)  # a lane is below it one time in two


@splice
def _is_held_out(
    document: np.uint64, seed: np.uint64, hold_out_stream: np.uint64, eval_threshold: np.uint64
) -> bool:
    """Return whether a document belongs to the evaluation split."""
    return bool(philox(seed, hold_out_stream, document, np.uint64(0))[0] < eval_threshold)


@kernel
def mark_held_out(
    first_document: np.uint64,
    seed: np.uint64,
    hold_out_stream: np.uint64,
    eval_threshold: np.uint64,
    out_held_out: Bools,
) -> None:
    """Mark which of consecutive documents are held out for evaluation.

    Args:
        first_document: number of the first.
        seed: random seed.
        hold_out_stream: ``stream_of(HOLD_OUT, 0)``.
        eval_threshold: ``chance_threshold`` of the share that is held out.
        out_held_out: bool ``[num_documents]``.
    """
    for row in range(len(out_held_out)):
        document = first_document + np.uint64(row)
        out_held_out[row] = _is_held_out(document, seed, hold_out_stream, eval_threshold)


@kernel
def draw_strata(
    size: np.uint64, seed: np.uint64, stream: np.uint64, index: np.uint64, out_ranks: UInt64
) -> None:
    """Cut a range into equal parts and draw one of each.

    Parts may end within an element: each is drawn as often as any other, all parts taken together.

    Args:
        size: of the range, from 1 to 2^32.
        seed: random seed.
        stream: of the draws.
        index: of the draws.
        out_ranks: uint64, an element of [0, size) from each part, in ascending order.
    """
    num_parts = np.uint64(out_ranks.size)
    for number in range(out_ranks.size):
        part = np.uint64(number)
        lanes = philox(seed, stream, index, part)
        drawn = uniform_below(join(lanes[0], lanes[1]), size)
        out_ranks[number] = (part * size + drawn) // num_parts


@kernel
def pair_sentences(
    documents: UInt64,
    token_offsets: Int64,
    sentence_offsets: Int64,
    sentence_lengths: Int32,
    first_row: int,
    max_pairs: int,
    max_tokens: int,
    short_threshold: np.uint64,
    drop_single: bool,
    swap: bool,
    range_starts: UInt64,
    range_sizes: UInt64,
    held_out: bool,
    eval_threshold: np.uint64,
    seed: np.uint64,
    pair_stream: np.uint64,
    hold_out_stream: np.uint64,
    out_pairs: Records,
) -> tuple[int, int, int, int]:
    """Cut documents of one split into pairs, until there are enough pairs.

    Args:
        documents: uint64 ``[num_rows]``, their numbers in the token folder.
        token_offsets: int64 ``[num_rows + 1]``, where their tokens begin.
        sentence_offsets: int64 ``[num_rows + 1]``, into ``sentence_lengths``.
        sentence_lengths: int32, number of tokens of each sentence, at least 1.
        first_row: the row to begin with.
        max_pairs: stop after a document when there are as many.
        max_tokens: most tokens of A and B together.
        short_threshold: ``chance_threshold`` of a pass with a shorter target, which is then uniform
            from 2 to ``max_tokens``.
        drop_single: documents of one sentence give no pair.
        swap: ALBERT's pairs instead of BERT's.
        range_starts: uint64 ``[num_ranges]``, the first document of each range.
        range_sizes: uint64 ``[num_ranges]``, number of its documents, some of them in the split.
        held_out: the split, of which the ranges have at least two documents.
        eval_threshold: ``chance_threshold`` of the share that is held out.
        seed: random seed.
        pair_stream: ``stream_of(PAIR, pass)``.
        hold_out_stream: ``stream_of(HOLD_OUT, 0)``.
        out_pairs: ``PAIR_DTYPE``, with room for a pair per sentence from ``first_row`` on.

    Returns:
        The row to go on with, the number of pairs, the number of short passes, and the number of
        tokens in last sentences that stayed alone.
    """
    num_ranges = np.uint64(range_starts.size)
    num_pairs = 0
    num_short = 0
    num_alone = 0
    row = first_row
    while row < len(documents) and num_pairs < max_pairs:
        document = documents[row]
        sentence = sentence_offsets[row]
        end = sentence_offsets[row + 1]
        token = token_offsets[row]
        row += 1
        if drop_single and end - sentence == 1:
            continue

        lanes = philox(seed, pair_stream, document, np.uint64(0))
        block = _ONE
        target = np.int64(max_tokens)
        if lanes[2] < short_threshold:
            target = 2 + np.int64(
                uniform_below(join(lanes[0], lanes[1]), np.uint64(max_tokens - 1))
            )
            num_short += 1

        ordinal = np.uint64(0)
        while sentence < end:
            chunk_end = sentence
            length = 0
            while chunk_end < end and (length < target or (swap and chunk_end - sentence < 2)):
                length += sentence_lengths[chunk_end]
                chunk_end += 1
            if swap and chunk_end - sentence < 2:
                num_alone += length
                break

            lanes = philox(seed, pair_stream, document, block)
            block += _ONE
            a_end = chunk_end
            if chunk_end - sentence > 1:
                bound = np.uint64(chunk_end - sentence - 1)
                a_end = sentence + 1 + np.int64(uniform_below(join(lanes[0], lanes[1]), bound))
            is_tails = lanes[2] < _TAILS
            is_random = not swap and (a_end == chunk_end or is_tails)
            a_length = 0
            for number in range(sentence, a_end):
                a_length += sentence_lengths[number]

            pair = out_pairs[num_pairs]
            pair["index"] = document << INDEX_SHIFT | ordinal
            pair["a_start"] = token
            pair["a_length"] = a_length
            pair["is_random"] = is_random
            num_pairs += 1
            ordinal += _ONE
            if is_random:
                source = document
                while source == document:
                    chosen = num_ranges
                    while True:
                        lanes = philox(seed, pair_stream, document, block)
                        block += _ONE
                        drawn = join(lanes[0], lanes[1])
                        if chosen == num_ranges:
                            chosen = uniform_below(drawn, num_ranges)
                            drawn *= num_ranges  # the fraction that is left
                        source = range_starts[chosen] + uniform_below(drawn, range_sizes[chosen])
                        if held_out == _is_held_out(source, seed, hold_out_stream, eval_threshold):
                            break
                pair["source"] = source
                pair["source_draw"] = join(lanes[2], lanes[3])
                pair["b_length"] = target - a_length
                sentence = a_end
                token += a_length
            else:
                pair["b_start"] = token + a_length
                pair["b_length"] = length - a_length
                if swap and is_tails:
                    pair["is_swapped"] = True
                    pair["a_start"] = token + a_length
                    pair["a_length"] = length - a_length
                    pair["b_start"] = token
                    pair["b_length"] = a_length
                pair["b_whole"] = pair["b_length"]
                sentence = chunk_end
                token += length
    return row, num_pairs, num_short, num_alone
