r"""A readable twin of BERT's tokenizer: normalizer, words, longest entries first.

    text         "Unaffable,中 x\u0301"   entries: un ##aff ##able , x
    normalized   "unaffable, 中  x"
    words        unaffable         ,   中       x
    entries      un ##aff ##able   ,   [UNK]   x
    word_starts  1  0     0        1   1       1

The normalizer is given for one character at a time, and the twin puts the results together. That is
what the normalizer does to a text, but for one thing: where accents are stripped, marks that stay
are put into canonical order (U+1D165 goes before U+302E).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WordPiece:
    """BERT's tokenizer.

    Attributes:
        normalize: what the normalizer makes of a character.
        kind: ``letter``, ``space`` or ``punctuation``, of a normalized character.
        ids: the vocabulary.
        unknown: the entry for words that are not made of entries.
        prefix: what an entry within a word begins with.
        max_chars: a word of more normalized characters is unknown.
    """

    normalize: Callable[[str], str]
    kind: Callable[[str], str]
    ids: Mapping[str, int]
    unknown: str = "[UNK]"
    prefix: str = "##"
    max_chars: int = 100

    def encode(self, text: str) -> tuple[list[int], list[bool]]:
        """The ids of a text, and whether a word starts with each."""
        ids: list[int] = []
        word_starts: list[bool] = []
        for word in self.words(text):
            entries = self.entries(word)
            ids += [self.ids[entry] for entry in entries]
            word_starts += [True] + [False] * (len(entries) - 1)
        return ids, word_starts

    def words(self, text: str) -> Iterator[str]:
        """What stands between white space; punctuation is a word by itself."""
        word = ""
        for char in "".join(map(self.normalize, text)):
            kind = self.kind(char)
            if kind == "letter":
                word += char
                continue
            if word:
                yield word
                word = ""
            if kind == "punctuation":
                yield char
        if word:
            yield word

    def entries(self, word: str) -> list[str]:
        """The longest entry that the word begins with, then the same for what is left."""
        found: list[str] = []
        start = 0
        while start < len(word) <= self.max_chars:
            prefix = self.prefix if start else ""
            stops = range(len(word), start, -1)
            stop = next((stop for stop in stops if prefix + word[start:stop] in self.ids), None)
            if stop is None:
                return [self.unknown]
            found.append(prefix + word[start:stop])
            start = stop
        return found or [self.unknown]
