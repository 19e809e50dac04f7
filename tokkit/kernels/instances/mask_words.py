"""Masking of whole words, of spans of words, and of n-grams: one walk, with other lengths.

One instance of 10 tokens, of which 3 may be masked; ``##`` marks what goes on with a word:

    position    0     1    2     3    4     5    6    7     8     9
    token     [CLS]  the  play ##ing cat  [SEP]  it  sat  down  [SEP]

The walk draws positions without replacement (Fisher and Yates), and for each a length in words.
Where no word begins, at ``##ing`` and control tokens, nothing happens, so all words are equally
likely. From where one begins it takes word by word, until it has as many as drawn, or comes to a
control token, to a word that is masked already, or to one that is more than what is left of the
budget. Say it draws 8 with length 2: ``down`` is taken, 9 is a control token. Then 3: nothing. Then
2 with length 2: ``playing`` is taken, which makes 3 of 3. A word that does not fit never will, since
the budget only shrinks: when every position has been drawn, no further word would fit.

The lengths make the unit. One word is google-research/bert's whole-word masking. SpanBERT draws
geometric lengths (p = 0.2, none over 10; Joshi et al., TACL 2020), ALBERT n-grams of at most 3
words weighted 1/n (Lan et al., ICLR 2020). SpanBERT's program cuts the last span inside a word to
fill the budget, and runs through what is masked already; here words stay whole and spans apart, so
that a draw for a whole span has one meaning.

Each draw of the walk has a block of Philox: two lanes for the position, one for the length, and one
that says what becomes of the whole unit, if that is drawn once a unit. Then each masked token has
two lanes of a block, for a random token and, with the fraction that is left, for what becomes of it:
the first half of the tokens has the blocks' first lanes, the other half the others.

Measured on an AMD EPYC with AVX2, one core, 8192 instances of 512 tokens at 1.3 tokens a word, in
million tokens/s: 270 by words, 280 by n-grams, 330 by spans, where tokens alone make 530. It took
drawing 16 blocks at a time, which LLVM vectorizes (180); blocks shared by two tokens (250); and
bitmaps in place of a list of the words (130).
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.instances.mask_tokens import Ids
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import load_last_word, load_word, trailing_zeros
from tokkit.kernels.philox import chance_threshold, join, philox, uniform_below
from tokkit.kernels.ragged import Integer

SPAN_PROBABILITY = 0.2  # of a span's end after each word, but for the clip
LONGEST_SPAN = 10
LONGEST_NGRAM = 3

_ONE = np.uint64(1)
_HALF = np.uint64(32)
_BIT = np.uint64(63)
_WORD = 6
_DRAWN_AT_ONCE = 16


def length_shares(unit: str) -> NDArray[np.float64]:
    """How often a unit has 1, 2, … words: float64, adding up to 1.

    Args:
        unit: ``word``, ``span`` or ``ngram``.
    """
    if unit == "span":
        shares = (1 - SPAN_PROBABILITY) ** np.arange(LONGEST_SPAN)
    elif unit == "ngram":
        shares = 1 / np.arange(1, LONGEST_NGRAM + 1)
    else:
        shares = np.ones(1)
    normalized: NDArray[np.float64] = shares / shares.sum()
    return normalized


def length_thresholds(unit: str) -> NDArray[np.uint64]:
    """What a lane is compared with: a unit has one word, and one more for each that it reaches."""
    cumulative = np.cumsum(length_shares(unit))[:-1]
    return np.array([chance_threshold(share) for share in cumulative.tolist()], np.uint64)


@splice
def set_bit(bits: NDArray[np.uint64], position: Integer) -> None:
    """Set a bit."""
    bits[position >> _WORD] |= _ONE << (np.uint64(position) & _BIT)


@splice
def clear_bit(bits: NDArray[np.uint64], position: Integer) -> None:
    """Clear a bit."""
    bits[position >> _WORD] &= ~(_ONE << (np.uint64(position) & _BIT))


@splice
def has_bit(bits: NDArray[np.uint64], position: Integer) -> bool:
    """Whether a bit is set."""
    return bool(bits[position >> _WORD] >> (np.uint64(position) & _BIT) & _ONE)


@splice
def next_bit(bits: NDArray[np.uint64], position: Integer) -> Integer:
    """The first bit at ``position`` or after it that is set; there must be one."""
    block = position >> _WORD
    rest = bits[block] >> (np.uint64(position) & _BIT) << (np.uint64(position) & _BIT)
    while not rest:
        block += 1
        rest = bits[block]
    first: Integer = (block << _WORD) + trailing_zeros(rest)
    return first


@splice
def load_bits(bits: NDArray[np.uint8], position: int) -> np.uint64:
    """64 bits of a packed array of booleans from any bit on; zeros where it ends before."""
    byte = position >> 3
    shift = np.uint64(position & 7)
    if byte + 9 <= bits.size:
        word, after = load_word(bits, byte), np.uint64(bits[byte + 8])
    else:
        word, after = load_last_word(bits, byte), np.uint64(0)
    shifted: np.uint64 = word >> shift | after << _ONE << (_BIT - shift)
    return shifted


@kernel
def mask_words(
    ids: Ids,
    offsets: NDArray[np.int64],
    word_starts: NDArray[np.uint8],
    special_positions: NDArray[np.int32],
    special_offsets: NDArray[np.int64],
    budgets: NDArray[np.int64],
    indices: NDArray[np.uint64],
    seed: np.uint64,
    unit_stream: np.uint64,
    stream: np.uint64,
    mask_id: int,
    replacements: Ids,
    thresholds: NDArray[np.uint64],
    once_a_unit: bool,  # noqa: FBT001  a kernel's arguments have no names
    mask_threshold: np.uint64,
    random_threshold: np.uint64,
    out_offsets: NDArray[np.int64],
    out_positions: NDArray[np.uint16],
    out_labels: Ids,
) -> None:
    """Mask whole words of a ragged batch of instances in place.

    Args:
        ids: the batch's token ids; masked ones are overwritten.
        offsets: int64 [num_instances + 1], where each instance begins in ``ids``.
        word_starts: uint8, a bit a token of ``ids``: set where it begins a word.
        special_positions: positions within each instance that are never chosen, ascending. They
            end words.
        special_offsets: int64 [num_instances + 1], into ``special_positions``.
        budgets: int64 [num_instances], the most that may be masked in each; see ``count_masked``.
        indices: uint64 [num_instances], the number by which each instance draws.
        seed: of the draws.
        unit_stream: ``stream_of(MASK_UNIT, epoch)``.
        stream: ``stream_of(MASK, epoch)``.
        mask_id: the id of ``[MASK]``.
        replacements: ids that a random replacement is drawn from.
        thresholds: uint64, see ``length_thresholds``.
        once_a_unit: what becomes of the tokens is drawn once a unit, not once a token.
        mask_threshold: ``chance_threshold`` of ``[MASK]``.
        random_threshold: ``chance_threshold`` of ``[MASK]`` or a random token.
        out_offsets: int64 [num_instances + 1], how many are masked up to each instance.
        out_positions: uint16 [sum of budgets], filled as far as the last offset: positions within
            the instance, ascending.
        out_labels: likewise, the ids that stood there.
    """
    longest = 0
    largest = 0
    for row in range(len(indices)):
        longest = max(longest, offsets[row + 1] - offsets[row])
        largest = max(largest, budgets[row])
    size = (longest >> _WORD) + 1
    bounds = np.empty(size, np.uint64)  # where words begin, and control tokens, a bit a token
    free = np.empty(size, np.uint64)  # where words begin that are not masked
    taken = np.zeros(size, np.uint64)  # what is masked
    order = np.empty(longest, np.uint16)
    unit_chances = np.empty(longest, np.uint32)  # of the token's unit, where it is masked
    picks = np.empty(_DRAWN_AT_ONCE, np.int64)
    reaches = np.empty(_DRAWN_AT_ONCE, np.uint64)
    chances = np.empty(_DRAWN_AT_ONCE, np.uint32)
    kinds = np.empty(largest + 1, np.uint32)
    others = np.empty(largest + 1, np.uint32)
    num_replacements = np.uint64(len(replacements))

    out = 0
    out_offsets[0] = 0
    for row in range(len(indices)):
        start = offsets[row]
        length = offsets[row + 1] - start
        for block in range((length >> _WORD) + 1):
            bounds[block] = load_bits(word_starts, start + (block << _WORD))
        bounds[length >> _WORD] &= (_ONE << (np.uint64(length) & _BIT)) - _ONE
        set_bit(bounds, 0)
        set_bit(bounds, length)
        for number in range(special_offsets[row], special_offsets[row + 1]):
            set_bit(bounds, special_positions[number])
            set_bit(bounds, special_positions[number] + 1)
        for block in range((length >> _WORD) + 1):
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
                    left_over = np.uint64(length - draw)  # means nothing beyond the last draw
                    picks[number] = draw + np.int64(
                        uniform_below(join(lanes[0], lanes[1]), left_over)
                    )
                    reaches[number] = lanes[2]
                    chances[number] = lanes[3]
            pick = picks[now]
            place = np.int64(order[pick])
            order[pick] = order[num_drawn]
            num_drawn += 1
            num_words = 1
            for threshold in thresholds:
                num_words += reaches[now] >= threshold
            while num_words > 0 and has_bit(free, place):
                end = next_bit(bounds, place + 1)
                if end - place > left:
                    break
                clear_bit(free, place)
                left -= end - place
                num_words -= 1
                # The first token by itself, since most words have no more: 5% faster.
                unit_chances[place] = chances[now]
                set_bit(taken, place)
                place += 1
                while place < end:
                    set_bit(taken, place)
                    unit_chances[place] = chances[now]
                    place += 1

        num_masked = budgets[row] - left
        half = (num_masked + 1) >> 1
        for number in range(half):
            lanes = philox(seed, stream, indices[row], np.uint64(number))
            first, second = join(lanes[0], lanes[1]), join(lanes[2], lanes[3])
            others[number] = uniform_below(first, num_replacements)
            kinds[number] = (first * num_replacements) >> _HALF
            others[half + number] = uniform_below(second, num_replacements)
            kinds[half + number] = (second * num_replacements) >> _HALF
        number = 0
        for block in range((length >> _WORD) + 1):
            bits = taken[block]
            taken[block] = 0
            while bits:
                position = (block << _WORD) + trailing_zeros(bits)
                bits &= bits - _ONE
                token = ids[start + position]
                out_positions[out + number] = position
                out_labels[out + number] = token
                kind = unit_chances[position] if once_a_unit else kinds[number]
                other = replacements[np.int64(others[number])]
                other = other if kind < random_threshold else token
                ids[start + position] = mask_id if kind < mask_threshold else other
                number += 1
        out += num_masked
        out_offsets[row + 1] = out
