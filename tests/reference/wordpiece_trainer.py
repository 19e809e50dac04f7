"""A slow, readable WordPiece trainer: the alphabet, and the score of Schuster and Nakajima (2012)."""

import math
from collections import Counter
from collections.abc import Mapping

from tokkit.vocab.trainers import Alphabet


def by_likelihood(count: int, left: int, right: int, total: int) -> float:
    """Return how much merging a pair raises the log-likelihood of the corpus."""
    return count * math.log(float(count) * float(total) / (float(left) * float(right)))


def count_alphabet(words: Mapping[str, int], limit: int) -> Alphabet:
    """Count the alphabet of words, character by character."""
    counts: Counter[str] = Counter()
    continuing: set[str] = set()
    for word, count in words.items():
        for char in word:
            counts[char] += count
        continuing.update(word[1:])
    kept = sorted(sorted(counts, key=lambda char: (-counts[char], char))[:limit])
    return Alphabet(
        tuple(kept),
        tuple(char for char in kept if char in continuing),
        len(counts),
        counts.total(),
        counts.total() - sum(counts[char] for char in kept),
    )
