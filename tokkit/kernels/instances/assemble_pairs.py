"""Fetch random segments, truncate pairs, and assemble them to instances.

A pair that is too long loses one token at a time from the longer segment (ties: B). With room for
10 tokens, A of 9 and B of 5:

    excess 4:  A B  9 5 -> 8 5 -> 7 5 -> 6 5 -> 5 5

and if there had been a fifth to lose, B would have lost it, then A, then B. So the longer one first
loses the difference, and B and A lose the rest in turn, B first: no loop is needed. Each lost token
is taken from the segment's front or back by a fair coin, so the front's share is the number of
heads among as many coins: the bits of Philox's blocks, counted.

A cut at the front is moved back to the beginning of its word, and the back loses as many tokens
more, unless the word is longer than what is kept. google-research/bert leaves half words there.
The lengths are the same as without the move.

    tokens  un ##afford ##able prices rise     front 1, back 1
    there      ##afford ##able prices
    here    un ##afford ##able                 front 0, back 2
"""

import numpy as np

from tokkit.kernels.arrays import Ids, Int32, Int64, Integer, PackedBits, Records
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import copy_values, count_ones
from tokkit.kernels.philox import join, philox, uniform_below
from tokkit.kernels.ragged import copy_bits, get_bit

_ONE = np.uint64(1)


@splice
def _share_loss(
    a_length: np.int64, b_length: np.int64, max_tokens: int
) -> tuple[np.int64, np.int64]:
    """Return how many tokens A and B lose so that they have at most ``max_tokens`` together."""
    excess = max(np.int64(0), a_length + b_length - max_tokens)
    first = min(excess, abs(a_length - b_length))
    rest = excess - first
    a_loss = rest // 2
    b_loss = rest - a_loss
    if a_length > b_length:
        return a_loss + first, b_loss
    return a_loss, b_loss + first


@splice
def _count_heads(
    num_coins: np.int64, index: np.uint64, seed: np.uint64, stream: np.uint64
) -> np.int64:
    """Return how many of ``num_coins`` fair coins show heads."""
    heads = np.int64(0)
    block = np.uint64(0)
    while num_coins > 0:
        lanes = philox(seed, stream, index, block)
        block += _ONE
        for word in (join(lanes[0], lanes[1]), join(lanes[2], lanes[3])):
            if num_coins < 64:
                word &= (_ONE << np.uint64(max(np.int64(0), num_coins))) - _ONE  # noqa: PLW2901
            heads += count_ones(word)
            num_coins -= 64
    return heads


@splice
def _front_cut(
    length: np.int64,
    loss: np.int64,
    word_starts: PackedBits,
    start: np.int64,
    index: np.uint64,
    seed: np.uint64,
    stream: np.uint64,
) -> np.int64:
    """Return how many of the ``loss`` tokens that a segment loses are at its front.

    A cut within a word is moved back to its beginning, unless the word is longer than what is kept.

    Args:
        length: of the whole segment.
        loss: number of tokens that it loses.
        word_starts: packed, a bit per token.
        start: where the segment begins in ``word_starts``.
        index: the index by which the pair draws.
        seed: random seed.
        stream: of the draws.
    """
    cut = _count_heads(loss, index, seed, stream)
    kept = length - loss
    begin = cut
    while begin > 0 and not get_bit(word_starts, start + begin):
        begin -= 1
        if cut - begin >= kept:
            return cut
    end = cut + 1
    while begin < cut and end < length and not get_bit(word_starts, start + end):
        end += 1
        if end - begin > kept:
            return cut
    return begin


@kernel
def copy_segments(
    rows: Int64,
    source_rows: Int64,
    ids: Ids,
    token_offsets: Int64,
    sentence_lengths: Int32,
    sentence_offsets: Int64,
    word_starts: PackedBits,
    first_bit: int,
    max_tokens: int,
    seed: np.uint64,
    front_stream: np.uint64,
    out_start: Integer,
    out_pairs: Records,
    out_ids: Ids,
    out_word_starts: PackedBits,
) -> Integer:
    """Fetch random segments B from one record batch of the token folder.

    A segment begins at a uniformly drawn sentence and takes whole sentences until it has the
    length to reach, or the document ends. Only what truncation leaves of it is copied.

    Args:
        rows: int64 ``[n]``, the pairs to fill in.
        source_rows: int64 ``[n]``, the row of the record batch that each takes from.
        ids: of the record batch.
        token_offsets: int64 ``[num_rows + 1]``, into ``ids``.
        sentence_lengths: int32, number of tokens of each sentence.
        sentence_offsets: int64 ``[num_rows + 1]``, into ``sentence_lengths``.
        word_starts: packed, a bit per token.
        first_bit: the bit of the first token in ``word_starts``.
        max_tokens: most tokens of A and B together.
        seed: random seed.
        front_stream: ``stream_of(FRONT_OF_B, pass)``.
        out_start: where to write the first segment in ``out_ids``.
        out_pairs: ``PAIR_DTYPE``; ``b_start``, ``b_length`` and ``b_whole`` are written.
        out_ids: same type as ``ids``, with room for ``max_tokens`` per pair.
        out_word_starts: packed, a bit per token of ``out_ids``, zero from ``out_start`` on.

    Returns:
        Where to write the next segment.
    """
    for number in range(len(rows)):
        pair = out_pairs[rows[number]]
        row = source_rows[number]
        sentence = sentence_offsets[row]
        end = sentence_offsets[row + 1]
        start = token_offsets[row]
        first = sentence + np.int64(uniform_below(pair["source_draw"], np.uint64(end - sentence)))
        for passed in range(sentence, first):
            start += sentence_lengths[passed]
        length = np.int64(sentence_lengths[first])
        sentence = first + 1
        while length < pair["b_length"] and sentence < end:
            length += sentence_lengths[sentence]
            sentence += 1

        _, loss = _share_loss(pair["a_length"], length, max_tokens)
        kept = length - loss
        cut = _front_cut(
            length, loss, word_starts, first_bit + start, pair["index"], seed, front_stream
        )
        pair["b_start"] = out_start
        pair["b_length"] = kept
        pair["b_whole"] = length
        copy_values(ids, start + cut, out_ids, out_start, kept)
        copy_bits(word_starts, first_bit + start + cut, kept, out_start, out_word_starts)
        out_start += kept
    return out_start


@kernel
def truncate_pairs(
    word_starts: PackedBits,
    max_tokens: int,
    seed: np.uint64,
    front_of_a_stream: np.uint64,
    front_of_b_stream: np.uint64,
    out_pairs: Records,
) -> None:
    """Truncate every A, and every B that is not random, in place.

    Args:
        word_starts: packed, a bit per token of the documents that the pairs were cut from.
        max_tokens: most tokens of A and B together.
        seed: random seed.
        front_of_a_stream: ``stream_of(FRONT_OF_A, pass)``.
        front_of_b_stream: ``stream_of(FRONT_OF_B, pass)``.
        out_pairs: ``PAIR_DTYPE``; starts and lengths are updated.
    """
    for row in range(len(out_pairs)):
        pair = out_pairs[row]
        index = pair["index"]
        start, length = pair["a_start"], pair["a_length"]
        a_loss, b_loss = _share_loss(length, pair["b_whole"], max_tokens)
        if a_loss:
            cut = _front_cut(length, a_loss, word_starts, start, index, seed, front_of_a_stream)
            pair["a_start"] = start + cut
            pair["a_length"] = length - a_loss
        if b_loss and not pair["is_random"]:
            start, length = pair["b_start"], pair["b_length"]
            cut = _front_cut(length, b_loss, word_starts, start, index, seed, front_of_b_stream)
            pair["b_start"] = start + cut
            pair["b_length"] = length - b_loss


@kernel
def assemble_pairs(
    pairs: Records,
    ids: Ids,
    word_starts: PackedBits,
    copied_ids: Ids,
    copied_word_starts: PackedBits,
    cls_id: int,
    sep_id: int,
    out_offsets: Int64,
    out_ids: Ids,
    out_word_starts: PackedBits,
) -> None:
    """Write pairs as ``[CLS] A [SEP] B [SEP]``, one after the other.

    Args:
        pairs: ``PAIR_DTYPE``, truncated.
        ids: of the documents that the pairs were cut from.
        word_starts: packed, a bit per token of ``ids``.
        copied_ids: of random segments.
        copied_word_starts: packed, a bit per token of ``copied_ids``.
        cls_id: the id of ``[CLS]``.
        sep_id: the id of ``[SEP]``.
        out_offsets: int64 ``[num_pairs + 1]``, where each instance begins.
        out_ids: same type as ``ids``, with room for A, B and 3 tokens per pair.
        out_word_starts: packed, a bit per token of ``out_ids``, zeros; stays zero at special
            tokens.
    """
    position = 0
    out_offsets[0] = 0
    for row in range(len(pairs)):
        pair = pairs[row]
        out_ids[position] = cls_id
        position += 1
        start, length = pair["a_start"], pair["a_length"]
        copy_values(ids, start, out_ids, position, length)
        copy_bits(word_starts, start, length, position, out_word_starts)
        position += length
        out_ids[position] = sep_id
        position += 1
        start, length = pair["b_start"], pair["b_length"]
        b_ids = copied_ids if pair["is_random"] else ids
        b_word_starts = copied_word_starts if pair["is_random"] else word_starts
        copy_values(b_ids, start, out_ids, position, length)
        copy_bits(b_word_starts, start, length, position, out_word_starts)
        position += length
        out_ids[position] = sep_id
        position += 1
        out_offsets[row + 1] = position
