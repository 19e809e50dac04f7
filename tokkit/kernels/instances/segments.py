"""Segments: fetching random ones, truncating pairs, laying them out as instances.

A pair that is too long loses one token at a time from the longer segment (ties: B). With room for
10 tokens, A of 9 and B of 5:

    excess 4:  A B  9 5 -> 8 5 -> 7 5 -> 6 5 -> 5 5

and had there been a fifth to lose, B would have lost it, then A, then B. So the longer one first
loses the difference, and the rest falls to B and A in turn, B first: no loop is needed. Each lost
token is taken from the segment's front or back by a fair draw, so the front's share is the number
of heads among as many coins: the bits of Philox's blocks, counted.

A cut at the front is moved back to the beginning of its word, and the back loses as many tokens
more, unless the word is longer than what is kept. google-research/bert leaves half words there.
The lengths are the same as without the move.

    tokens  un ##afford ##able prices rise     front 1, back 1
    there      ##afford ##able prices
    here    un ##afford ##able                 front 0, back 2
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.instances.mask_tokens import Ids
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import copy_values
from tokkit.kernels.philox import join, philox, uniform_below
from tokkit.kernels.ragged import Integer, copy_bits, count_ones, get_bit

_ONE = np.uint64(1)


@splice
def _share_loss(
    a_length: np.int64, b_length: np.int64, max_tokens: int
) -> tuple[np.int64, np.int64]:
    """How many tokens A and B lose so that together they have at most ``max_tokens``."""
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
    """How many of ``num_coins`` fair coins show heads."""
    heads = np.int64(0)
    block = np.uint64(0)
    while num_coins > 0:
        lanes = philox(seed, stream, index, block)
        block += _ONE
        for word in (join(lanes[0], lanes[1]), join(lanes[2], lanes[3])):
            if num_coins < 64:
                word &= (_ONE << np.uint64(max(np.int64(0), num_coins))) - _ONE  # noqa: PLW2901
            heads += np.int64(count_ones(word))
            num_coins -= 64
    return heads


@splice
def _align_cut(
    cut: np.int64, kept: np.int64, word_starts: NDArray[np.uint8], start: np.int64, length: np.int64
) -> np.int64:
    """Move a front cut back to the beginning of its word, unless that is longer than ``kept``.

    Args:
        cut: tokens cut from the front of a segment.
        kept: tokens kept of it.
        word_starts: bits, one a token.
        start: where the segment begins among them.
        length: of the whole segment.
    """
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


@splice
def _front_cut(
    length: np.int64,
    loss: np.int64,
    word_starts: NDArray[np.uint8],
    start: np.int64,
    index: np.uint64,
    seed: np.uint64,
    stream: np.uint64,
) -> np.int64:
    """How many tokens a segment loses at the front, of ``loss`` that it loses."""
    cut = _count_heads(loss, index, seed, stream)
    return _align_cut(cut, length - loss, word_starts, start, length)


@kernel
def borrow_segments(
    rows: NDArray[np.int64],
    source_rows: NDArray[np.int64],
    ids: Ids,
    token_offsets: NDArray[np.int64],
    sentence_lengths: NDArray[np.int32],
    sentence_offsets: NDArray[np.int64],
    word_starts: NDArray[np.uint8],
    first_bit: int,
    max_tokens: int,
    seed: np.uint64,
    front_stream: np.uint64,
    out_start: Integer,
    out_pairs: NDArray[np.void],
    out_ids: Ids,
    out_word_starts: NDArray[np.uint8],
) -> Integer:
    """Fetch random segments B from one record batch of the token folder.

    A segment begins at a uniformly drawn sentence and takes whole sentences until it has the
    length to reach, or the document ends; what truncation would leave of it is copied.

    Args:
        rows: int64 [n], the pairs to fill in.
        source_rows: int64 [n], the rows of the record batch that they take from.
        ids: of the record batch.
        token_offsets: int64 [num_rows + 1], into ``ids``.
        sentence_lengths: int32, tokens of each sentence.
        sentence_offsets: int64 [num_rows + 1], into ``sentence_lengths``.
        word_starts: bits, one a token, of which the first is number ``first_bit``.
        first_bit: see there.
        max_tokens: most tokens of A and B together.
        seed: of the draws.
        front_stream: ``stream_of(FRONT_OF_B, pass)``.
        out_start: where the first segment goes in ``out_ids``.
        out_pairs: ``PAIR_DTYPE``; ``b_start``, ``b_length`` and ``b_whole`` are filled in.
        out_ids: as ``ids``, room for ``max_tokens`` a pair.
        out_word_starts: bits, zero beyond ``out_start``.

    Returns:
        Where the next segment goes.
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
    word_starts: NDArray[np.uint8],
    max_tokens: int,
    seed: np.uint64,
    front_of_a_stream: np.uint64,
    front_of_b_stream: np.uint64,
    out_pairs: NDArray[np.void],
) -> None:
    """Truncate every segment A, and every B that follows its A, in place.

    Args:
        word_starts: bits, one a token of the documents that the pairs were cut from.
        max_tokens: most tokens of A and B together.
        seed: of the draws.
        front_of_a_stream: ``stream_of(FRONT_OF_A, pass)``.
        front_of_b_stream: ``stream_of(FRONT_OF_B, pass)``.
        out_pairs: ``PAIR_DTYPE``; starts and lengths are changed.
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
    pairs: NDArray[np.void],
    ids: Ids,
    word_starts: NDArray[np.uint8],
    borrowed_ids: Ids,
    borrowed_word_starts: NDArray[np.uint8],
    cls_id: int,
    sep_id: int,
    out_offsets: NDArray[np.int64],
    out_ids: Ids,
    out_word_starts: NDArray[np.uint8],
) -> None:
    """Lay pairs out as ``[CLS] A [SEP] B [SEP]``, one after the other.

    Args:
        pairs: ``PAIR_DTYPE``, truncated.
        ids: of the documents that the pairs were cut from.
        word_starts: bits, one a token of ``ids``.
        borrowed_ids: of random segments.
        borrowed_word_starts: bits, one a token of ``borrowed_ids``.
        cls_id: the id of ``[CLS]``.
        sep_id: the id of ``[SEP]``.
        out_offsets: int64 [num_pairs + 1], where each instance begins.
        out_ids: as ``ids``, with room for 3 tokens more than A and B have, a pair.
        out_word_starts: bits, likewise; zero, and left so at control tokens.
    """
    position = 0
    out_offsets[0] = 0
    for row in range(len(pairs)):
        pair = pairs[row]
        start, length = pair["a_start"], pair["a_length"]
        out_ids[position] = cls_id
        copy_values(ids, start, out_ids, position + 1, length)
        copy_bits(word_starts, start, length, position + 1, out_word_starts)
        position += length + 1
        out_ids[position] = sep_id

        start, length = pair["b_start"], pair["b_length"]
        b_ids = borrowed_ids if pair["is_random"] else ids
        b_word_starts = borrowed_word_starts if pair["is_random"] else word_starts
        copy_values(b_ids, start, out_ids, position + 1, length)
        copy_bits(b_word_starts, start, length, position + 1, out_word_starts)
        position += length + 1
        out_ids[position] = sep_id
        position += 1
        out_offsets[row + 1] = position
