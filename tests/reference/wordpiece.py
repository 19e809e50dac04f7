r"""A readable twin of BERT's tokenizer: normalizer, words, longest tokens first.

    text         "Unaffable,中 x\u0301"   tokens: un ##aff ##able , x
    normalized   "unaffable, 中  x"
    words        unaffable         ,   中       x
    tokens       un ##aff ##able   ,   [UNK]   x
    word_starts  1  0     0        1   1       1

The normalizer is applied to one character at a time, and the twin joins the results. That equals the
normalizer of a text with one exception: where accents are stripped, marks that stay are put into
canonical order (U+1D165 before U+302E).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WordPiece:
    """BERT's tokenizer.

    Attributes:
        normalize: the normalizer of a character.
        kind: ``letter``, ``space`` or ``punctuation``, of a normalized character.
        ids: the vocabulary.
        unknown: the token for words that cannot be made of tokens.
        prefix: the beginning of tokens within a word.
        max_chars: a word of more normalized characters is unknown.
    """

    normalize: Callable[[str], str]
    kind: Callable[[str], str]
    ids: Mapping[str, int]
    unknown: str = "[UNK]"
    prefix: str = "##"
    max_chars: int = 100

    def encode(self, text: str) -> tuple[list[int], list[bool]]:
        """Return the ids of a text, and whether each starts a word."""
        ids: list[int] = []
        word_starts: list[bool] = []
        for word in self.words(text):
            tokens = self.tokens(word)
            ids += [self.ids[token] for token in tokens]
            word_starts += [True] + [False] * (len(tokens) - 1)
        return ids, word_starts

    def words(self, text: str) -> Iterator[str]:
        """Yield the text between white space; punctuation is a word by itself."""
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

    def tokens(self, word: str) -> list[str]:
        """Return the longest token that the word begins with, then the same for the rest."""
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
