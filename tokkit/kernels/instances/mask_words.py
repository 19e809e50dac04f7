"""Mask whole words, spans of words, or n-grams: one walk with different lengths.

An instance of 10 tokens, of which 3 may be masked; ``##`` marks what continues a word:

    position    0     1    2     3    4     5    6    7     8     9
    token     [CLS]  the  play ##ing cat  [SEP]  it  sat  down  [SEP]

The walk draws positions without replacement (Fisher and Yates), and a length in words for each. If
no word begins at the position, as at ``##ing`` and special tokens, nothing happens, so all words
are equally likely. If one begins, the walk takes word after word until it has the drawn length, or
reaches a special token, a word that is masked already, or a word longer than the rest of the
budget. Say it draws 8 with length 2: ``down`` is taken, 9 is a special token. Then 3: nothing. Then
2 with length 2: ``playing`` is taken, which makes 3 of 3. A word that does not fit never will, since
the budget only shrinks: when every position has been drawn, no further word would fit.

The lengths make the unit. One word is google-research/bert's whole-word masking. SpanBERT draws
geometric lengths (p = 0.2, none over 10; Joshi et al., TACL 2020), ALBERT n-grams of at most 3
words weighted 1/n (Lan et al., ICLR 2020). SpanBERT's program cuts the last span inside a word to
fill the budget, and runs through what is masked already; here words stay whole and spans apart, so
that a draw for a whole span has one meaning.

Each draw of the walk has a block of Philox: two lanes for the position, one for the length, and one
for the replacement of the whole unit, where that is drawn per unit. Then each masked token has two
lanes of a block, for a random token and, with the fraction that is left, for its replacement: the
first half of the tokens has the blocks' first lanes, the other half the others.

Measured on an AMD EPYC with AVX2, one core, 8192 instances of 512 tokens at 1.3 tokens per word, in
million tokens/s: 270 by words, 280 by n-grams, 330 by spans, where tokens alone make 530. It took
drawing 16 blocks at a time, which LLVM vectorizes (180); blocks shared by two tokens (250); and
bitmaps in place of a list of the words (130).
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Float64, Ids, Int32, Int64, PackedBits, UInt16, UInt32, UInt64
from tokkit.kernels.instances.mask_tokens import MaskMemory, Replacement, replace_token
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import load_last_word, load_word, trailing_zeros
from tokkit.kernels.philox import chance_threshold, join, philox, uniform_below
from tokkit.kernels.ragged import clear_bit, has_bit, next_bit, set_bit

SPAN_PROBABILITY = 0.2  # that a span ends after each word
LONGEST_SPAN = 10
LONGEST_NGRAM = 3

_ONE = np.uint64(1)
_HALF = np.uint64(32)
_LAST = np.uint64(63)
_DRAWN_AT_ONCE = 16


class WordMemory(NamedTuple):
    """Memory for the words of one instance at a time.

    Attributes:
        bounds: uint64, a bit for each token: where words and special tokens begin.
        free: uint64, a bit for each token: where words begin that are not masked.
        order: uint16, for each token.
        unit_chances: uint32, for each token: that of its unit.
        picks: int64 ``[16]``, of the units drawn at once.
        reaches: uint64 ``[16]``.
        drawn_chances: uint32 ``[16]``.
    """

    bounds: UInt64
    free: UInt64
    order: UInt16
    unit_chances: UInt32
    picks: Int64
    reaches: UInt64
    drawn_chances: UInt32


def new_word_memory(offsets: Int64) -> WordMemory:
    """Return memory for instances with these ``offsets``."""
    longest = int(np.diff(offsets).max(initial=0))
    num_words = (longest >> 6) + 1
    return WordMemory(
        bounds=np.empty(num_words, np.uint64),
        free=np.empty(num_words, np.uint64),
        order=np.empty(longest, np.uint16),
        unit_chances=np.empty(longest, np.uint32),
        picks=np.empty(_DRAWN_AT_ONCE, np.int64),
        reaches=np.empty(_DRAWN_AT_ONCE, np.uint64),
        drawn_chances=np.empty(_DRAWN_AT_ONCE, np.uint32),
    )


def length_shares(unit: str) -> Float64:
    """Return how often a unit has 1, 2, … words: float64, summing to 1.

    Args:
        unit: ``word``, ``span`` or ``ngram``.
    """
    if unit == "span":
        shares = (1 - SPAN_PROBABILITY) ** np.arange(LONGEST_SPAN)
    elif unit == "ngram":
        shares = 1 / np.arange(1, LONGEST_NGRAM + 1)
    else:
        shares = np.ones(1)
    normalized: Float64 = shares / shares.sum()
    return normalized


def length_thresholds(unit: str) -> UInt64:
    """Return thresholds for a lane: a unit has one word, and one more for each that it reaches."""
    cumulative = np.cumsum(length_shares(unit))[:-1]
    return np.array([chance_threshold(share) for share in cumulative.tolist()], np.uint64)


@splice
def _load_bits(bits: PackedBits, position: int) -> np.uint64:
    """Return 64 packed bits from any position on, zeros beyond the end."""
    byte = position >> 3
    shift = np.uint64(position & 7)
    if byte + 9 <= bits.size:
        word, after = load_word(bits, byte), np.uint64(bits[byte + 8])
    else:
        word, after = load_last_word(bits, byte), np.uint64(0)
    shifted: np.uint64 = word >> shift | after << _ONE << (_LAST - shift)
    return shifted


@kernel
def mask_words(
    out_ids: Ids,
    offsets: Int64,
    word_starts: PackedBits,
    special_positions: Int32,
    special_offsets: Int64,
    budgets: Int64,
    indices: UInt64,
    seed: np.uint64,
    unit_stream: np.uint64,
    stream: np.uint64,
    replacement: Replacement,
    random_ids: Ids,
    thresholds: UInt64,
    draw_per_unit: bool,
    memory: MaskMemory,
    word_memory: WordMemory,
    out_offsets: Int64,
    out_positions: UInt16,
    out_labels: Ids,
) -> None:
    """Mask whole words of ragged instances in place.

    Args:
        out_ids: the batch's token ids; masked ones are overwritten.
        offsets: int64 ``[num_instances + 1]``, where each instance begins in ``out_ids``.
        word_starts: packed, a bit per token of ``out_ids``, set where it begins a word.
        special_positions: int32, positions within each instance that are never chosen, ascending.
            They end words.
        special_offsets: int64 ``[num_instances + 1]``, into ``special_positions``.
        budgets: int64 ``[num_instances]``, most tokens to mask in each; see ``count_masked``.
        indices: uint64 ``[num_instances]``, the index by which each instance draws.
        seed: random seed.
        unit_stream: ``stream_of(MASK_UNIT, epoch)``.
        stream: ``stream_of(MASK, epoch)``.
        replacement: how masked tokens are replaced.
        random_ids: ids that a random replacement is drawn from.
        thresholds: uint64, see ``length_thresholds``.
        draw_per_unit: draw the kind of replacement once per unit, not per token.
        memory: from ``new_mask_memory``.
        word_memory: from ``new_word_memory``.
        out_offsets: int64 ``[num_instances + 1]``, into the two below.
        out_positions: uint16 ``[sum of budgets]``, positions within the instance, ascending; filled
            up to the last offset.
        out_labels: same type as ``out_ids``, the original ids at these positions.
    """
    taken, _, chances, others = memory
    bounds, free, order, unit_chances, picks, reaches, drawn_chances = word_memory
    num_random = np.uint64(len(random_ids))
    out = 0
    out_offsets[0] = 0
    for row in range(len(indices)):
        start = offsets[row]
        length = offsets[row + 1] - start
        for block in range((length >> 6) + 1):
            bounds[block] = _load_bits(word_starts, start + (block << 6))
        bounds[length >> 6] &= (_ONE << (np.uint64(length) & _LAST)) - _ONE
        set_bit(bounds, 0)
        set_bit(bounds, length)
        for number in range(special_offsets[row], special_offsets[row + 1]):
            set_bit(bounds, special_positions[number])
            set_bit(bounds, special_positions[number] + 1)
        for block in range((length >> 6) + 1):
            free[block] = bounds[block]
        clear_bit(free, length)
        for number in range(special_offsets[row], special_offsets[row + 1]):
            clear_bit(free, special_positions[number])
        for position in range(length):
            order[position] = position

        left = budgets[row]
        num_drawn = 0
        while left > 0 and num_drawn < length:
            now = num_drawn % _DRAWN_AT_ONCE
            if now == 0:
                for number in range(_DRAWN_AT_ONCE):
                    lanes = philox(seed, unit_stream, indices[row], np.uint64(num_drawn + number))
                    draw = num_drawn + number
                    remaining = np.uint64(length - draw)  # meaningless beyond the last draw
                    picks[number] = draw + np.int64(
                        uniform_below(join(lanes[0], lanes[1]), remaining)
                    )
                    reaches[number] = lanes[2]
                    drawn_chances[number] = lanes[3]
            pick = picks[now]
            place = np.int64(order[pick])
            order[pick] = order[num_drawn]
            num_drawn += 1
            num_words = 1
            for number in range(len(thresholds)):
                num_words += reaches[now] >= thresholds[number]
            while num_words > 0 and has_bit(free, place):
                end = next_bit(bounds, place + 1)
                if end - place > left:
                    break
                clear_bit(free, place)
                left -= end - place
                num_words -= 1
                # The first token by itself, since most words have no more: 5% faster.
                unit_chances[place] = drawn_chances[now]
                set_bit(taken, place)
                place += 1
                while place < end:
                    set_bit(taken, place)
                    unit_chances[place] = drawn_chances[now]
                    place += 1

        num_masked = budgets[row] - left
        half = (num_masked + 1) >> 1
        for number in range(half):
            lanes = philox(seed, stream, indices[row], np.uint64(number))
            first, second = join(lanes[0], lanes[1]), join(lanes[2], lanes[3])
            others[number] = uniform_below(first, num_random)
            chances[number] = (first * num_random) >> _HALF
            others[half + number] = uniform_below(second, num_random)
            chances[half + number] = (second * num_random) >> _HALF
        number = 0
        for block in range((length >> 6) + 1):
            bits = taken[block]
            taken[block] = 0
            while bits:
                position = (block << 6) + trailing_zeros(bits)
                bits &= bits - _ONE
                out_positions[out + number] = position
                chance = unit_chances[position] if draw_per_unit else chances[number]
                random_id = random_ids[np.int64(others[number])]
                out_labels[out + number] = replace_token(
                    out_ids, start + position, chance, random_id, replacement
                )
                number += 1
        out += num_masked
        out_offsets[row + 1] = out
