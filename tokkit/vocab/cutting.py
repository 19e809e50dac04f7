"""Cutting a long text where no word can go over the cut.

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
"""

import re
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from tokkit.vocab.characters import BREAK, NOTHING, WORD, CharacterTable, code_points, to_text

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
