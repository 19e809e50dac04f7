"""Splitting text into the words of a model, as the library's normalizer and pre-tokenizer do.

The kernels know what becomes of a character from tables, which are filled page by page as a text
has need of them, by asking the library; so the two cannot disagree. What no table can tell, the
order of combining marks that stay, the library is asked about word by word.

    wordpiece   what BertNormalizer and BertPreTokenizer make of text
    bpe         what GPT-2's split pattern matches
    unigram     what stands between white space
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from tokkit.kernels.bpe import LETTER, NUMBER, OTHER, Classes
from tokkit.kernels.bpe import SPACE as SPACE_CLASS
from tokkit.kernels.counting import Normalization, count_chunks_of_words, split_words
from tokkit.kernels.piececounting import Pattern, count_chunks_of_pieces, split_pieces
from tokkit.kernels.wordpiece import CONTEXT, NOTHING, SEVERAL, SINGLE, SPACE, WORD, Characters
from tokkit.kernels.wordtable import LONGEST_WORD
from tokkit.vocab.characters import UNICODE_SIZE, is_mark
from tokkit.vocab.config import TrainConfig

if TYPE_CHECKING:
    from tokenizers.pre_tokenizers import PreTokenizer

PAGE = 256
_SURROGATES = range(0xD800, 0xE000)
# Code points that Hangul syllables come to are 33,000.
_MOST_FORMS = 1 << 16
_LONGEST_FORM = 15


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

    def take_removed(self) -> dict[str, int]:
        """Characters that normalization removed since the last call, with how often."""
        return {}

    def learn_page(self, code: int) -> None:
        """Tell the tables of all characters of a page."""
        first = code // PAGE * PAGE
        for other in range(first, first + PAGE):
            if other not in _SURROGATES:
                self._learn(other)

    @abstractmethod
    def _learn(self, code: int) -> None:
        """Ask the library about a character."""

    def ask_library(self, text: str, count: int) -> list[bytes]:
        """The words of a text that the tables cannot split, each of which counts ``count``."""
        raise NotImplementedError


class WordSplitter(Splitter):
    """For ``wordpiece`` and ``unigram``."""

    count_chunks = staticmethod(count_chunks_of_words)
    split = staticmethod(split_words)

    def __init__(self, config: TrainConfig) -> None:
        from tokenizers import normalizers

        self._normalizes = config.model == "wordpiece"
        self._normalizer = normalizers.BertNormalizer(
            lowercase=not config.cased, strip_accents=config.strip_accents
        )
        strips = config.strip_accents
        self._orders_marks = self._normalizes and (not config.cased if strips is None else strips)
        self._pre_tokenizer = word_pre_tokenizer(config)
        characters = Characters(
            kinds=np.zeros(UNICODE_SIZE, np.uint8),
            meanings=np.zeros(UNICODE_SIZE, np.uint32),
            forms=np.zeros(_MOST_FORMS, np.uint32),
            is_space=np.zeros(256, np.bool_),
        )
        self._num_forms = 0
        self._rules = Normalization(
            characters,
            np.zeros(UNICODE_SIZE, np.uint8),
            np.zeros(UNICODE_SIZE, np.int64),
            not self._normalizes,
        )
        self.learn_page(0)
        characters.is_space[:33] = characters.kinds[:33] == SPACE

    @property
    def rules(self) -> Normalization:
        """The tables."""
        return self._rules

    def take_removed(self) -> dict[str, int]:
        """Characters that normalization removed since the last call, with how often."""
        total: Counter[str] = Counter()
        for code in np.flatnonzero(self._rules.num_lost).tolist():
            for char in self._lost(chr(code)):
                total[char] += int(self._rules.num_lost[code])
        self._rules.num_lost[:] = 0
        return dict(total)

    def _learn(self, code: int) -> None:
        char = chr(code)
        kinds, meanings, _, _ = self._rules.characters
        form = self._normalize(char)
        # What stands between two letters is a part of their word, or parts them.
        pieces = [piece for piece, _ in self._pre_tokenizer.pre_tokenize_str(f"a{form}a")]
        inner = pieces[1:-1]
        if not form:
            kinds[code] = NOTHING
        elif pieces == [f"a{form}a"]:
            self._learn_letter(code, form)
        elif not inner and "".join(pieces) == "aa":
            kinds[code] = SPACE
        elif pieces == ["a", form.strip(" "), "a"] and len(inner[0]) == 1:
            kinds[code] = SINGLE
            meanings[code] = ord(inner[0])
        else:
            kinds[code] = CONTEXT
        if self._normalizes and self._lost(char):
            self._rules.loses[code] = 1

    def _learn_letter(self, code: int, form: str) -> None:
        """Enter what a character that joins its neighbours is normalized to."""
        kinds, meanings, forms, _ = self._rules.characters
        stop = self._num_forms + len(form)
        fits = len(form) <= _LONGEST_FORM and stop <= len(forms)
        if not fits or (self._orders_marks and any(map(is_mark, form))):
            kinds[code] = CONTEXT
            return
        kinds[code] = WORD
        meanings[code] = ord(form[0])
        if len(form) > 1:
            meanings[code] = SEVERAL + self._num_forms * 16 + len(form)
            forms[self._num_forms : stop] = [ord(char) for char in form]
            self._num_forms = stop

    def _normalize(self, text: str) -> str:
        return self._normalizer.normalize_str(text) if self._normalizes else text

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
        from tokenizers.normalizers import NFD

        decompose: Callable[[str], str] = NFD().normalize_str
        return decompose

    def ask_library(self, text: str, count: int) -> list[bytes]:
        """The words of a text that the tables cannot split, each of which counts ``count``."""
        for char in text:
            if self._rules.loses[ord(char)]:
                self._rules.num_lost[ord(char)] += count
        pieces = self._pre_tokenizer.pre_tokenize_str(self._normalize(text))
        return [_shorten(word) for word, _ in pieces]


class PieceSplitter(Splitter):
    """For ``bpe``."""

    count_chunks = staticmethod(count_chunks_of_pieces)
    split = staticmethod(split_pieces)

    def __init__(self, config: TrainConfig) -> None:
        from tokenizers import pre_tokenizers

        self._pattern = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self._digits = pre_tokenizers.Digits(individual_digits=True)
        self._rules = Pattern(
            Classes(np.zeros(UNICODE_SIZE, np.uint8), np.zeros(256, np.bool_)),
            np.zeros(UNICODE_SIZE, np.bool_),
            config.split_digits,
        )
        self.learn_page(0)
        classes, is_space = self._rules.classes
        is_space[:33] = classes[:33] == SPACE_CLASS

    @property
    def rules(self) -> Pattern:
        """The tables."""
        return self._rules

    def _learn(self, code: int) -> None:
        char = chr(code)
        self._rules.is_digit[code] = len(self._digits.pre_tokenize_str(f"a{char}")) > 1
        self._rules.classes.classes[code] = SPACE_CLASS
        for kind, neighbour in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!")):
            if len(self._pattern.pre_tokenize_str(f"{neighbour}{char}")) == 1:
                self._rules.classes.classes[code] = kind
                return


def new_splitter(config: TrainConfig) -> Splitter:
    """What splits text for the model of a config."""
    return PieceSplitter(config) if config.model == "bpe" else WordSplitter(config)


def word_pre_tokenizer(config: TrainConfig) -> "PreTokenizer":
    """What cuts words from normalized text, for ``wordpiece`` and ``unigram``."""
    from tokenizers import pre_tokenizers

    words: PreTokenizer = (
        pre_tokenizers.BertPreTokenizer()
        if config.model == "wordpiece"
        else pre_tokenizers.WhitespaceSplit()
    )
    if not config.split_digits:
        return words
    digits = pre_tokenizers.Digits(individual_digits=True)
    return pre_tokenizers.Sequence([words, digits])


def _shorten(word: str) -> bytes:
    """The bytes of a word, its end left out where it is too long."""
    data = word.encode()
    return (
        data[: LONGEST_WORD - 4].decode(errors="ignore").encode()
        if len(data) > LONGEST_WORD
        else data
    )
