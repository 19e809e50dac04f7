"""Splitting text into the words of a model, as the library's normalizer and pre-tokenizer do.

    wordpiece   what BertNormalizer and BertPreTokenizer make of text
    bpe         what GPT-2's split pattern matches
    unigram     what stands between white space

Where digits are split, each is a word. What no table can tell, the order of combining marks that
stay, the library is asked about word by word.
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any

import numpy as np
from tokenizers import Regex, normalizers, pre_tokenizers

from tokkit.kernels.vocab.count_pieces import count_chunks_of_pieces, split_pieces
from tokkit.kernels.vocab.count_words import Normalization, count_chunks_of_words, split_words
from tokkit.kernels.vocab.word_table import LONGEST_WORD
from tokkit.tokenizer.characters import (
    UNICODE_SIZE,
    PieceCharacters,
    WordCharacters,
    is_mark,
    page_of,
)
from tokkit.tokenizer.definitions import GPT2_PATTERN
from tokkit.vocab.train_config import TrainConfig


class Splitter(ABC):
    """What the kernels must be told to split text for one model.

    Attributes:
        count_chunks: kernel over texts.
        split: kernel over texts of which each counts several times.
    """

    count_chunks: Callable[..., int]
    split: Callable[..., int]

    @property
    @abstractmethod
    def rules(self) -> Any:
        """The tables, as both kernels take them."""

    @abstractmethod
    def learn_page(self, code: int) -> None:
        """Tell the tables of a character that they have not got."""

    def take_removed(self) -> dict[str, int]:
        """Characters that normalization removed since the last call, with how often."""
        return {}

    def ask_library(self, text: str, count: int) -> list[bytes]:
        """The words of a text that the tables cannot split, each of which counts ``count``."""
        raise NotImplementedError


class WordSplitter(Splitter):
    """For ``wordpiece`` and ``unigram``."""

    count_chunks = staticmethod(count_chunks_of_words)
    split = staticmethod(split_words)

    def __init__(self, config: TrainConfig) -> None:
        self._normalizes = config.model == "wordpiece"
        self._normalizer = normalizers.BertNormalizer(
            lowercase=not config.cased, strip_accents=config.strip_accents
        )
        self._pre_tokenizer = _word_pre_tokenizer(config)
        strips = not config.cased if config.strip_accents is None else config.strip_accents
        self._characters = WordCharacters(
            self._normalize, self._pre_tokenizer, orders_marks=self._normalizes and strips
        )
        self._rules = Normalization(
            self._characters.characters,
            np.zeros(UNICODE_SIZE, np.uint8),
            np.zeros(UNICODE_SIZE, np.int64),
            not self._normalizes,
        )
        self._note_losses(0)

    @property
    def rules(self) -> Normalization:
        """The tables."""
        return self._rules

    def learn_page(self, code: int) -> None:
        """Tell the tables of a character that they have not got."""
        self._characters.learn_page(code)
        self._note_losses(code)

    def take_removed(self) -> dict[str, int]:
        """Characters that normalization removed since the last call, with how often."""
        total: Counter[str] = Counter()
        for code in np.flatnonzero(self._rules.num_lost).tolist():
            for char in self._lost(chr(code)):
                total[char] += int(self._rules.num_lost[code])
        self._rules.num_lost[:] = 0
        return dict(total)

    def ask_library(self, text: str, count: int) -> list[bytes]:
        """The words of a text that the tables cannot split, each of which counts ``count``."""
        for char in text:
            if self._rules.loses[ord(char)]:
                self._rules.num_lost[ord(char)] += count
        pieces = self._pre_tokenizer.pre_tokenize_str(self._normalize(text))
        return [_shorten(word) for word, _ in pieces]

    def _normalize(self, text: str) -> str:
        return self._normalizer.normalize_str(text) if self._normalizes else text

    def _note_losses(self, code: int) -> None:
        """Note of which characters on a page normalization removes something."""
        if self._normalizes:
            for other in page_of(code):
                self._rules.loses[other] = bool(self._lost(chr(other)))

    def _lost(self, char: str) -> list[str]:
        """What normalization takes from a character: itself, or marks that it is composed with."""
        form = self._normalize(char)
        if not form:
            return [char]
        left = Counter(self._decompose(form))
        before = Counter(part for part in self._decompose(char) if is_mark(part))
        return sorted((before - left).elements())

    @cached_property
    def _decompose(self) -> Callable[[str], str]:
        decompose: Callable[[str], str] = normalizers.NFD().normalize_str
        return decompose


class PieceSplitter(Splitter):
    """For ``bpe``."""

    count_chunks = staticmethod(count_chunks_of_pieces)
    split = staticmethod(split_pieces)

    def __init__(self, config: TrainConfig) -> None:
        self._characters = PieceCharacters(_piece_pre_tokenizer(config))

    @property
    def rules(self) -> Any:
        """The table."""
        return self._characters.classes

    def learn_page(self, code: int) -> None:
        """Tell the table of a character that it has not got."""
        self._characters.learn_page(code)


def new_splitter(config: TrainConfig) -> Splitter:
    """What splits text for the model of a config."""
    return PieceSplitter(config) if config.model == "bpe" else WordSplitter(config)


def _word_pre_tokenizer(config: TrainConfig) -> pre_tokenizers.PreTokenizer:
    """What cuts words from normalized text; sentencepiece splits digits itself."""
    if config.model == "unigram":
        return pre_tokenizers.WhitespaceSplit()
    words = pre_tokenizers.BertPreTokenizer()
    if not config.split_digits:
        return words
    return pre_tokenizers.Sequence([words, pre_tokenizers.Digits(individual_digits=True)])


def _piece_pre_tokenizer(config: TrainConfig) -> pre_tokenizers.PreTokenizer:
    """What cuts pieces from text."""
    if not config.split_digits:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    pattern = Regex(GPT2_PATTERN)
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(pattern, "isolated"),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _shorten(word: str) -> bytes:
    """The bytes of a word, its end left out where it is too long."""
    data = word.encode()
    if len(data) <= LONGEST_WORD:
        return data
    return data[: LONGEST_WORD - 4].decode(errors="ignore").encode()
