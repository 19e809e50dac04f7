"""Normalize batches of texts as a tokenizer's library does, at the speed of memory.

A normalizer is a sequence of steps. A step that works on characters is asked, once, what it makes
of each character and of each group of characters that it may combine, and a kernel puts the
answers together (``tokkit.kernels.encode.normalize``); so the library and we cannot disagree, as
long as groups are large enough. What is too large for the tables, such as a letter with dozens of
accents, is normalized by the library each time.
"""

import unicodedata
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.normalize import (
    CHANGED,
    DETAIL,
    DONE,
    FLAG_SHIFT,
    FORM_SHIFT,
    IS_SAME,
    LENGTH_BITS,
    LONG_PIECE,
    LONGEST_PIECE,
    NEW_PIECES,
    NUM_ASKED,
    NUM_CLASSES,
    NUM_PIECES,
    PLAIN,
    POSITION,
    ROW_WORDS,
    RUN,
    SIZE,
    STATE_SIZE,
    UNSEEN_CHARACTER,
    Normalization,
    normalize_pieces,
    replace_piece,
)
from tokkit.shards.arrow import read_only
from tokkit.tokenizer.characters import UNICODE_SIZE, page_of

_Bytes = NDArray[np.uint8]
_Int64s = NDArray[np.int64]
_Text = tuple[_Bytes, _Int64s, _Int64s | None]

# Binary logarithm of the rows in a table of pieces: 640 KB.
_PIECE_BITS = 14
_MOST_ASKED = 1024
_MOST_PIECES = (1 << _PIECE_BITS) * 3 // 4 - _MOST_ASKED

# Classes of characters, in addition to ``PLAIN``.
_JOINED = 2  # never cut off from what is before

# No character beyond is composed of two.
_LAST_COMPOSITION = 0x20000
_NO_ENDS = np.zeros(0, np.int64)


class UnknownNormalizerError(Exception):
    """A tokenizer's normalizer has a part that only its library knows; the message names it."""


class _Step(Protocol):
    """A part of a normalizer."""

    def apply(self, values: _Bytes, bounds: _Int64s, ends: _Int64s | None) -> _Text:
        """Normalize segments; see ``TextNormalizer.normalize``."""


class _Rules(Protocol):
    """What a step does to characters.

    Attributes:
        blocks: see ``Normalization``.
    """

    blocks: _Bytes

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalize texts, each by itself."""

    def classify(self, chars: list[str]) -> list[int]:
        """Return the classes of characters."""


class TextNormalizer:
    """Normalizes batches of texts.

    Args:
        steps: what to do, in order.
    """

    def __init__(self, steps: list[_Step]) -> None:
        self._steps = steps

    @classmethod
    def of_definition(cls, normalizer: Mapping[str, Any] | None) -> "TextNormalizer":
        """Return the normalizer that a ``tokenizer.json`` defines.

        Raises:
            UnknownNormalizerError: if only the library knows a part of it.
        """
        return cls([_make_step(part) for part in _flatten(normalizer)])

    def normalize(self, values: _Bytes, bounds: _Int64s, ends: _Int64s | None = None) -> _Text:
        """Normalize segments of text, each by itself; what does not change is not copied.

        Args:
            values: uint8, valid UTF-8.
            bounds: int64 ``[num_segments + 1]``, into ``values``.
            ends: int64, where sentences end in ``values``, ascending, from ``bounds[0]`` to its
                last; or None.

        Returns:
            The same three. A segment may be empty. An end stands behind what the text before it
            became, or behind a group of characters that was normalized together.
        """
        for step in self._steps:
            values, bounds, ends = step.apply(values, bounds, ends)
        return values, bounds, ends


def _flatten(normalizer: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if normalizer is None:
        return []
    if normalizer["type"] == "Sequence":
        return [part for inner in normalizer["normalizers"] for part in _flatten(inner)]
    return [normalizer]


def _make_step(part: Mapping[str, Any]) -> _Step:
    kind = part["type"]
    if kind in ("NFC", "NFD", "NFKC", "NFKD"):
        return _CharacterStep(_UnicodeRules(kind))
    raise UnknownNormalizerError(f"its normalizer {kind}")


class _Forms:
    """A growing array of what characters or pieces are normalized to."""

    def __init__(self) -> None:
        self.values = np.zeros(1 << 10, np.uint8)
        self.size = 0

    def add(self, form: str) -> int:
        """Append a text, and return where it is, as kernels take it."""
        encoded = form.encode()
        start, self.size = self.size, self.size + len(encoded)
        if self.size > len(self.values):
            self.values = np.concatenate([self.values, np.zeros(self.size, np.uint8)])
        self.values[start : self.size] = np.frombuffer(encoded, np.uint8)
        return start << LENGTH_BITS | len(encoded)


class _CharacterStep:
    """A step that works on groups of a few characters.

    Args:
        rules: where a text can be cut, and what becomes of the parts.
    """

    def __init__(self, rules: _Rules) -> None:
        self._rules = rules
        self._kinds = np.zeros(UNICODE_SIZE, np.uint8)
        self._places = np.zeros(UNICODE_SIZE, np.uint64)
        self._pieces = np.zeros(((1 << _PIECE_BITS), ROW_WORDS), np.uint64)
        self._forms = _Forms()
        self._piece_forms = _Forms()
        self._asked = np.zeros(_MOST_ASKED, np.int64)
        self._state = np.zeros(STATE_SIZE, np.int64)
        self._learn_page(0)
        is_plain = np.concatenate([[False], self._kinds[:128] == PLAIN, [False]])
        runs = np.flatnonzero(np.diff(is_plain)).reshape(-1, 2).tolist()
        lowest, stop = max(runs, key=lambda run: run[1] - run[0], default=(1, 1))
        self._plain_ascii = lowest, stop - 1

    def apply(self, values: _Bytes, bounds: _Int64s, ends: _Int64s | None) -> _Text:
        """Normalize segments."""
        state = self._state
        state[:NUM_PIECES] = 0
        state[POSITION] = state[RUN] = bounds[0]
        values, bounds = read_only(values), read_only(bounds)
        marks = read_only(_NO_ENDS if ends is None else ends)
        out_values = np.empty(0, np.uint8)
        out_bounds = np.zeros(len(bounds), np.int64)
        out_marks = np.empty(len(marks), np.int64)

        def run() -> int:
            known = Normalization(
                self._kinds,
                self._places,
                self._forms.values,
                self._piece_forms.values,
                self._rules.blocks,
                self._pieces.reshape(-1),
                64 - _PIECE_BITS,
                *self._plain_ascii,
            )
            out = out_values, out_bounds, out_marks
            return normalize_pieces(values, bounds, marks, known, state, self._asked, *out)

        while (stop := run()) != DONE:
            if stop == UNSEEN_CHARACTER:
                self._learn_page(int(state[DETAIL]))
            elif stop == NEW_PIECES:
                self._learn_pieces()
            elif stop == LONG_PIECE:
                first, last = int(state[POSITION]), int(state[DETAIL])
                form = self._rules.normalize([bytes(values[first:last]).decode()])[0].encode()
                state[DETAIL] = first - state[RUN] + len(form)
                out_values = _make_room(out_values, state, int(bounds[-1]))
                place = np.frombuffer(form, np.uint8), np.uint64(len(form))
                replace_piece(values, marks, first, last, *place, state, out_values, out_marks)
                state[POSITION] = last
            else:
                out_values = _make_room(out_values, state, int(bounds[-1]))
        if state[RUN] == bounds[0]:
            return values, bounds, ends
        return out_values[: state[SIZE]], out_bounds, None if ends is None else out_marks

    def _learn_page(self, code: int) -> None:
        """Ask about a character and those on its page."""
        codes = page_of(code)
        chars = list(map(chr, codes))
        for other, char, form in zip(codes, chars, self._rules.normalize(chars), strict=True):
            if form != char:
                self._kinds[other] = CHANGED
                self._places[other] = self._forms.add(form)
        self._kinds[codes] |= np.array(self._rules.classify(chars), np.uint8)

    def _learn_pieces(self) -> None:
        """Ask about pieces that the kernel put into the table, or empty it if it is full."""
        if self._state[NUM_PIECES] > _MOST_PIECES:
            self._state[NUM_PIECES] = self._piece_forms.size = 0
            self._pieces[:] = 0
            return
        rows = self._asked[: self._state[NUM_ASKED]] // ROW_WORDS
        values = self._pieces[rows, :-1].tobytes()
        lengths = (self._pieces[rows, -1] & 0xFF).tolist()
        texts = [
            values[first : first + length].decode()
            for first, length in zip(range(0, len(values), LONGEST_PIECE), lengths, strict=True)
        ]
        same = IS_SAME << FLAG_SHIFT
        for row, length, text, form in zip(
            rows.tolist(), lengths, texts, self._rules.normalize(texts), strict=True
        ):
            meaning = same if form == text else self._piece_forms.add(form) << FORM_SHIFT
            self._pieces[row, -1] = meaning | length


def _make_room(out_values: _Bytes, state: _Int64s, stop: int) -> _Bytes:
    """Return an array with the bytes written so far and room for ``state[DETAIL]`` more."""
    size, needed = int(state[SIZE]), int(state[DETAIL])
    if size + needed <= len(out_values):
        return out_values
    num_left = stop - int(state[RUN])
    grown = np.empty(size + size // 2 + needed + num_left + num_left // 8, np.uint8)
    grown[:size] = out_values[:size]
    return grown


class _UnicodeRules:
    """NFC, NFD, NFKC and NFKD.

    A text can be cut before a character that is normalized to something whose first character is
    neither put into order with the marks before it nor composed with what is before it.

    Args:
        name: of the normalizer.
    """

    def __init__(self, name: str) -> None:
        from tokenizers import normalizers

        self._normalize = getattr(normalizers, name)().normalize_str
        self._decompose = getattr(normalizers, name.replace("C", "D"))().normalize_str
        self._composes = name.endswith("C")
        self.blocks = np.zeros((NUM_CLASSES, NUM_CLASSES), np.uint8)
        self.blocks[:, _JOINED] = 0xFF

    def normalize(self, texts: list[str]) -> list[str]:
        """Normalize texts."""
        return _normalize_each(self._normalize, texts)

    def classify(self, chars: list[str]) -> list[int]:
        """Return the classes of characters."""
        if chars[0] == "\0":
            return [PLAIN] * len(chars)
        firsts = [form[0] for form in _normalize_each(self._decompose, chars)]
        # U+0345 has the highest combining class: all other marks are moved before it.
        ordered = _normalize_each(self._decompose, ["\u0345" + first for first in firsts])
        is_joined = [
            pair[0] != "\u0345" or first == "\u0345" or (self._composes and _may_compose(first))
            for pair, first in zip(ordered, firsts, strict=True)
        ]
        return [_JOINED if joined else PLAIN for joined in is_joined]


def _normalize_each(normalize: Callable[[str], str], texts: list[str]) -> list[str]:
    """Normalize texts by NFC or the like, a few hundred in the time of two alone."""
    found = normalize("\n".join(texts)).split("\n")
    return found if len(found) == len(texts) else list(map(normalize, texts))


def _may_compose(char: str) -> bool:
    """Return whether NFC may compose a character with one before it.

    What Python does not know at all may be new in the library's Unicode.
    """
    return char in _find_second_characters() or unicodedata.category(char) == "Cn"


@cache
def _find_second_characters() -> frozenset[str]:
    """Return the characters that NFC composes with one before them, as far as Python knows."""
    found = {chr(code) for code in (*range(0x1161, 0x1176), *range(0x11A8, 0x11C3))}
    for code in range(_LAST_COMPOSITION):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)
