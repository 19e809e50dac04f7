"""What google-research/bert's ``tokenization.py`` does: text to tokens, in pure Python.

A port of its behaviour: clean, separate Chinese characters, lower-case, strip accents, split at white
space and punctuation, then match the longest token first. Benchmarks use it as the peer.
"""

import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_CHINESE = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)


@dataclass(frozen=True)
class BertTokenizer:
    """BERT's uncased tokenizer; ``ids`` is the vocabulary."""

    ids: Mapping[str, int]

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text."""
        return [
            self.ids[token]
            for word in clean(text).strip().split()
            for part in split_punctuation(strip_accents(word.lower()))
            for token in self.tokens(part)
        ]

    def tokens(self, word: str) -> list[str]:
        """Return the longest tokens that make up a word."""
        if len(word) > 200:
            return ["[UNK]"]
        found = []
        start = 0
        while start < len(word):
            for end in range(len(word), start, -1):
                token = ("##" if start else "") + word[start:end]
                if token in self.ids:
                    found.append(token)
                    start = end
                    break
            else:
                return ["[UNK]"]
        return found


def clean(text: str) -> str:
    """Remove control characters, turn white space into spaces, separate Chinese characters."""
    parts = []
    for char in text:
        number = ord(char)
        if char in " \t\n\r" or unicodedata.category(char) == "Zs":
            parts.append(" ")
        elif number in (0, 0xFFFD) or unicodedata.category(char) in ("Cc", "Cf"):
            continue
        elif any(first <= number <= last for first, last in _CHINESE):
            parts.append(f" {char} ")
        else:
            parts.append(char)
    return "".join(parts)


def strip_accents(word: str) -> str:
    """Remove combining marks."""
    decomposed = unicodedata.normalize("NFD", word)
    return "".join(char for char in decomposed if unicodedata.category(char) != "Mn")


def split_punctuation(word: str) -> Iterator[str]:
    """Split at punctuation, which is a word by itself."""
    part = ""
    for char in word:
        number = ord(char)
        is_ascii = (
            33 <= number <= 47 or 58 <= number <= 64 or 91 <= number <= 96 or 123 <= number <= 126
        )
        if is_ascii or unicodedata.category(char).startswith("P"):
            if part:
                yield part
            yield char
            part = ""
        else:
            part += char
    if part:
        yield part
