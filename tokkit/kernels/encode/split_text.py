r"""Cut text into pieces with automata made of regular expressions.

A *level* cuts each piece of the level before it further, into matches of its pattern and what lies
between them, here DeepSeek's three:

    "in 2024年春"    1  \p{N}{1,3}        in_ | 202 | 4 | 年春
                    2  [一-龥]+           in_ | 202 | 4 | 年春
                    3  letters, …        in | _ | 202 | 4 | 年春

An automaton reads characters as *classes*: two characters are in one class if each set of the
patterns contains both or neither. It follows all ways of matching at once, in the order in which a
backtracking matcher tries them, and a step tells whether the preferred way so far ends before the
character that it reads. So lookahead at one character needs nothing more. (Leftmost-first matching
by subset construction, as in RE2 and Rust's regex-automata.)

    state  7 letters   "n" → 7      " " → dead, a match ends here     end of text → a match ends here
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int64, UInt16
from tokkit.kernels.encode.cut_rules import NUM_CLASSES, UNSEEN, CutRules
from tokkit.kernels.jit import inline, splice
from tokkit.kernels.memory import decode_character, signed

END_OF_TEXT = NUM_CLASSES - 1  # the class that is read there
DEAD = 0
MATCH = 0x8000  # added to the next state: a match ends before the character
_STATE = 0x7FFF

# What a level does with its pieces.
KEEP = 0
DROP_MATCHES = 1
DROP_OTHERS = 2


class Splitter(NamedTuple):
    """The automata of all levels.

    Attributes:
        rules: the classes of characters, and where texts can be cut.
        transitions: uint16 ``[num_states * NUM_CLASSES]``: the next state for a state and a class,
            plus ``MATCH``.
        starts: int64 ``[num_levels]``, states to start in.
        drops: int64 ``[num_levels]``: ``KEEP``, ``DROP_MATCHES`` or ``DROP_OTHERS``.
        spells: bool ``[num_levels]``: whether a level reads bytes, each as the character that stands
            for it.
        alphabet: int64 ``[256]``, these characters.
        ends: int64 ``[num_levels]``, memory for where the piece of each level ends.
    """

    rules: CutRules
    transitions: UInt16
    starts: Int64
    drops: Int64
    spells: Bools
    alphabet: Int64
    ends: Int64


@splice
def _read_character(
    values: Bytes, position: int, splitter: Splitter, level: int
) -> tuple[int, int]:
    """Return the code point that a level reads at a byte, and how many bytes it takes."""
    if splitter.spells[level]:
        return signed(splitter.alphabet[values[position]]), 1
    return decode_character(values, position)


@splice
def _find_match(
    values: Bytes, start: int, stop: int, splitter: Splitter, level: int
) -> tuple[int, int]:
    """Match at ``start`` in text that ends at ``stop``.

    Returns:
        Where the match ends, or -1, and -1; or anything and a code point without a class.
    """
    transitions, classes = splitter.transitions, splitter.rules.classes
    state = np.uint64(splitter.starts[level])
    position = start
    end = -1
    while position < stop:
        code, size = _read_character(values, position, splitter, level)
        kind = classes[code]
        if kind == UNSEEN:
            return end, code
        step = np.uint64(transitions[state * np.uint64(NUM_CLASSES) + np.uint64(kind)])
        end = position if step & np.uint64(MATCH) else end
        state = step & np.uint64(_STATE)
        if state == DEAD:
            return end, -1
        position += size
    step = np.uint64(transitions[state * np.uint64(NUM_CLASSES) + np.uint64(END_OF_TEXT)])
    return position if step & np.uint64(MATCH) else end, -1


@inline
def _find_piece(
    values: Bytes, start: int, stop: int, splitter: Splitter, level: int
) -> tuple[int, bool, int]:
    """Find the piece of a level that begins at ``start``.

    Returns:
        Where it ends, whether it is a match, and -1 or a code point without a class.
    """
    end, unseen = _find_match(values, start, stop, splitter, level)
    if end >= 0 or unseen >= 0:
        return end, True, unseen
    position = start
    while position < stop:
        _, size = _read_character(values, position, splitter, level)
        position += size
        if position < stop:
            end, unseen = _find_match(values, position, stop, splitter, level)
            if end >= 0 or unseen >= 0:
                break
    return position, False, unseen


@splice
def start_pieces(splitter: Splitter, start: int) -> None:
    """Prepare for a text that begins at ``start``."""
    for level in range(splitter.ends.size):
        splitter.ends[level] = start


@splice
def next_piece(values: Bytes, position: int, stop: int, splitter: Splitter) -> tuple[int, int, int]:
    """Find the next piece of a text.

    Args:
        values: uint8, valid UTF-8.
        position: where the piece before it ended, or where the text begins, which
            ``start_pieces`` was told.
        stop: where the text ends, beyond ``position``.
        splitter: the automata.

    Returns:
        Where the piece begins and ends, both ``stop`` if there is none; and -1, or a code point
        without a class, which ends the search.
    """
    ends, drops = splitter.ends, splitter.drops
    num_levels = ends.size
    level = 0
    while position < stop and level < num_levels:
        if ends[level] == position:
            limit = stop if level == 0 else ends[level - 1]
            end, is_match, unseen = _find_piece(values, position, limit, splitter, level)
            if unseen >= 0:
                return position, end, unseen
            if drops[level] == (DROP_MATCHES if is_match else DROP_OTHERS):
                for inner in range(level, num_levels):
                    ends[inner] = end
                position = end
                level = -1
            else:
                for inner in range(level + 1, num_levels):
                    ends[inner] = position
                ends[level] = end
        level += 1
    if position >= stop:
        return stop, stop, -1
    return position, signed(ends[num_levels - 1]), -1
