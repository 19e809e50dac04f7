"""A slow, readable BPE trainer: count all pairs for each merge, and take the best."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

Word = tuple[int, ...]
Pair = tuple[int, int]
# Arguments: the counts of a pair, of its left token, of its right token, and of all tokens.
Score = Callable[[int, int, int, int], float]


def by_frequency(count: int, *_: int) -> float:
    return count


def learn_merges(
    counts: Mapping[Word, int],
    lengths: list[int],
    num_merges: int,
    *,
    min_frequency: int = 1,
    max_token_length: int | None = None,
    score: Score = by_frequency,
) -> list[Pair]:
    """Return the merges of a corpus, whose ids follow those of ``lengths``.

    Args:
        counts: words as ids, with their counts.
        lengths: number of characters of each token.
        num_merges: most merges to learn.
        min_frequency: rarer pairs are not merged.
        max_token_length: most characters of a merged token.
        score: the pair with the highest score above zero is merged.
    """
    merges: list[Pair] = []
    lengths = list(lengths)
    while len(merges) < num_merges:
        tokens: Counter[int] = Counter()
        pairs: Counter[Pair] = Counter()
        for word, count in counts.items():
            for token in word:
                tokens[token] += count
            for pair in pairwise(word):
                if sum(lengths[half] for half in pair) <= (max_token_length or 1 << 31):
                    pairs[pair] += count
        ranked = [
            (
                score(count, tokens[pair[0]], tokens[pair[1]], tokens.total()),
                count,
                (-pair[0], -pair[1]),
            )
            for pair, count in pairs.items()
            if count >= min_frequency
        ]
        if not ranked or max(ranked)[0] <= 0:
            break
        left, right = (-half for half in max(ranked)[2])
        merged = len(lengths)
        lengths.append(lengths[left] + lengths[right])
        merges.append((left, right))
        again: Counter[Word] = Counter()
        for word, count in counts.items():
            again[merge(word, left, right, merged)] += count
        counts = again
    return merges


def merge(word: Word, left: int, right: int, merged: int) -> Word:
    """Merge a pair in a word, from left to right."""
    symbols: list[int] = []
    for symbol in word:
        if symbol == right and symbols and symbols[-1] == left:
            symbols[-1] = merged
        else:
            symbols.append(symbol)
    return tuple(symbols)
