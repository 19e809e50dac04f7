"""Learning merges by likelihood, as WordPiece was published (Schuster and Nakajima 2012).

Entries are taken to be drawn one by one, each as often as it occurs. With f for how often and N for
how many entries the corpus has, merging "a b" everywhere raises the corpus's log-likelihood by

    f(ab) log(f(ab) N / (f(a) f(b)))

to first order, and the pair with the highest score is merged next; of several, the one that occurs
more often, then the one with the lower ids. Of "ab" three times, "c" four times and "ac" once:

    a b: 3 log(3 * 12 / (4 * 3)) = 3.30      a c: 1 log(1 * 12 / (4 * 5)) < 0, never merged

The argmax is exact, though each merge changes N and so every score. A heap holds upper bounds: the
score with f(ab) and N as they were, and with levels that f(a) and f(b) have not fallen below:

    bound(ab) = f log(f N / (level(a) level(b))) >= the score, where that is positive

since f(ab) and N only fall, and f log(f x) rises with f where it is positive. When f(a) falls below
its level, the level is put a 128th below f(a), or at f(a) where that is small, and the bounds of all
pairs with "a" are made anew. The best is found by taking pairs from the heap and computing their
scores until no bound is as high as the best score. (With levels an eighth below, that took eight
times as long where many pairs have nearly the same score.)
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.jit import tuple_inline, tuple_kernel, tuple_splice
from tokkit.kernels.memory import signed
from tokkit.kernels.vocab.pair_counts import (
    COUNT,
    KEY,
    NONE,
    NUM_PAIRS,
    ROW,
    Pairs,
    count_room,
    enlarge,
    has_room,
    index_pairs,
    make_room,
    merge_pair,
    split,
)
from tokkit.kernels.vocab.symbols import Words, find_word

_LEVEL_BITS = 7
_SLACK = 1e-9  # of the count: far more than a logarithm's rounding
_HEAP_SIZE, _NUM_MERGES, _TOTAL = range(3)
_DONE = (-1, -1)


class Scores(NamedTuple):
    """What is known of pairs and entries beside their places.

    Attributes:
        counts: int64 ``[vocab_size]``: how often each entry occurs.
        levels: int64 ``[vocab_size]``: what its count has not fallen below.
        heads: int32 ``[2 * vocab_size]``: a pair that begins with the entry, and one that ends so.
        links: int32 ``[2 * capacity]``: of each pair the next with the same left entry, and right.
        bounds: float64 ``[capacity]``: of each pair.
        heap: int32 ``[capacity]``: pairs, the highest bound first.
        places: int32 ``[capacity]``: where each pair is in the heap, or ``NONE``.
        candidates: int32 ``[capacity]``: pairs taken from the heap for a while.
        sizes: int64 ``[3]``: of the heap, of the merges, and N.
    """

    counts: NDArray[np.int64]
    levels: NDArray[np.int64]
    heads: NDArray[np.int32]
    links: NDArray[np.int32]
    bounds: NDArray[np.float64]
    heap: NDArray[np.int32]
    places: NDArray[np.int32]
    candidates: NDArray[np.int32]
    sizes: NDArray[np.int64]


def merge_by_likelihood(
    words: Words, lengths: NDArray[np.int32], first: int, min_frequency: int, limit: int
) -> NDArray[np.int32]:
    """Learn merges until there are as many entries as there is room for, or none raises the score.

    Args:
        words: their symbols are changed.
        lengths: int32 ``[vocab_size]``: 1 for the entries that are symbols of words.
        first: the id of the first merged entry.
        min_frequency: at least 1; pairs that occur less often are not merged.
        limit: pairs of more symbols are not merged, but for those of two.

    Returns:
        int32 ``[num_merges, 2]``: left and right id of the entries from ``first`` on.
    """
    pairs = index_pairs(words, min_frequency)
    scores = _widen(
        Scores(
            counts=np.zeros(len(lengths), np.int64),
            levels=np.zeros(len(lengths), np.int64),
            heads=np.full(2 * len(lengths), NONE, np.int32),
            links=np.empty(0, np.int32),
            bounds=np.empty(0, np.float64),
            heap=np.empty(0, np.int32),
            places=np.empty(0, np.int32),
            candidates=np.empty(0, np.int32),
            sizes=np.zeros(3, np.int64),
        ),
        0,
        int(pairs.sizes[NUM_PAIRS]),
    )
    merges = np.empty(2 * (len(lengths) - first), np.int32)
    _count_entries(words, scores)
    _push_pairs(pairs, 0, scores)
    while True:
        num_pairs, num_fresh = _merge_pairs(
            words, lengths, pairs, scores, first, min_frequency, limit, merges
        )
        if (num_pairs, num_fresh) == _DONE:
            return merges[: 2 * scores.sizes[_NUM_MERGES]].reshape(-1, 2)
        pairs = make_room(pairs, num_pairs, num_fresh)
        scores = _widen(scores, int(pairs.sizes[NUM_PAIRS]), num_pairs)


def _widen(scores: Scores, used: int, needed: int) -> Scores:
    """The same scores, with room for so many more pairs."""
    return scores._replace(
        links=enlarge(scores.links, 2 * used, 2 * needed),
        bounds=enlarge(scores.bounds, used, needed),
        heap=enlarge(scores.heap, used, needed),
        places=enlarge(scores.places, used, needed),
        candidates=enlarge(scores.candidates, used, needed),
    )


@tuple_splice
def _level_below(count: int) -> int:
    """The level of an entry that occurs so often."""
    return count - (count >> _LEVEL_BITS)


@tuple_kernel
def _count_entries(words: Words, scores: Scores) -> None:
    """Count the symbols of all words."""
    for cell in range(words.cells.size):
        symbol = signed(words.cells[cell])
        if symbol >= 0:
            count = words.counts[find_word(words, cell)]
            scores.counts[symbol] += count
            scores.sizes[_TOTAL] += count
    for entry in range(scores.counts.size):
        scores.levels[entry] = _level_below(scores.counts[entry])


@tuple_splice
def _score(count: int, total: int, left: float, right: float) -> float:
    """The score of a pair that occurs ``count`` times: of floats alone, the same everywhere."""
    ratio = float(count) * float(total) / (float(left) * float(right))
    return count * math.log(ratio)


@tuple_splice
def _bound(pairs: Pairs, scores: Scores, pair: int) -> float:
    """What the score of a pair will not exceed as long as the levels stand."""
    count = pairs.rows[ROW * pair + COUNT]
    left, right = split(pairs.rows[ROW * pair + KEY])
    levels = scores.levels
    score = _score(count, scores.sizes[_TOTAL], levels[left], levels[right])
    return float(score + _SLACK * count)


@tuple_kernel
def _push_pairs(pairs: Pairs, first: int, scores: Scores) -> None:
    """Put the pairs from ``first`` on into the heap and the lists of their entries."""
    for pair in range(first, pairs.sizes[NUM_PAIRS]):
        left, right = split(pairs.rows[ROW * pair + KEY])
        scores.links[2 * pair] = scores.heads[2 * left]
        scores.heads[2 * left] = pair
        scores.links[2 * pair + 1] = scores.heads[2 * right + 1]
        scores.heads[2 * right + 1] = pair
        scores.bounds[pair] = _bound(pairs, scores, pair)
        _push(scores, pair)


@tuple_kernel
def _merge_pairs(
    words: Words,
    lengths: NDArray[np.int32],
    pairs: Pairs,
    scores: Scores,
    first: int,
    min_frequency: int,
    limit: int,
    merges: NDArray[np.int32],
) -> tuple[int, int]:
    """Merge as long as there is room.

    Returns:
        For how many pairs and fresh occurrences room is needed, or ``_DONE``.
    """
    sizes = scores.sizes
    while 2 * sizes[_NUM_MERGES] < merges.size:
        pair = _find_best(pairs, scores, min_frequency)
        if pair == NONE:
            break
        merged = first + sizes[_NUM_MERGES]
        num_pairs, num_fresh = count_room(pairs, pair, merged)
        if (
            not has_room(pairs, num_pairs, num_fresh)
            or pairs.sizes[NUM_PAIRS] + num_pairs > scores.bounds.size
        ):
            return num_pairs, num_fresh
        _remove(scores, pair)
        left, right = split(pairs.rows[ROW * pair + KEY])
        merges[2 * sizes[_NUM_MERGES]], merges[2 * sizes[_NUM_MERGES] + 1] = left, right
        sizes[_NUM_MERGES] += 1
        first_pair = pairs.sizes[NUM_PAIRS]
        count = merge_pair(words, lengths, pairs, pair, merged, min_frequency, limit)
        pairs.rows[ROW * pair + COUNT] = 0
        sizes[_TOTAL] -= count
        scores.counts[left] -= count
        scores.counts[right] -= count
        scores.counts[merged] = count
        scores.levels[merged] = _level_below(count)
        _lower_level(pairs, scores, left, min_frequency)
        _lower_level(pairs, scores, right, min_frequency)
        _push_pairs(pairs, first_pair, scores)
    return _DONE


@tuple_inline
def _find_best(pairs: Pairs, scores: Scores, min_frequency: int) -> int:
    """The pair to merge next, or ``NONE``; pairs that occur too seldom leave the heap for good."""
    best = NONE
    best_score = 0.0
    num_candidates = 0
    while scores.sizes[_HEAP_SIZE] > 0:
        pair = signed(scores.heap[0])
        if scores.bounds[pair] <= 0.0 or scores.bounds[pair] < best_score:
            break
        _remove(scores, pair)
        count = pairs.rows[ROW * pair + COUNT]
        if count < min_frequency:
            continue
        left, right = split(pairs.rows[ROW * pair + KEY])
        score = _score(count, scores.sizes[_TOTAL], scores.counts[left], scores.counts[right])
        scores.bounds[pair] = _bound(pairs, scores, pair)
        scores.candidates[num_candidates] = pair
        num_candidates += 1
        if score > best_score or (
            score == best_score and best != NONE and _is_preferred(pairs, pair, best)
        ):
            best, best_score = pair, score
    for index in range(num_candidates):
        _push(scores, signed(scores.candidates[index]))
    return best


@tuple_splice
def _is_preferred(pairs: Pairs, pair: int, other: int) -> bool:
    """Whether of two pairs with the same score the first is merged."""
    rows = pairs.rows
    count, other_count = rows[ROW * pair + COUNT], rows[ROW * other + COUNT]
    is_lower = rows[ROW * pair + KEY] < rows[ROW * other + KEY]
    return bool(count > other_count or (count == other_count and is_lower))


@tuple_inline
def _lower_level(pairs: Pairs, scores: Scores, entry: int, min_frequency: int) -> None:
    """Where an entry's count has fallen below its level, make the bounds of its pairs anew.

    Pairs that occur too seldom leave its lists for good.
    """
    if scores.counts[entry] >= scores.levels[entry]:
        return
    scores.levels[entry] = _level_below(scores.counts[entry])
    for side in range(2):
        kept = NONE
        pair = signed(scores.heads[2 * entry + side])
        while pair != NONE:
            after = signed(scores.links[2 * pair + side])
            is_kept = pairs.rows[ROW * pair + COUNT] >= min_frequency
            if is_kept:
                scores.bounds[pair] = _bound(pairs, scores, pair)
                _settle(scores, pair)
                kept = pair
            elif kept == NONE:
                scores.heads[2 * entry + side] = after
            else:
                scores.links[2 * kept + side] = after
            pair = after


@tuple_splice
def _push(scores: Scores, pair: int) -> None:
    """Add a pair to the heap."""
    scores.places[pair] = scores.sizes[_HEAP_SIZE]
    scores.heap[scores.sizes[_HEAP_SIZE]] = pair
    scores.sizes[_HEAP_SIZE] += 1
    _settle(scores, pair)


@tuple_splice
def _remove(scores: Scores, pair: int) -> None:
    """Take a pair out of the heap."""
    scores.sizes[_HEAP_SIZE] -= 1
    last = signed(scores.heap[scores.sizes[_HEAP_SIZE]])
    if last != pair:
        scores.heap[scores.places[pair]] = last
        scores.places[last] = scores.places[pair]
        _settle(scores, last)
    scores.places[pair] = NONE


@tuple_inline
def _settle(scores: Scores, pair: int) -> None:
    """Move a pair of the heap, whose bound may have changed, up or down to where it belongs."""
    heap, places, bounds = scores.heap, scores.places, scores.bounds
    bound = bounds[pair]
    size = scores.sizes[_HEAP_SIZE]
    hole = signed(places[pair])
    while hole > 0 and bounds[heap[(hole - 1) >> 1]] < bound:
        heap[hole] = heap[(hole - 1) >> 1]
        places[heap[hole]] = hole
        hole = (hole - 1) >> 1
    while 2 * hole + 1 < size:
        child = 2 * hole + 1
        if child + 1 < size and bounds[heap[child + 1]] > bounds[heap[child]]:
            child += 1
        if bounds[heap[child]] <= bound:
            break
        heap[hole] = heap[child]
        places[heap[hole]] = hole
        hole = child
    heap[hole] = pair
    places[pair] = hole
