r"""A readable twin of byte-level BPE: GPT-2's words, then merges by rank.

    text     "It's  low."               merges, by rank: o w, l ow, Ġ low
    words    "It" "'s" " " " low" "."
    bytes    I t, ' s, Ġ, Ġ l o w, .
    entries  I t  ' s  Ġ  Ġlow     .    by l ow → Ġ l ow → Ġ low → Ġlow

GPT-2's words are the matches of this pattern, here written out:

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
        ids: the vocabulary; a byte that it lacks is dropped.
        ranks: the rank of each pair that is merged; of a doubled one that is the later.
        add_prefix_space: a text that does not begin with a space gets one, if it is not empty.
    """

    kind: Callable[[str], str]
    ids: Mapping[str, int]
    ranks: Mapping[tuple[str, str], int]
    add_prefix_space: bool = False

    def encode(self, text: str) -> tuple[list[int], list[bool]]:
        """The ids of a text, and whether a word starts with each."""
        if self.add_prefix_space and text and not text.startswith(" "):
            text = " " + text
        ids: list[int] = []
        word_starts: list[bool] = []
        for word in self.words(text):
            entries = self.entries(word)
            ids += [self.ids[entry] for entry in entries]
            word_starts += [number == 0 for number in range(len(entries))]
        return ids, word_starts

    def words(self, text: str) -> Iterator[str]:
        """The matches of the pattern, which leave nothing out."""
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
        # White space leaves its last character to the word behind it, as far as it has two.
        return stop - 1 if stop < len(text) and stop - start > 1 else stop

    def _end_of_run(self, text: str, start: int) -> int:
        kind = self.kind(text[start])
        others = (place for place in range(start, len(text)) if self.kind(text[place]) != kind)
        return next(others, len(text))

    def entries(self, word: str) -> list[str]:
        """Merge the pair of the lowest rank, the leftmost of them, until there is none."""
        parts = [ALPHABET[byte] for byte in word.encode() if ALPHABET[byte] in self.ids]
        while True:
            pairs = enumerate(pairwise(parts))
            ranked = [(self.ranks[pair], place) for place, pair in pairs if pair in self.ranks]
            if not ranked:
                return parts
            _, place = min(ranked)
            parts[place : place + 2] = ["".join(parts[place : place + 2])]
