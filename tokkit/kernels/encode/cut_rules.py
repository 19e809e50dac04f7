r"""Between which characters texts can be cut without changing their tokens.

    GPT-2's pattern    "it is"    between "t" and " ", since a word begins with the space before it
    GPT-4's pattern    "it.\n"    not between "." and "\n", which are one word

A tokenizer puts characters into classes, and says for each two whether a text can always be cut
between a character of the first and one of the second.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes
from tokkit.kernels.jit import inline
from tokkit.kernels.memory import decode_character

NUM_CLASSES = 64
# Kinds of characters, also called classes, that several tables have; each adds its own.
UNSEEN = 0  # not in the table yet
SPACE = 3
SINGLE = 4  # a word by itself: punctuation, an ideograph
# What is known of the place between two bytes.
NO_CUT = 0
CUT = 1
LOOK = 2  # the classes of the characters tell

COLUMN_BITS = np.uint64(6)


class CutRules(NamedTuple):
    """Between which characters texts can be cut without changing their tokens.

    Attributes:
        classes: uint8 ``[0x110000]``, of characters; below ``NUM_CLASSES``, and ``UNSEEN`` for those
            that were not looked at yet.
        allowed: bool ``[NUM_CLASSES, NUM_CLASSES]``, by the classes of two neighbors.
        before: uint8 ``[256 * 64]``: ``NO_CUT``, ``CUT`` or ``LOOK`` for a byte and the next one, if
            that is below 64.
        after: uint8 ``[64 * 256]``: the same for a byte below 64 and the next one.
        allowed_runs: bool ``[NUM_CLASSES, NUM_CLASSES]``: whether texts can be cut before a space
            between a character of the first class and one of the second.
        runs: uint8 ``[64 * 256]``: the same for a byte below 33 and the one behind the space.
    """

    classes: Bytes
    allowed: Bools
    before: Bytes
    after: Bytes
    allowed_runs: Bools
    runs: Bytes


def new_cut_rules(classes: Bytes, allowed: Bools, allowed_runs: Bools | None = None) -> CutRules:
    """Return the rules for these classes; the bytes of ASCII must have theirs."""
    if allowed_runs is None:
        allowed_runs = np.zeros_like(allowed)
    rows = 1 << int(COLUMN_BITS)
    rules = _by_bytes(classes, allowed)
    before = np.ascontiguousarray(rules[:, :rows]).ravel()
    runs = _by_bytes(classes, allowed_runs)[:rows].ravel()
    # A byte that no character begins with does not follow white space.
    return CutRules(classes, allowed, before, rules[:rows].ravel(), allowed_runs, runs)


def _by_bytes(classes: Bytes, allowed: Bools) -> Bytes:
    """Return what is known of the place between two bytes: uint8 ``[256, 256]``."""
    rules = np.full((256, 256), LOOK, np.uint8)
    rules[:128, :128] = allowed[np.ix_(classes[:128], classes[:128])]
    return rules


@inline
def can_cut(values: Bytes, position: int, rules: CutRules) -> bool:
    """Return whether a text can be cut at a byte that is neither its first nor behind its last."""
    if values[position] & 0xC0 == 0x80:
        return False
    before = position - 1
    while values[before] & 0xC0 == 0x80:
        before -= 1
    left, _ = decode_character(values, before)
    right, _ = decode_character(values, position)
    return bool(rules.allowed[rules.classes[left], rules.classes[right]])


@inline
def can_cut_run(values: Bytes, position: int, rules: CutRules) -> bool:
    """Return whether a text can be cut before a space that follows a byte below 33.

    Args:
        values: uint8, valid UTF-8.
        position: of the space, which is not the last byte.
        rules: the rules.
    """
    before = np.uint64(values[position - 1])
    rule = rules.runs[before << np.uint64(8) | np.uint64(values[position + 1])]
    if rule == LOOK:
        code, _ = decode_character(values, position + 1)
        return bool(rules.allowed_runs[rules.classes[before], rules.classes[code]])
    return bool(rule == CUT)
