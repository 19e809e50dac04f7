"""Splits text into the words of a model, as the library's normalizer and pre-tokenizer do.

    wordpiece   words of BertNormalizer and BertPreTokenizer
    bpe         matches of a split pattern
    unigram     what stands between white space
    metaspace   what begins with a space, also at the beginning of a text

If digits are split, each is a word. A splitter has two kernels, ``count_chunks`` for texts that
count once and ``split`` for texts that each count several times, and ``rules``, their character
tables. A page of the tables is filled when a kernel meets a character on it. The order of combining
marks that stay cannot be a table's; words with such marks are split by the library.
"""

from collections import Counter
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import normalizers, pre_tokenizers

from tokkit.kernels.vocab.count_words import (
    Normalization,
    count_chunks_of_pieces,
    count_chunks_of_words,
    split_pieces,
    split_words,
)
from tokkit.kernels.vocab.word_table import LONGEST_WORD
from tokkit.tokenizer.characters import (
    UNICODE_SIZE,
    WordCharacters,
    is_mark,
    page_of,
)
from tokkit.tokenizer.definitions import METASPACE, SPLIT_DIGITS, split_by
from tokkit.tokenizer.splitter import TextSplitter
from tokkit.tokenizer.text_normalizer import TextNormalizer
from tokkit.vocab.train_config import TrainConfig

_SPACED_WORD = " [^ ]*|[^ ]+"

_Bytes = npt.NDArray[np.uint8]
_Int64s = npt.NDArray[np.int64]


class WordSplitter:
    """Splits text for ``wordpiece`` and ``unigram``."""

    count_chunks = staticmethod(count_chunks_of_words)
    split = staticmethod(split_words)

    def __init__(self, config: TrainConfig) -> None:
        self._normalizes = config.model == "wordpiece"
        self._normalizer = normalizers.BertNormalizer(
            lowercase=not config.cased, strip_accents=config.strip_accents
        )
        self._pre_tokenizer: Any = pre_tokenizers.WhitespaceSplit()
        if self._normalizes:
            self._pre_tokenizer = pre_tokenizers.BertPreTokenizer()
            if config.split_digits:  # sentencepiece splits digits itself
                digits = pre_tokenizers.Digits(individual_digits=True)
                self._pre_tokenizer = pre_tokenizers.Sequence([self._pre_tokenizer, digits])
        strips = not config.cased if config.strip_accents is None else config.strip_accents
        self._characters = WordCharacters(
            self._normalize, self._pre_tokenizer, orders_marks=self._normalizes and strips
        )
        self.rules: Any = Normalization(
            self._characters.characters,
            np.zeros(UNICODE_SIZE, np.uint8),
            np.zeros(UNICODE_SIZE, np.int64),
            not self._normalizes,
        )
        self._note_losses(0)

    def learn_page(self, code: int) -> None:
        """Fill the tables for a character and those on its page."""
        self._characters.learn_page(code)
        self._note_losses(code)

    def normalize(self, values: _Bytes, offsets: _Int64s) -> tuple[_Bytes, _Int64s]:
        """Return texts as they are, since the kernel normalizes them."""
        return values, offsets

    def take_removed(self) -> dict[str, int]:
        """Return how often normalization removed each character since the last call."""
        total: Counter[str] = Counter()
        for code in np.flatnonzero(self.rules.num_lost).tolist():
            for char in self._find_lost(chr(code)):
                total[char] += int(self.rules.num_lost[code])
        self.rules.num_lost[:] = 0
        return dict(total)

    def ask_library(self, text: str, count: int) -> list[bytes]:
        """Return the words of a text, which counts ``count`` times, by the library.

        A word that is too long loses its end.
        """
        for char in text:
            if self.rules.loses[ord(char)]:
                self.rules.num_lost[ord(char)] += count
        pieces = self._pre_tokenizer.pre_tokenize_str(self._normalize(text))
        words = [word.encode() for word, _ in pieces]
        return [
            word
            if len(word) <= LONGEST_WORD
            else word[: LONGEST_WORD - 4].decode(errors="ignore").encode()
            for word in words
        ]

    def _normalize(self, text: str) -> str:
        return self._normalizer.normalize_str(text) if self._normalizes else text

    def _note_losses(self, code: int) -> None:
        """Note from which characters on a page normalization removes something."""
        if self._normalizes:
            for other in page_of(code):
                self.rules.loses[other] = bool(self._find_lost(chr(other)))

    def _find_lost(self, char: str) -> list[str]:
        """Return what normalization removes from a character: itself, or marks in it."""
        normalized = self._normalize(char)
        if not normalized:
            return [char]
        left = Counter(self._nfd.normalize_str(normalized))
        before = Counter(part for part in self._nfd.normalize_str(char) if is_mark(part))
        return sorted((before - left).elements())

    @cached_property
    def _nfd(self) -> normalizers.Normalizer:
        return normalizers.NFD()


class PieceSplitter:
    """Splits text for ``bpe``."""

    count_chunks = staticmethod(count_chunks_of_pieces)
    split = staticmethod(split_pieces)

    def __init__(self, config: TrainConfig) -> None:
        pattern = _SPACED_WORD if config.metaspace else config.split_pattern
        parts = [split_by(pattern), *([SPLIT_DIGITS] if config.split_digits else [])]
        normalizer = None if config.normalize == "none" else {"type": config.normalize.upper()}
        metaspace = METASPACE if config.metaspace else None
        self._normalizer = TextNormalizer.of_definition(normalizer, metaspace)
        self._splitter = TextSplitter({"type": "Sequence", "pretokenizers": parts})
        self.learn_page = self._splitter.learn_page

    @property
    def rules(self) -> Any:
        """The automata for the kernels, which grow."""
        return self._splitter.tables

    def normalize(self, values: _Bytes, offsets: _Int64s) -> tuple[_Bytes, _Int64s]:
        """Return normalized texts; with ``--metaspace``, a space is in front of each, and for U+2581."""
        values, offsets, _ = self._normalizer.normalize(values, offsets)
        values, offsets, _ = self._normalizer.add_prefix(values, offsets)
        return values, offsets

    def take_removed(self) -> dict[str, int]:
        """Return nothing, since there is no normalization."""
        return {}

    def ask_library(self, _text: str, _count: int) -> list[bytes]:
        """Never be called: the kernels know every piece."""
        raise NotImplementedError


Splitter = WordSplitter | PieceSplitter


def make_splitter(config: TrainConfig) -> Splitter:
    """Return the splitter for the model of a config."""
    return PieceSplitter(config) if config.model == "bpe" else WordSplitter(config)
