"""Choose T5's corrupted spans, and XLNet's targets in the order in which they are predicted.

T5. A block of 12 tokens, of which 4 are noise in 2 spans. Noise and rest are each cut into 2
lengths, every way of cutting being equally likely, and alternate, the rest first:

    noise  4 = 1 + 3      rest  8 = 5 + 3
    block     a b c d e F g h i J K L
    inputs    a b c d e <0> g h i <1> </s>
    targets   <0> F <1> J K L </s>

A number of items is cut by walking along the gaps between them: the next gap becomes a cut with the
probability of cuts still needed by gaps left (Knuth, "The art of computer programming", volume 2,
algorithm 3.4.2S). A gap takes one word of Philox, half a block.

XLNet predicts about one token in K. Repeatedly a length of 1 to 5 is drawn, and a span of that
length is put at a random place in a context of K times the length; the next context begins where
this one ends. Special tokens in a span are skipped. The targets are put in random order: that is
the order of factorization, in which all tokens that are not predicted come first.

    K = 2    length 2, context of 4    length 1, context of 2
             a B C d                   e F                       targets, say, 5 1 2

Sources: Raffel et al., "Exploring the limits of transfer learning", 2020, and
``random_spans_noise_mask`` in google-research/text-to-text-transfer-transformer,
``t5/data/preprocessors.py``; Yang et al., "XLNet", 2019, section 2.3 and appendix A.4, whose
span-based prediction this is.
"""

import numpy as np

from tokkit.kernels.arrays import Ids, Int64, PackedBits, UInt16, UInt64
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import copy_values
from tokkit.kernels.philox import join, philox, uniform_below
from tokkit.kernels.ragged import copy_bits

LONGEST_TARGET_SPAN = 5  # of XLNet

_ONE = np.uint64(1)


@splice
def _draw_word(
    number: np.uint64, index: np.uint64, seed: np.uint64, stream: np.uint64
) -> np.uint64:
    """Return word ``number`` of an index: two to a block."""
    lanes = philox(seed, stream, index, number >> _ONE)
    return join(lanes[2], lanes[3]) if number & _ONE else join(lanes[0], lanes[1])


@splice
def _draw_lengths(
    num_items: int,
    first_word: int,
    index: np.uint64,
    seed: np.uint64,
    stream: np.uint64,
    out_lengths: Int64,
) -> None:
    """Cut ``num_items`` into ``len(out_lengths)`` lengths of at least 1."""
    number = 0
    length = np.int64(1)
    for gap in range(num_items - 1):
        word = _draw_word(np.uint64(first_word + gap), index, seed, stream)
        num_cuts = len(out_lengths) - 1 - number
        if np.int64(uniform_below(word, np.uint64(num_items - 1 - gap))) < num_cuts:
            out_lengths[number] = length
            number += 1
            length = np.int64(0)
        length += 1
    out_lengths[number] = length


@kernel
def corrupt_spans(
    ids: Ids,
    word_starts: PackedBits,
    indices: UInt64,
    num_noise: int,
    num_spans: int,
    sentinel_ids: Ids,
    end_id: int,
    seed: np.uint64,
    stream: np.uint64,
    noise_lengths: Int64,
    rest_lengths: Int64,
    out_ids: Ids,
    out_word_starts: PackedBits,
    out_targets: Ids,
) -> None:
    """Corrupt blocks of one length.

    Args:
        ids: the blocks, one after the other.
        word_starts: packed, a bit per token of ``ids``.
        indices: uint64 ``[num_blocks]``, the index by which each draws.
        num_noise: tokens of a block that become targets.
        num_spans: number of spans of noise; at most ``num_noise`` and the number of other tokens.
        sentinel_ids: the ids that stand for spans, in order; at least ``num_spans``.
        end_id: the id that inputs and targets end with.
        seed: random seed.
        stream: ``stream_of(NOISE, pass)``.
        noise_lengths: int64 ``[num_spans]``, memory for lengths of spans.
        rest_lengths: int64 ``[num_spans]``, memory for the lengths of what is between them.
        out_ids: inputs: for each block its tokens without the noise, the sentinels, the end.
        out_word_starts: packed, a bit per token of ``out_ids``, zeros; stays zero at sentinels and
            ends.
        out_targets: targets: for each block the sentinels, the noise, the end.
    """
    block_tokens = len(ids) // max(1, len(indices))
    start = 0
    position = 0
    target = 0
    for row in range(len(indices)):
        index = indices[row]
        _draw_lengths(num_noise, 0, index, seed, stream, noise_lengths)
        num_rest = block_tokens - num_noise
        _draw_lengths(num_rest, num_noise - 1, index, seed, stream, rest_lengths)
        for span in range(num_spans):
            length = rest_lengths[span]
            copy_values(ids, start, out_ids, position, length)
            copy_bits(word_starts, start, length, position, out_word_starts)
            start += length
            position += length
            out_ids[position] = sentinel_ids[span]
            position += 1

            length = noise_lengths[span]
            out_targets[target] = sentinel_ids[span]
            copy_values(ids, start, out_targets, target + 1, length)
            start += length
            target += length + 1
        out_ids[position] = end_id
        out_targets[target] = end_id
        position += 1
        target += 1


@kernel
def order_targets(
    ids: Ids,
    offsets: Int64,
    indices: UInt64,
    special_ids: Ids,
    predict_every: int,
    seed: np.uint64,
    stream: np.uint64,
    out_positions: UInt16,
    out_offsets: Int64,
) -> None:
    """Choose the tokens of each instance to predict, and their order.

    Args:
        ids: of the instances.
        offsets: int64 ``[num_instances + 1]``, into ``ids``.
        indices: uint64 ``[num_instances]``, the index by which each draws.
        special_ids: tokens that are never predicted.
        predict_every: K.
        seed: random seed.
        stream: ``stream_of(PERMUTATION, pass)``.
        out_positions: uint16, positions within the instance, with room for one per token.
        out_offsets: int64 ``[num_instances + 1]``, into ``out_positions``.
    """
    out = 0
    out_offsets[0] = 0
    for row in range(len(indices)):
        first = out
        length = offsets[row + 1] - offsets[row]
        context = np.int64(0)
        number = np.uint64(0)
        while context < length:
            word = _draw_word(number, indices[row], seed, stream)
            span = 1 + np.int64(uniform_below(word, np.uint64(LONGEST_TARGET_SPAN)))
            word = _draw_word(number + _ONE, indices[row], seed, stream)
            number += np.uint64(2)
            num_starts = np.uint64(span * predict_every - span + 1)
            start = context + np.int64(uniform_below(word, num_starts))
            for position in range(start, min(start + span, length)):
                token = ids[offsets[row] + position]
                is_special = False
                for place in range(len(special_ids)):
                    is_special |= token == special_ids[place]
                if not is_special:
                    out_positions[out] = position
                    out += 1
            context += span * predict_every
        for last in range(out - 1, first, -1):
            word = _draw_word(number, indices[row], seed, stream)
            number += _ONE
            other = first + np.int64(uniform_below(word, np.uint64(last - first + 1)))
            position = out_positions[last]
            out_positions[last] = out_positions[other]
            out_positions[other] = position
        out_offsets[row + 1] = out
