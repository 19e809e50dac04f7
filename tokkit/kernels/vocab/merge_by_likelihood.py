"""Learn merges by likelihood, as WordPiece was published (Schuster and Nakajima 2012).

The corpus is modelled as tokens drawn one by one, each as often as it occurs. With f for the number
of occurrences and N for the number of tokens in the corpus, merging "a b" everywhere raises the
log-likelihood of the corpus by

    f(ab) log(f(ab) N / (f(a) f(b)))

to first order. The pair with the highest score is merged next; of several, the one that occurs more
often, then the one with the lower ids. Of "ab" three times, "c" four times and "ac" once:

    a b: 3 log(3 * 12 / (4 * 3)) = 3.30      a c: 1 log(1 * 12 / (4 * 5)) < 0, never merged

The argmax is exact, though each merge changes N and so every score. A heap holds upper bounds: the
score with f(ab) and N as they were, and with levels that f(a) and f(b) have not fallen below:

    bound(ab) = f log(f N / (level(a) level(b))) >= the score, where that is positive

since f(ab) and N only fall, and f log(f x) rises with f where it is positive. When f(a) falls below
its level, the level is set a 128th below f(a), or to f(a) where that is small, and the bounds of
all pairs with "a" are computed again. To find the best pair, pairs are taken from the heap and
scored until no bound is as high as the best score. (With levels an eighth below, that took eight
times as long where many pairs have nearly the same score.)
"""

import math
from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Float64, Int32, Int64
from tokkit.kernels.heap import move_down, move_up
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import signed
from tokkit.kernels.vocab.pair_counts import (
    COUNT,
    KEY,
    NONE,
    NUM_PAIRS,
    ROW,
    Pairs,
    enlarge,
    has_room,
    index_pairs,
    make_room,
    split_key,
)
from tokkit.kernels.vocab.pair_merging import MergeRules, count_room, merge_pair
from tokkit.kernels.vocab.symbols import NOTHING_KNOWN, Words, find_count

_LEVEL_BITS = 7
_SLACK = 1e-9  # of the count: far more than a logarithm's rounding
_HEAP_SIZE, _NUM_MERGES, _TOTAL = range(3)
_DONE = (-1, -1)


class Scores(NamedTuple):
    """Scores of pairs, and the counts that they depend on.

    Attributes:
        counts: int64 ``[vocab_size]``: occurrences of each token.
        levels: int64 ``[vocab_size]``: a number that its count has not fallen below.
        heads: int32 ``[2 * vocab_size]``: for each token a pair that begins with it, and one that
            ends with it, or ``NONE``.
        links: int32 ``[2 * capacity]``: for each pair the next one with the same left token, and
            the next one with the same right token, or ``NONE``.
        bounds: float64 ``[capacity]``: upper bound of each pair's score.
        heap: int32 ``[capacity]``: pairs, the highest bound first.
        places: int32 ``[capacity]``: where each pair is in the heap, or ``NONE``.
        candidates: int32 ``[capacity]``: pairs taken from the heap for a while.
        sizes: int64 ``[3]``: size of the heap, number of merges, and N.
    """

    counts: Int64
    levels: Int64
    heads: Int32
    links: Int32
    bounds: Float64
    heap: Int32
    places: Int32
    candidates: Int32
    sizes: Int64


def merge_by_likelihood(
    words: Words, lengths: Int32, first: int, min_frequency: int, limit: int
) -> Int32:
    """Learn merges until the vocabulary is full or no pair raises the likelihood.

    Args:
        words: their symbols are changed.
        lengths: int32 ``[vocab_size]``: 1 for the tokens that are symbols of words.
        first: the id of the first merged token.
        min_frequency: at least 1; pairs that are rarer are not merged.
        limit: pairs of more symbols are not merged, except those of two.

    Returns:
        int32 ``[num_merges, 2]``: left and right id of the tokens from ``first`` on.
    """
    rules = MergeRules(lengths, first, min_frequency, limit)
    pairs = index_pairs(words, min_frequency, len(lengths))
    capacity = int(pairs.sizes[NUM_PAIRS])
    scores = Scores(
        counts=np.zeros(len(lengths), np.int64),
        levels=np.zeros(len(lengths), np.int64),
        heads=np.full(2 * len(lengths), NONE, np.int32),
        links=np.empty(2 * capacity, np.int32),
        bounds=np.empty(capacity, np.float64),
        heap=np.empty(capacity, np.int32),
        places=np.empty(capacity, np.int32),
        candidates=np.empty(capacity, np.int32),
        sizes=np.zeros(3, np.int64),
    )
    merges = np.empty(2 * (len(lengths) - first), np.int32)
    _count_tokens(words, scores)
    _push_pairs(pairs, 0, scores)
    while True:
        num_pairs, num_fresh = _merge_pairs(words, rules, pairs, scores, merges)
        if (num_pairs, num_fresh) == _DONE:
            return merges[: 2 * scores.sizes[_NUM_MERGES]].reshape(-1, 2)
        pairs = make_room(pairs, num_pairs, num_fresh)
        scores = _enlarge_scores(scores, int(pairs.sizes[NUM_PAIRS]), num_pairs)


def _enlarge_scores(scores: Scores, used: int, needed: int) -> Scores:
    """Return the same scores, with room for more pairs."""
    return scores._replace(
        links=enlarge(scores.links, 2 * used, 2 * needed),
        bounds=enlarge(scores.bounds, used, needed),
        heap=enlarge(scores.heap, used, needed),
        places=enlarge(scores.places, used, needed),
        candidates=enlarge(scores.candidates, used, needed),
    )


@splice
def _level_below(count: int) -> int:
    """Return the level of a token with this count."""
    return count - (count >> _LEVEL_BITS)


@kernel
def _count_tokens(words: Words, scores: Scores) -> None:
    """Count the symbols of all words."""
    known = NOTHING_KNOWN
    for cell in range(words.cells.size):
        symbol = signed(words.cells[cell])
        if symbol >= 0:
            known = find_count(words, cell, known)
            scores.counts[symbol] += known[0]
            scores.sizes[_TOTAL] += known[0]
    for token in range(scores.counts.size):
        scores.levels[token] = _level_below(scores.counts[token])


@splice
def _score(count: int, total: int, left: float, right: float) -> float:
    """Return the score of a pair that occurs ``count`` times, computed in floats alone."""
    ratio = float(count) * float(total) / (float(left) * float(right))
    return count * math.log(ratio)


@splice
def _bound(pairs: Pairs, scores: Scores, pair: int) -> float:
    """Return an upper bound of a pair's score, valid until a level is lowered."""
    count = pairs.rows[ROW * pair + COUNT]
    left, right = split_key(pairs.rows[ROW * pair + KEY])
    levels = scores.levels
    score = _score(count, scores.sizes[_TOTAL], levels[left], levels[right])
    return float(score + _SLACK * count)


@kernel
def _push_pairs(pairs: Pairs, first: int, scores: Scores) -> None:
    """Add the pairs from ``first`` on to the heap and to the lists of their tokens."""
    for pair in range(first, pairs.sizes[NUM_PAIRS]):
        left, right = split_key(pairs.rows[ROW * pair + KEY])
        scores.links[2 * pair] = scores.heads[2 * left]
        scores.heads[2 * left] = pair
        scores.links[2 * pair + 1] = scores.heads[2 * right + 1]
        scores.heads[2 * right + 1] = pair
        scores.bounds[pair] = _bound(pairs, scores, pair)
        _push(scores, pair)


@kernel
def _merge_pairs(
    words: Words, rules: MergeRules, pairs: Pairs, scores: Scores, merges: Int32
) -> tuple[int, int]:
    """Merge as long as there is room.

    Returns:
        The pairs and fresh occurrences that room is needed for, or ``_DONE``.
    """
    sizes = scores.sizes
    while 2 * sizes[_NUM_MERGES] < merges.size:
        pair = _find_best(pairs, scores, rules.min_frequency)
        if pair == NONE:
            break
        merged = rules.first + sizes[_NUM_MERGES]
        num_pairs, num_fresh = count_room(pairs, pair, merged)
        if (
            not has_room(pairs, num_pairs, num_fresh)
            or pairs.sizes[NUM_PAIRS] + num_pairs > scores.bounds.size
        ):
            return num_pairs, num_fresh
        _remove(scores, pair)
        left, right = split_key(pairs.rows[ROW * pair + KEY])
        merges[2 * sizes[_NUM_MERGES]], merges[2 * sizes[_NUM_MERGES] + 1] = left, right
        sizes[_NUM_MERGES] += 1
        first_pair = pairs.sizes[NUM_PAIRS]
        count = merge_pair(words, rules, pairs, pair, merged)
        sizes[_TOTAL] -= count
        scores.counts[left] -= count
        scores.counts[right] -= count
        scores.counts[merged] = count
        scores.levels[merged] = _level_below(count)
        _lower_level(pairs, scores, left, rules.min_frequency)
        _lower_level(pairs, scores, right, rules.min_frequency)
        _push_pairs(pairs, first_pair, scores)
    return _DONE


@inline
def _find_best(pairs: Pairs, scores: Scores, min_frequency: int) -> int:
    """Return the pair to merge next, or ``NONE``; pairs that are too rare leave the heap for good."""
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
        left, right = split_key(pairs.rows[ROW * pair + KEY])
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


@splice
def _is_preferred(pairs: Pairs, pair: int, other: int) -> bool:
    """Return whether of two pairs with the same score the first is merged."""
    rows = pairs.rows
    count, other_count = rows[ROW * pair + COUNT], rows[ROW * other + COUNT]
    is_lower = rows[ROW * pair + KEY] < rows[ROW * other + KEY]
    return bool(count > other_count or (count == other_count and is_lower))


@inline
def _lower_level(pairs: Pairs, scores: Scores, token: int, min_frequency: int) -> None:
    """If a token's count has fallen below its level, compute the bounds of its pairs again.

    Pairs that are too rare leave its lists for good.
    """
    if scores.counts[token] >= scores.levels[token]:
        return
    scores.levels[token] = _level_below(scores.counts[token])
    for side in range(2):
        kept = NONE
        pair = signed(scores.heads[2 * token + side])
        while pair != NONE:
            after = signed(scores.links[2 * pair + side])
            is_kept = pairs.rows[ROW * pair + COUNT] >= min_frequency
            if is_kept:
                scores.bounds[pair] = _bound(pairs, scores, pair)
                _settle(scores, pair)
                kept = pair
            elif kept == NONE:
                scores.heads[2 * token + side] = after
            else:
                scores.links[2 * kept + side] = after
            pair = after


@splice
def _push(scores: Scores, pair: int) -> None:
    """Add a pair to the heap."""
    scores.places[pair] = scores.sizes[_HEAP_SIZE]
    scores.heap[scores.sizes[_HEAP_SIZE]] = pair
    scores.sizes[_HEAP_SIZE] += 1
    _settle(scores, pair)


@splice
def _remove(scores: Scores, pair: int) -> None:
    """Remove a pair from the heap."""
    scores.sizes[_HEAP_SIZE] -= 1
    last = signed(scores.heap[scores.sizes[_HEAP_SIZE]])
    if last != pair:
        scores.heap[scores.places[pair]] = last
        scores.places[last] = scores.places[pair]
        _settle(scores, last)
    scores.places[pair] = NONE


@inline
def _settle(scores: Scores, pair: int) -> None:
    """Move a pair, whose bound may have changed, up or down the heap to where it belongs."""
    place = move_up(_comes_before, _swap, scores, signed(scores.places[pair]))
    move_down(_comes_before, _swap, scores, place, scores.sizes[_HEAP_SIZE])


@splice
def _comes_before(scores: Scores, place: int, other: int) -> bool:
    return bool(scores.bounds[scores.heap[place]] > scores.bounds[scores.heap[other]])


@splice
def _swap(scores: Scores, place: int, other: int) -> None:
    heap, places = scores.heap, scores.places
    heap[place], heap[other] = heap[other], heap[place]
    places[heap[place]], places[heap[other]] = place, other
