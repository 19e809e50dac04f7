r"""A readable twin of byte-level BPE: GPT-2's words, then merges by rank.

    text     "It's  low."               merges, by rank: o w, l ow, Ġ low
    words    "It" "'s" " " " low" "."
    bytes    I t, ' s, Ġ, Ġ l o w, .
    tokens   I t  ' s  Ġ  Ġlow     .    by l ow → Ġ l ow → Ġ low → Ġlow

GPT-2's words are the matches of this pattern, here written out in code:

    's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise

from tokkit.tokenizer.definitions import byte_level_alphabet

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")
ALPHABET = byte_level_alphabet()


@dataclass(frozen=True)
class ByteLevelBPE:
    """The tokenizer of GPT-2.

    Attributes:
        kind: ``letter``, ``number``, ``space`` or ``other``, of a character.
        ids: the vocabulary; bytes that it lacks are dropped.
        ranks: the rank of each merge; the later one of equal pairs.
        add_prefix_space: put a space in front of a text that does not begin with one.
    """

    kind: Callable[[str], str]
    ids: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    add_prefix_space: bool = False

    def encode(self, text: str) -> tuple[list[int], list[bool]]:
        """Return the ids of a text, and whether each starts a word."""
        if self.add_prefix_space and text and not text.startswith(" "):
            text = " " + text
        ids: list[int] = []
        word_starts: list[bool] = []
        for word in self.words(text):
            tokens = self.tokens(word)
            ids += [self.ids[token] for token in tokens]
            word_starts += [number == 0 for number in range(len(tokens))]
        return ids, word_starts

    def words(self, text: str) -> Iterator[str]:
        """Yield the matches of the pattern, which cover the whole text."""
        start = 0
        while start < len(text):
            stop = self._end_of_word(text, start)
            yield text[start:stop]
            start = stop

    def _end_of_word(self, text: str, start: int) -> int:
        for contraction in CONTRACTIONS:
            if text.startswith(contraction, start):
                return start + len(contraction)
        head = start + 1 if text[start] == " " else start
        if head < len(text) and self.kind(text[head]) != "space":
            return self._end_of_run(text, head)
        stop = self._end_of_run(text, start)
        # Of two and more characters of white space the last belongs to the next word.
        return stop - 1 if stop < len(text) and stop - start > 1 else stop

    def _end_of_run(self, text: str, start: int) -> int:
        kind = self.kind(text[start])
        others = (place for place in range(start, len(text)) if self.kind(text[place]) != kind)
        return next(others, len(text))

    def tokens(self, word: str) -> list[str]:
        """Merge the pair of lowest rank, leftmost first, until none is left."""
        parts = [ALPHABET[byte] for byte in word.encode() if ALPHABET[byte] in self.ids]
        while True:
            pairs = enumerate(pairwise(parts))
            ranked = [(self.ranks[pair], place) for place, pair in pairs if pair in self.ranks]
            if not ranked:
                return parts
            _, place = min(ranked)
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
