"""A slow, readable BPE trainer: count all pairs anew for each merge, and take the best."""

from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise

Word = tuple[int, ...]
Pair = tuple[int, int]
# Of how often a pair occurs, how often its left and right entry do, and all entries together.
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
    """The merges of a corpus, whose ids go on from those of ``lengths``.

    Args:
        counts: words as ids, and how often each occurs.
        lengths: characters of each entry.
        num_merges: at most.
        min_frequency: of a pair.
        max_token_length: of each merge, at most.
        score: the pair with the highest is merged, if that is above zero.
    """
    merges: list[Pair] = []
    lengths = list(lengths)
    while len(merges) < num_merges:
        entries: Counter[int] = Counter()
        pairs: Counter[Pair] = Counter()
        for word, count in counts.items():
            for entry in word:
                entries[entry] += count
            for pair in pairwise(word):
                if sum(lengths[half] for half in pair) <= (max_token_length or 1 << 31):
                    pairs[pair] += count
        ranked = [
            (
                score(count, entries[pair[0]], entries[pair[1]], entries.total()),
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
    """A word after a merge, from left to right."""
    symbols: list[int] = []
    for symbol in word:
        if symbol == right and symbols and symbols[-1] == left:
            symbols[-1] = merged
        else:
            symbols.append(symbol)
    return tuple(symbols)
