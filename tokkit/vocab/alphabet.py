"""The alphabet of a corpus: which characters a WordPiece vocabulary is made of.

The characters of the normalized text are counted exactly, and the most frequent are kept, of two
that occur as often the one with the lower code point. A kept character is an entry by itself, and
where some word has it after its beginning, ``##c`` is one too. Of "Go on!":

    counts       o 2   g 1   n 1   ! 1        (uncased)
    characters   ! g n o
    continuing   n o                          ##n ##o

Counting is done over raw code points: since the normalizer is context-free, its work is needed
once for each distinct character, not for each occurrence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tokkit.errors import TokkitError
from tokkit.vocab.characters import (
    BREAK,
    NOTHING,
    UNICODE_SIZE,
    WORD,
    CharacterTable,
    code_points,
)

_BLOCK_CHARS = 1 << 20


@dataclass(frozen=True)
class Alphabet:
    """The characters that were kept, and how many were not.

    Attributes:
        characters: kept, by code point.
        continuing: those of them that occur after the beginning of a word.
        num_distinct: different characters of the normalized text.
        num_characters: occurrences of characters in the normalized text.
        num_removed: occurrences of those that were not kept.
    """

    characters: tuple[str, ...]
    continuing: tuple[str, ...]
    num_distinct: int
    num_characters: int
    num_removed: int


class AlphabetCounter:
    """Counts the characters of a corpus, text by text.

    Args:
        table: what normalizer and pre-tokenizer make of a character.
    """

    def __init__(self, table: CharacterTable) -> None:
        self._table = table
        self._counts = np.zeros(UNICODE_SIZE, np.int64)
        self._continues = np.zeros(UNICODE_SIZE, np.bool_)

    def add(self, texts: Sequence[str]) -> None:
        """Count the characters of some texts, between which every word ends."""
        text = "\n".join(texts)
        previous = np.array([BREAK], np.uint8)
        for start in range(0, len(text), _BLOCK_CHARS):
            codes = code_points(text[start : start + _BLOCK_CHARS])
            previous = self._add_block(codes, previous)
        # The line feeds that were put between are white space, which no alphabet has.

    def _add_block(
        self, codes: npt.NDArray[np.uint32], previous: npt.NDArray[np.uint8]
    ) -> npt.NDArray[np.uint8]:
        """Count a block that follows a character of the kind ``previous``; returns its last."""
        self._table.learn(codes)
        counts = np.bincount(codes)
        self._counts[: len(counts)] += counts
        kinds = self._table.kinds[codes]
        codes, kinds = codes[kinds != NOTHING], kinds[kinds != NOTHING]
        before = np.concatenate([previous, kinds])
        self._continues[codes[(kinds == WORD) & (before[:-1] == WORD)]] = True
        return before[-1:]

    def alphabet(self, limit: int) -> Alphabet:
        """The alphabet so far.

        Args:
            limit: how many characters are kept.
        """
        counts: dict[str, int] = {}
        continuing: set[str] = set()
        for code in np.flatnonzero(self._counts).tolist():
            in_word = self._table.kinds[code] == WORD
            for place, char in enumerate(self._table.normalized(code)):
                if self._table.spaces(char):
                    continue
                counts[char] = counts.get(char, 0) + int(self._counts[code])
                if in_word and (place > 0 or self._continues[code]):
                    continuing.add(char)
        kept = sorted(sorted(counts, key=lambda char: (-counts[char], char))[:limit])
        return Alphabet(
            characters=tuple(kept),
            continuing=tuple(char for char in kept if char in continuing),
            num_distinct=len(counts),
            num_characters=sum(counts.values()),
            num_removed=sum(counts.values()) - sum(counts[char] for char in kept),
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
