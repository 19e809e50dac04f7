"""Noise: T5's corrupted spans, and XLNet's targets in the order in which they are predicted.

T5. A block of 12 tokens, of which 4 are noise in 2 spans. Both the noise and the rest are cut into
2 lengths, every way of cutting alike, and they take turns, the rest first:

    noise  4 = 1 + 3      rest  8 = 5 + 3
    block     a b c d e F g h i J K L
    inputs    a b c d e <0> g h i <1> </s>
    targets   <0> F <1> J K L </s>

A number of items is cut by going through the gaps between them: of the gaps that are left, as many
are cuts as are still wanted, so the next is one with that chance (Knuth, "The art of computer
programming", volume 2, algorithm 3.4.2S). A gap takes one word of Philox, half a block.

XLNet predicts about one token in K. Again and again a length of 1 to 5 is drawn, and a span of
that length is put anywhere in a context of K times the length; the next context begins where this
one ends. Control tokens in a span are passed by. What is found is put into a random order: that
is the order of factorization, in which all tokens that are not predicted come first.

    K = 2    length 2, context of 4    length 1, context of 2
             a B C d                   e F                       targets, say, 5 1 2

Sources: Raffel et al., "Exploring the limits of transfer learning", 2020, and ``random_spans_noise_mask``
in google-research/text-to-text-transfer-transformer, ``t5/data/preprocessors.py``; Yang et al.,
"XLNet", 2019, section 2.3 and appendix A.4, whose span-based prediction this is.
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.instances.mask_tokens import Ids
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import copy_values
from tokkit.kernels.philox import join, philox, uniform_below
from tokkit.kernels.ragged import copy_bits

LONGEST_SPAN = 5  # of XLNet's

_ONE = np.uint64(1)


@splice
def _draw_word(
    number: np.uint64, index: np.uint64, seed: np.uint64, stream: np.uint64
) -> np.uint64:
    """Word ``number`` of an index: two to a block."""
    lanes = philox(seed, stream, index, number >> _ONE)
    return join(lanes[2], lanes[3]) if number & _ONE else join(lanes[0], lanes[1])


@splice
def _draw_lengths(
    num_items: int,
    first_word: int,
    index: np.uint64,
    seed: np.uint64,
    stream: np.uint64,
    out_lengths: NDArray[np.int64],
) -> None:
    """Cut ``num_items`` into as many lengths, of at least 1, as ``out_lengths`` has room for."""
    number = 0
    length = np.int64(1)
    for gap in range(num_items - 1):
        word = _draw_word(np.uint64(first_word + gap), index, seed, stream)
        wanted = len(out_lengths) - 1 - number
        if np.int64(uniform_below(word, np.uint64(num_items - 1 - gap))) < wanted:
            out_lengths[number] = length
            number += 1
            length = np.int64(0)
        length += 1
    out_lengths[number] = length


@kernel
def corrupt_spans(
    ids: Ids,
    word_starts: NDArray[np.uint8],
    indices: NDArray[np.uint64],
    num_noise: int,
    num_spans: int,
    sentinel_ids: Ids,
    end_id: int,
    seed: np.uint64,
    stream: np.uint64,
    out_ids: Ids,
    out_word_starts: NDArray[np.uint8],
    out_targets: Ids,
) -> None:
    """Corrupt blocks of one length.

    Args:
        ids: the blocks, one after the other.
        word_starts: bits, one a token of ``ids``.
        indices: uint64 [num_blocks], the number by which each draws.
        num_noise: tokens of a block that become targets.
        num_spans: that these are cut into; at most ``num_noise``, and as many as the rest has.
        sentinel_ids: at least ``num_spans``, in the order in which they stand for spans.
        end_id: the id that inputs and targets end with.
        seed: of the draws.
        stream: ``stream_of(NOISE, pass)``.
        out_ids: the inputs: for each block its tokens less the noise, the sentinels, the end.
        out_word_starts: bits, likewise; zero, and left so at sentinels and ends.
        out_targets: the targets: for each block the noise, the sentinels, the end.
    """
    block_tokens = len(ids) // max(1, len(indices))
    noise_lengths = np.empty(num_spans, np.int64)
    rest_lengths = np.empty(num_spans, np.int64)
    start = 0
    position = 0
    target = 0
    for index in indices:
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
    offsets: NDArray[np.int64],
    indices: NDArray[np.uint64],
    control_ids: Ids,
    one_in: int,
    seed: np.uint64,
    stream: np.uint64,
    out_positions: NDArray[np.uint16],
    out_offsets: NDArray[np.int64],
) -> None:
    """Choose what is predicted of each instance, and in which order.

    Args:
        ids: of the instances.
        offsets: int64 [num_instances + 1], into ``ids``.
        indices: uint64 [num_instances], the number by which each draws.
        control_ids: tokens that are never predicted.
        one_in: K.
        seed: of the draws.
        stream: ``stream_of(PERMUTATION, pass)``.
        out_positions: uint16, with room for a position a token; within the instance.
        out_offsets: int64 [num_instances + 1], into ``out_positions``.
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
            span = 1 + np.int64(uniform_below(word, np.uint64(LONGEST_SPAN)))
            word = _draw_word(number + _ONE, indices[row], seed, stream)
            number += np.uint64(2)
            start = context + np.int64(uniform_below(word, np.uint64(span * one_in - span + 1)))
            for position in range(start, min(start + span, length)):
                token = ids[offsets[row] + position]
                is_control = False
                for control_id in control_ids:
                    is_control |= token == control_id
                if not is_control:
                    out_positions[out] = position
                    out += 1
            context += span * one_in
        for last in range(out - 1, first, -1):
            word = _draw_word(number, indices[row], seed, stream)
            number += _ONE
            other = first + np.int64(uniform_below(word, np.uint64(last - first + 1)))
            position = out_positions[last]
            out_positions[last] = out_positions[other]
            out_positions[other] = position
        out_offsets[row + 1] = out
