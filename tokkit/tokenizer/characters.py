r"""What a tokenizer's normalizer and pre-tokenizer make of each character, as tables for kernels.

    character   normalized   kind
    "W"         "w"          WORD      joins its neighbors into a word
    ","         ","          SINGLE    a word by itself
    "中"        " 中 "       SINGLE    also, because of the spaces around it
    "\t"        " "          SPACE
    "\u0301"    ""           NOTHING   removed
    "\u302e"    "\u302e"     CONTEXT   depends on its neighbors: only the library can tell

The tables hold the library's own answers, so the two cannot disagree. Asking about all of Unicode
takes 3 s, so a table is filled in pages of 256 characters: a kernel that meets a character whose
page is missing stops, its caller has the page learned, and calls the kernel again.

BERT's normalizer works character by character, with one exception: where it strips accents, NFD
puts combining marks into canonical order, and a few of them are not accents (Hangul's tone marks
U+302E and U+302F, musical stems). A character that is normalized to one of these is ``CONTEXT``.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, Self

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, UInt32
from tokkit.kernels.encode.cut_rules import SINGLE, SPACE, UNSEEN
from tokkit.kernels.encode.encode_wordpiece import (
    CONTEXT,
    NOTHING,
    SEVERAL,
    WORD,
    Characters,
)
from tokkit.tokenizer.library_calls import make_empty_library

UNICODE_SIZE = 0x110000

# English text has a few characters on each of 40 pages of 256, which would take 50 ms to learn.
_SMALL_PAGE = 64
_SURROGATES = range(0xD800, 0xE000)
# Hangul syllables alone are normalized to 33,000 code points.
_MAX_FORMS = 1 << 16
_LONGEST_FORM = 15


class WordCharacters:
    """The table of a normalizer and a pre-tokenizer such as BERT's.

    Args:
        normalize: the normalizer; an attribute, too.
        pre_tokenizer: of the tokenizers library; an attribute, too.
        orders_marks: whether the normalizer puts combining marks into canonical order.
        word_id: the number to store for a normalized character that is a word by itself.

    Attributes:
        characters: the table.
    """

    def __init__(
        self,
        normalize: Callable[[str], str],
        pre_tokenizer: Any,
        *,
        orders_marks: bool,
        word_id: Callable[[str], int] = ord,
    ) -> None:
        self.normalize = normalize
        self.pre_tokenizer = pre_tokenizer
        self._orders_marks = orders_marks
        self._word_id = word_id
        self._num_forms = 0
        self.characters = Characters(
            kinds=np.zeros(UNICODE_SIZE, np.uint8),
            meanings=np.zeros(UNICODE_SIZE, np.uint32),
            forms=np.zeros(_MAX_FORMS, np.uint32),
            is_space=np.zeros(256, np.bool_),
        )
        for code in range(0, 256, _SMALL_PAGE):
            self.learn_page(code)
        self.characters.is_space[:33] = self.characters.kinds[:33] == SPACE

    @classmethod
    def of_definition(
        cls, definition: Mapping[str, Any], word_id: Callable[[str], int] = ord
    ) -> Self:
        """Return the table of a ``tokenizer.json`` with BERT's normalizer, or none."""
        normalizer = definition["normalizer"]
        library = make_empty_library(normalizer, definition["pre_tokenizer"])
        if normalizer is None:
            return cls(str, library.pre_tokenizer, orders_marks=False, word_id=word_id)
        strips = normalizer["strip_accents"]
        return cls(
            library.normalizer.normalize_str,
            library.pre_tokenizer,
            orders_marks=normalizer["lowercase"] if strips is None else strips,
            word_id=word_id,
        )

    def learn_page(self, code: int) -> None:
        """Fill in a character and those on its page."""
        for other in page_of(code, _SMALL_PAGE):
            self._learn(other)

    def classify(self, codes: UInt32) -> tuple[Bytes, UInt32]:
        """Return the kinds of some characters, and how many characters each adds to a word.

        A ``CONTEXT`` character that adds none ends words.
        """
        kinds, meanings, _, _ = self.characters
        for code in sorted({*codes[kinds[codes] == UNSEEN].tolist()}):
            if kinds[code] == UNSEEN:
                self.learn_page(code)
        found, lengths = kinds[codes], meanings[codes]
        is_word = found == WORD
        lengths[is_word] = np.where(lengths[is_word] < SEVERAL, 1, lengths[is_word] & 15)
        lengths[~is_word & (found != CONTEXT)] = 0
        return found, lengths

    def _learn(self, code: int) -> None:
        kinds, meanings, _, _ = self.characters
        normalized = self.normalize(chr(code))
        # What stands between two letters either joins them or parts them.
        pieces = [piece for piece, _ in self.pre_tokenizer.pre_tokenize_str(f"a{normalized}a")]
        inner = pieces[1:-1]
        if not normalized:
            kinds[code] = NOTHING
        elif pieces == [f"a{normalized}a"]:
            self._learn_letter(code, normalized)
        elif not inner and "".join(pieces) == "aa":
            kinds[code] = SPACE
        elif pieces == ["a", normalized.strip(" "), "a"] and len(inner[0]) == 1:
            kinds[code] = SINGLE
            meanings[code] = self._word_id(inner[0])
        else:
            kinds[code] = CONTEXT

    def _learn_letter(self, code: int, normalized: str) -> None:
        """Fill in a character that joins its neighbors."""
        kinds, meanings, forms, _ = self.characters
        stop = self._num_forms + len(normalized)
        # At most as many code points as bytes, so that no text has more tokens than bytes.
        fits = len(normalized) <= min(len(chr(code).encode()), _LONGEST_FORM) and stop <= len(forms)
        if not fits or (self._orders_marks and any(map(is_mark, normalized))):
            kinds[code] = CONTEXT
            meanings[code] = len(normalized)  # for ``classify``; kernels do not read it
            return
        kinds[code] = WORD
        meanings[code] = ord(normalized[0])
        if len(normalized) > 1:
            meanings[code] = SEVERAL + self._num_forms * 16 + len(normalized)
            forms[self._num_forms : stop] = [ord(char) for char in normalized]
            self._num_forms = stop


def page_of(code: int, size: int = 256) -> list[int]:
    """Return the characters on the same page as ``code``, surrogates excluded."""
    first = code // size * size
    return [other for other in range(first, first + size) if other not in _SURROGATES]


@cache
def is_mark(char: str) -> bool:
    """Whether a character has a canonical combining class in the library's NFD.

    It has one if NFD moves it before U+0345, whose class is the highest, or if it is U+0345. A
    letter composed with a mark has none, because it begins with the letter.
    """
    from tokenizers.normalizers import NFD

    return char == "\u0345" or NFD().normalize_str(f"\u0345{char}")[0] != "\u0345"


def cut_at_words(
    text: str, characters: WordCharacters, max_word_chars: int, piece_chars: int
) -> Iterator[str]:
    """Cut a text for BERT's normalizer and pre-tokenizer, into pieces that give its ids.

    A word that is longer than the model accepts is ``[UNK]`` whatever its end, so most of it is left
    out, and pieces of a text without any space are bounded, too. With at most 3 characters a word
    and 8 a piece, ``"an abcdefghijk, no"`` becomes ``"an"``, ``" abcdef,"`` and ``" no"``.

    Args:
        text: of any length.
        characters: the tokenizer's.
        max_word_chars: a word of more normalized characters is unknown to the model.
        piece_chars: about how long pieces are: at most twice this, and what a word of
            ``max_word_chars`` adds.
    """
    rest = np.empty(0, np.uint32)
    for start in range(0, len(text), piece_chars):
        block = text[start : start + piece_chars].encode("utf-32-le")
        codes = np.concatenate([rest, np.frombuffer(block, np.uint32)])
        codes, is_break = _shorten_words(codes, characters, max_word_chars)
        cut = int(np.max(np.flatnonzero(is_break), initial=0))
        if cut:
            yield codes[:cut].tobytes().decode("utf-32-le")
        rest = codes[cut:]
    yield rest.tobytes().decode("utf-32-le")


def _shorten_words(
    codes: UInt32, characters: WordCharacters, max_word_chars: int
) -> tuple[UInt32, Bools]:
    """Drop removed characters and the ends of words that are too long.

    Returns:
        The code points that stay, and which of them end the word before them.
    """
    kinds, lengths = characters.classify(codes)
    is_context = kinds == CONTEXT
    is_break = (kinds == SPACE) | (kinds == SINGLE) | (is_context & (lengths == 0))
    num_letters = lengths.cumsum(dtype=np.int64)
    # Letters up to the last break: those before the word that each character is in.
    before_word = np.maximum.accumulate(np.where(is_break, num_letters, 0))
    is_kept = is_break | (num_letters - before_word <= max_word_chars + 3)
    # A removed character between two marks keeps NFD from changing their order.
    if not is_context.any():
        is_kept &= kinds != NOTHING
    return codes[is_kept], is_break[is_kept]
