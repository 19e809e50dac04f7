r"""What BERT's normalizer and pre-tokenizer make of each character, as the library itself says.

The normalizer works character by character, so a table over code points tells what it makes of any
text; but where accents are stripped, NFD orders combining marks anew, and of several that stay
(``is_mark``; they are few) only the library can tell the order. It is asked about a character when
that is first met; all of Unicode would take three seconds.

    character   normalized   kind
    "W"         "w"          WORD     joins its neighbours into a word
    ","         ","          BREAK    is a word of its own
    "中"        " 中 "       BREAK    likewise, by the spaces around it
    "\t"        " "          BREAK
    "\u0301"    ""           NOTHING  as if it were not there
"""

from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from tokenizers.normalizers import Normalizer
    from tokenizers.pre_tokenizers import PreTokenizer

UNICODE_SIZE = 0x110000

UNSEEN, NOTHING, WORD, BREAK = range(4)


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """The code points of a text, ``[len(text)]``.

    Example:
        >>> code_points("aé").tolist()
        [97, 233]
    """
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def to_text(codes: npt.NDArray[np.uint32]) -> str:
    """The text of some code points."""
    return codes.tobytes().decode("utf-32-le")


@cache
def is_mark(char: str) -> bool:
    """Whether a character has a canonical combining class, as the library's NFD has it.

    It has if it goes before U+0345, of the highest class there is, or is that. A letter with a mark
    in it has none: it begins with the letter.
    """
    from tokenizers.normalizers import NFD

    return char == "\u0345" or NFD().normalize_str(f"\u0345{char}")[0] != "\u0345"


class CharacterTable:
    """Kinds and normalized forms of the characters met so far.

    Args:
        normalizer: a ``BertNormalizer``, which is context-free.
        pre_tokenizer: a ``BertPreTokenizer``.

    Attributes:
        kinds: ``[0x110000]`` uint8: ``UNSEEN``, ``NOTHING``, ``WORD`` or ``BREAK`` of a character.
        lengths: ``[0x110000]`` uint8: characters of its normalized form.
        has_mark: ``[0x110000]`` bool: whether one of these is a combining mark.
    """

    def __init__(self, normalizer: "Normalizer", pre_tokenizer: "PreTokenizer") -> None:
        self._normalizer = normalizer
        self._pre_tokenizer = pre_tokenizer
        self._breaks: dict[str, bool] = {}
        self.kinds = np.zeros(UNICODE_SIZE, np.uint8)
        self.lengths = np.zeros(UNICODE_SIZE, np.uint8)
        self.has_mark = np.zeros(UNICODE_SIZE, np.bool_)

    def learn(self, codes: npt.NDArray[np.uint32]) -> None:
        """Ask the library about those characters that are new."""
        new = codes[self.kinds[codes] == UNSEEN]
        for code in np.unique(new).tolist() if len(new) else ():
            normalized = self._normalizer.normalize_str(chr(code))
            self.lengths[code] = len(normalized)
            self.has_mark[code] = any(map(is_mark, normalized))
            if not normalized:
                self.kinds[code] = NOTHING
            elif any(self.breaks(char) for char in normalized):
                self.kinds[code] = BREAK
            else:
                self.kinds[code] = WORD

    def breaks(self, char: str) -> bool:
        """Whether a normalized character is no part of a longer word: a space or punctuation."""
        if char not in self._breaks:
            pieces = self._pre_tokenizer.pre_tokenize_str(f"a{char}a")
            self._breaks[char] = len(pieces) > 1
        return self._breaks[char]
