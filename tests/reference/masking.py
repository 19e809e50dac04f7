"""Masking of one instance, with sets and lists."""

from collections.abc import Sequence
from itertools import islice

from reference.philox import below, blocks, happens, word
from tokkit.kernels.philox import MASK


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
    """Returns the masked ids, the positions, and the ids that stood there.

    ``shares`` are those of the mask token and of random tokens.
    """
    candidates = [position for position in range(len(ids)) if position not in special_positions]
    wanted = min(max_predictions, max(1, round(len(ids) * masked_lm_prob)))
    num_masked = min(wanted, len(candidates))

    picks: set[int] = set()
    draws = []
    last = len(candidates) - num_masked
    for lanes in islice(blocks(seed, MASK, epoch, index), num_masked):
        first_word, second_word = word(*lanes[:2]), word(*lanes[2:])
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
