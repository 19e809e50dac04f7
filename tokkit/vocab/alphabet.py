"""The alphabet of a corpus: which characters a WordPiece vocabulary is made of.

The characters of all words are counted, and the most frequent are kept, of two that occur as often
the one with the lower code point. A kept character is an entry by itself, and where some word has
it after its beginning, ``##c`` is one too. Of "Go on!":

    counts       o 2   g 1   n 1   ! 1        (uncased)
    characters   ! g n o
    continuing   n o                          ##n ##o

Characters that the user names go before all others, whether they occur or not.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tokkit.errors import TokkitError
from tokkit.kernels.symbols import count_characters
from tokkit.vocab.characters import UNICODE_SIZE
from tokkit.vocab.counts import WordCounts


@dataclass(frozen=True)
class Alphabet:
    """The characters that were kept, and how many were not.

    Attributes:
        characters: kept, by code point.
        continuing: those of them that occur after the beginning of a word.
        num_distinct: different characters of the words.
        num_characters: occurrences of characters in the words.
        num_removed: occurrences of those that were not kept.
    """

    characters: tuple[str, ...]
    continuing: tuple[str, ...]
    num_distinct: int
    num_characters: int
    num_removed: int


def count_alphabet(
    words: WordCounts, limit: int, initial: AbstractSet[str] = frozenset()
) -> Alphabet:
    """The alphabet of some words.

    Args:
        words: UTF-8, normalized.
        limit: how many characters are kept.
        initial: characters that go before all others.

    Example:
        >>> count_alphabet(WordCounts.from_mapping({b"go": 1, b"on": 1}), 2).characters
        ('g', 'o')
    """
    counts = np.zeros(UNICODE_SIZE, np.int64)
    continues = np.zeros(UNICODE_SIZE, np.bool_)
    count_characters(words.values, words.offsets, words.counts, counts, continues)
    occurring = np.flatnonzero(counts).tolist()
    named = {ord(char) for char in initial}
    kept = sorted(
        sorted(named.union(occurring), key=lambda code: (code not in named, -counts[code], code))[
            :limit
        ]
    )
    return Alphabet(
        characters=tuple(map(chr, kept)),
        continuing=tuple(chr(code) for code in kept if continues[code]),
        num_distinct=len(occurring),
        num_characters=int(counts.sum()),
        num_removed=int(counts.sum() - counts[kept].sum()),
    )


def read_characters(path: Path) -> str:
    """The text of a file of characters, for ``--initial-alphabet``.

    Raises:
        TokkitError: where there is none, or it is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise TokkitError(
            f"{path}: {error.strerror}; --initial-alphabet takes a file of characters"
        ) from error
    except UnicodeDecodeError as error:
        raise TokkitError(
            f"{path}: invalid UTF-8 at byte {error.start}; --initial-alphabet takes UTF-8"
        ) from error
