"""Mask one instance, with sets and lists."""

from collections.abc import Sequence
from itertools import accumulate, islice

from reference.philox import below, blocks, happens
from reference.philox import word as join
from tokkit.kernels.philox import MASK, MASK_UNIT


def mask_instance(
    ids: Sequence[int],
    special_positions: Sequence[int],
    *,
    masked_lm_prob: float,
    max_predictions: int,
    mask_id: int,
    replacements: Sequence[int],
    shares: tuple[float, float],
    seed: int,
    epoch: int,
    index: int,
) -> tuple[list[int], list[int], list[int]]:
    """Return the masked ids, the masked positions, and the original ids there.

    ``shares`` are those of the mask token and of random tokens.
    """
    candidates = [position for position in range(len(ids)) if position not in special_positions]
    wanted = min(max_predictions, max(1, round(len(ids) * masked_lm_prob)))
    num_masked = min(wanted, len(candidates))

    picks: set[int] = set()
    draws = []
    last = len(candidates) - num_masked
    for lanes in islice(blocks(seed, MASK, epoch, index), num_masked):
        first_word, second_word = join(*lanes[:2]), join(*lanes[2:])
        pick = below(first_word, last + 1)
        picks.add(last if pick in picks else pick)
        fraction = first_word * (last + 1) % 2**64
        draws.append((fraction >> 32, below(second_word, len(replacements))))
        last += 1

    masked = list(ids)
    positions = [candidates[pick] for pick in sorted(picks)]
    for position, (chance, replacement) in zip(positions, draws, strict=True):
        if happens(chance, shares[0]):
            masked[position] = mask_id
        elif happens(chance, sum(shares)):
            masked[position] = replacements[replacement]
    return masked, positions, [ids[position] for position in positions]


def mask_instance_by_words(
    ids: Sequence[int],
    word_starts: Sequence[bool],
    special_positions: Sequence[int],
    *,
    masked_lm_prob: float,
    max_predictions: int,
    length_shares: Sequence[float],
    draw_per_unit: bool,
    mask_id: int,
    replacements: Sequence[int],
    shares: tuple[float, float],
    seed: int,
    epoch: int,
    index: int,
) -> tuple[list[int], list[int], list[int]]:
    """Mask units of whole words; ``length_shares`` are the shares of units of 1, 2, … words."""
    length = len(ids)
    wanted = min(max_predictions, max(1, round(length * masked_lm_prob)))
    budget = min(wanted, length - len(special_positions))

    words: dict[int, list[int]] = {}  # by the position where they begin
    word: list[int] = []
    for position in range(length):
        if position in special_positions:
            word = []
            continue
        if word_starts[position] or not word:
            word = words[position] = []
        word.append(position)

    masked: dict[int, int] = {}  # position to the chance of its unit
    remaining = list(range(length))
    for lanes in islice(blocks(seed, MASK_UNIT, epoch, index), length):
        # Fisher and Yates: the first one takes the place of the pick.
        pick = below(join(*lanes[:2]), len(remaining))
        position = remaining[pick]
        remaining[pick] = remaining[0]
        remaining = remaining[1:]
        reached = accumulate(length_shares[:-1])
        for _ in range(1 + sum(not happens(lanes[2], share) for share in reached)):
            word = words.get(position, [])
            if not word or position in masked or len(masked) + len(word) > budget:
                break
            masked |= dict.fromkeys(word, lanes[3])
            position += len(word)

    out, positions = list(ids), sorted(masked)
    half = (len(positions) + 1) // 2
    drawn = list(islice(blocks(seed, MASK, epoch, index), half))
    draws = [join(*lanes[:2]) for lanes in drawn] + [join(*lanes[2:]) for lanes in drawn]
    for position, draw in zip(positions, draws, strict=False):
        chance = masked[position] if draw_per_unit else draw * len(replacements) % 2**64 >> 32
        if happens(chance, shares[0]):
            out[position] = mask_id
        elif happens(chance, sum(shares)):
            out[position] = replacements[below(draw, len(replacements))]
    return out, positions, [ids[position] for position in positions]
