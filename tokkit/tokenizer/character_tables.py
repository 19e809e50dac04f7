"""What kernels must be told of characters: tables that are filled as a text has need of them.

The library's own normalizer and pre-tokenizer say what becomes of each character, so the two
cannot disagree. A kernel that meets a character which its table has not got stops, the caller lets
the page of 256 that it is on be learned, and calls again. All of Unicode would take 3 s.

BERT's normalizer works character by character, but for one thing: where accents are stripped, NFD
orders combining marks anew, and a few of them are not accents (Hangul's tone marks U+302E and
U+302F, musical stems). What has one of these is marked as ``CONTEXT``, which the library must see.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from tokkit.kernels.encode.encode_bpe import DIGIT, LETTER, NUMBER, OTHER, Classes
from tokkit.kernels.encode.encode_bpe import SPACE as SPACE_CLASS
from tokkit.kernels.encode.encode_wordpiece import (
    CONTEXT,
    NOTHING,
    SEVERAL,
    SINGLE,
    SPACE,
    WORD,
    Characters,
)
from tokkit.tokenizer.characters import UNICODE_SIZE, is_mark

_PAGE = 256
_SURROGATES = range(0xD800, 0xE000)
# Code points that Hangul syllables come to are 33,000.
_MOST_FORMS = 1 << 16
_LONGEST_FORM = 15


def page_of(code: int) -> list[int]:
    """The characters that are learned together with one."""
    first = code // _PAGE * _PAGE
    return [other for other in range(first, first + _PAGE) if other not in _SURROGATES]


class WordCharacters:
    """What a normalizer and a pre-tokenizer like BERT's make of characters.

    Args:
        normalize: text as the normalizer makes it.
        pre_tokenizer: of the library.
        orders_marks: whether the normalizer brings combining marks into canonical order.
        meaning_of: what is entered for a character that is a word of its own, as normalized.

    Attributes:
        characters: the table.
    """

    def __init__(
        self,
        normalize: Callable[[str], str],
        pre_tokenizer: Any,
        *,
        orders_marks: bool,
        meaning_of: Callable[[str], int] = ord,
    ) -> None:
        self._normalize = normalize
        self._pre_tokenizer = pre_tokenizer
        self._orders_marks = orders_marks
        self._meaning_of = meaning_of
        self._num_forms = 0
        self.characters = Characters(
            kinds=np.zeros(UNICODE_SIZE, np.uint8),
            meanings=np.zeros(UNICODE_SIZE, np.uint32),
            forms=np.zeros(_MOST_FORMS, np.uint32),
            is_space=np.zeros(256, np.bool_),
        )
        self.learn_page(0)
        self.characters.is_space[:33] = self.characters.kinds[:33] == SPACE

    def learn_page(self, code: int) -> None:
        """Enter a character and those near it."""
        for other in page_of(code):
            self._learn(other)

    def _learn(self, code: int) -> None:
        kinds, meanings, _, _ = self.characters
        form = self._normalize(chr(code))
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
            meanings[code] = self._meaning_of(inner[0])
        else:
            kinds[code] = CONTEXT

    def _learn_letter(self, code: int, form: str) -> None:
        """Enter what a character that joins its neighbours is normalized to."""
        kinds, meanings, forms, _ = self.characters
        stop = self._num_forms + len(form)
        # No more code points than bytes: so no text has more tokens than bytes.
        fits = len(form) <= min(len(chr(code).encode()), _LONGEST_FORM) and stop <= len(forms)
        if not fits or (self._orders_marks and any(map(is_mark, form))):
            kinds[code] = CONTEXT
            return
        kinds[code] = WORD
        meanings[code] = ord(form[0])
        if len(form) > 1:
            meanings[code] = SEVERAL + self._num_forms * 16 + len(form)
            forms[self._num_forms : stop] = [ord(char) for char in form]
            self._num_forms = stop


class PieceCharacters:
    """Which characters GPT-2's split pattern takes together.

    Args:
        pre_tokenizer: of the library: ``ByteLevel``, also with digits split.

    Attributes:
        classes: the table.
    """

    def __init__(self, pre_tokenizer: Any) -> None:
        self._pre_tokenizer = pre_tokenizer
        self.classes = Classes(np.zeros(UNICODE_SIZE, np.uint8), np.zeros(256, np.bool_))
        self.learn_page(0)
        self.classes.is_space[:33] = self.classes.classes[:33] == SPACE_CLASS

    def learn_page(self, code: int) -> None:
        """Enter a character and those near it."""
        for other in page_of(code):
            self.classes.classes[other] = self._class_of(chr(other))

    def _class_of(self, char: str) -> int:
        for kind, neighbour in ((LETTER, "a"), (NUMBER, "1"), (OTHER, "!")):
            # With a space in front, so that none is put there.
            if self._num_pieces(f" {neighbour}{char}") == 1:
                return kind
        return DIGIT if self._num_pieces(f" {char}") > 1 else SPACE_CLASS

    def _num_pieces(self, text: str) -> int:
        return len(self._pre_tokenizer.pre_tokenize_str(text))
