"""T5's noise and XLNet's targets of one instance, with the draws of the kernels."""

from collections.abc import Iterator, Sequence

from reference.philox import below, blocks, word
from tokkit.kernels.philox import NOISE, PERMUTATION


def words(seed: int, purpose: int, epoch: int, index: int) -> Iterator[int]:
    """Yield the words of 64 bits of an index, two per block."""
    for lanes in blocks(seed, purpose, epoch, index):
        yield word(*lanes[:2])
        yield word(*lanes[2:])


def cut(num_items: int, num_parts: int, draws: Iterator[int]) -> list[int]:
    """Cut items into lengths; each gap between items may be a cut."""
    lengths = [1]
    for gaps_left in range(num_items - 1, 0, -1):
        if below(next(draws), gaps_left) < num_parts - len(lengths):
            lengths.append(0)
        lengths[-1] += 1
    return lengths


def corrupt(
    block: Sequence[int],
    *,
    num_noise: int,
    num_spans: int,
    sentinels: Sequence[int],
    end_id: int,
    seed: int,
    epoch: int,
    index: int,
) -> tuple[list[int], list[int]]:
    """Return inputs and targets of one block."""
    draws = words(seed, NOISE, epoch, index)
    noise = cut(num_noise, num_spans, draws)
    rest = cut(len(block) - num_noise, num_spans, draws)
    inputs: list[int] = []
    targets: list[int] = []
    left = list(block)
    for span in range(num_spans):
        inputs += [*left[: rest[span]], sentinels[span]]
        left = left[rest[span] :]
        targets += [sentinels[span], *left[: noise[span]]]
        left = left[noise[span] :]
    assert not left
    return [*inputs, end_id], [*targets, end_id]


def order_targets(
    ids: Sequence[int], special: set[int], *, predict_every: int, seed: int, epoch: int, index: int
) -> list[int]:
    """Return the positions to predict, in order."""
    draws = words(seed, PERMUTATION, epoch, index)
    chosen: list[int] = []
    context = 0
    while context < len(ids):
        span = 1 + below(next(draws), 5)
        start = context + below(next(draws), span * predict_every - span + 1)
        chosen += [p for p in range(start, start + span) if p < len(ids) and ids[p] not in special]
        context += span * predict_every
    for last in range(len(chosen) - 1, 0, -1):
        other = below(next(draws), last + 1)
        chosen[last], chosen[other] = chosen[other], chosen[last]
    return chosen
