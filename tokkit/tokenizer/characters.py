r"""Cutting a long text where no word can go over the cut.

The libraries need some fifty bytes of memory for each byte of a text, so a line of 200 MB must
reach them in pieces. A piece begins where words end whatever stands around: the ids of the
pieces, one after another, are those of the text.

For BERT's tokenizers that is before white space, punctuation and ideographs, and a word that is
longer than the model looks at (``max_input_chars_per_word``) is ``[UNK]`` whatever its end, so the
end is left out: a text without any space, too, comes in pieces of bounded size. With a limit of 3
characters a word and 8 a piece:

    "an abcdefghij, no"   →   "an abcd", ", no"

For byte-level BPE it is before white space that follows something else: a word of its pattern has
white space in front or not at all. Where the tokenizer puts a space before a text that has none, a
piece must begin with one.

What BERT's normalizer and pre-tokenizer make of each character, as the library itself says.

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

import re
from collections.abc import Iterator
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


PIECE_CHARS = 1 << 20

# Python's \S leaves out every character that the tokenizer's pattern takes for white space.
_WHITE_SPACE = re.compile(r"(?<=\S)[ \t\n\r]")
_SPACE = re.compile(r"(?<=\S) ")


def cut_at_words(
    text: str, table: CharacterTable, max_word_chars: int, piece_chars: int = PIECE_CHARS
) -> Iterator[str]:
    """Cut a text for a tokenizer with BERT's normalizer and pre-tokenizer.

    Args:
        text: of any length.
        table: of the tokenizer's normalizer and pre-tokenizer.
        max_word_chars: a word of more normalized characters is unknown to the model.
        piece_chars: about how long pieces are; none is longer than twice this, apart from what a
            word of ``max_word_chars`` adds.

    Yields:
        Pieces that give, one after another, what the text gives.
    """
    held = np.empty(0, np.uint32)
    for start in range(0, len(text), piece_chars):
        codes = np.concatenate([held, code_points(text[start : start + piece_chars])])
        codes = _shorten_words(codes, table, max_word_chars)
        breaks = np.flatnonzero(table.kinds[codes] == BREAK)
        cut = int(breaks[-1]) if len(breaks) else 0
        if cut:
            yield to_text(codes[:cut])
        held = codes[cut:]
    if len(held):
        yield to_text(held)


def _shorten_words(
    codes: npt.NDArray[np.uint32], table: CharacterTable, max_word_chars: int
) -> npt.NDArray[np.uint32]:
    """Leave out what is nothing, and what follows the first characters of a word too long."""
    table.learn(codes)
    kinds = table.kinds[codes]
    letters = np.where(kinds == WORD, table.lengths[codes], 0).cumsum()
    # How many letters stood before the word that each character is in: those up to the last break.
    before_word = np.maximum.accumulate(np.where(kinds == BREAK, letters, 0))
    kept = (kinds == BREAK) | (letters - before_word <= max_word_chars + 3)
    # Between two marks that would change places, what is nothing keeps them from it.
    if not table.has_mark[codes].any():
        kept &= kinds != NOTHING
    shortened: npt.NDArray[np.uint32] = codes[kept]
    return shortened


def cut_at_spaces(
    text: str, piece_chars: int = PIECE_CHARS, *, add_prefix_space: bool = False
) -> Iterator[str]:
    """Cut a text for byte-level BPE; a stretch without white space stays whole.

    Args:
        text: of any length.
        piece_chars: at least 1; pieces end at the first place for a cut after so many characters.
        add_prefix_space: the tokenizer's own.
    """
    place = _SPACE if add_prefix_space else _WHITE_SPACE
    start = 0
    while start < len(text):
        space = place.search(text, start + piece_chars)
        stop = space.start() if space else len(text)
        yield text[start:stop]
        start = stop
