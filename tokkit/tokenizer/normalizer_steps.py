"""The steps of a normalizer: what maps characters, replaces strings, and trims texts."""

from collections.abc import Callable
from typing import Any

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int64
from tokkit.kernels.encode import normalize, replace
from tokkit.kernels.encode.normalize import NormalizerTables, normalize_pieces
from tokkit.kernels.encode.replace import new_state, replace_part, replace_string, trim_segments
from tokkit.tokenizer.character_rules import Rules
from tokkit.tokenizer.characters import UNICODE_SIZE, page_of

# Values, bounds of segments, and ends of sentences; see ``TextNormalizer.normalize``.
Text = tuple[Bytes, Int64, Int64 | None]

# Binary logarithm of the rows in a table of pieces: 640 KB.
_PIECE_BITS = 14
_MAX_ASKED = 1024
_MAX_PIECES = (1 << _PIECE_BITS) * 3 // 4 - _MAX_ASKED

# What stands before a piece, for rules that need it.
_CONTEXT_BYTES = 1024
_NO_ENDS = np.zeros(0, np.int64)
_ALL = np.ones(1, np.bool_)


class ReplaceStep:
    """Replaces a string by another.

    Args:
        string: at least two bytes.
        content: what replaces it.
        is_run: whether its last byte may be repeated.
    """

    def __init__(self, string: str, content: str, *, is_run: bool = False) -> None:
        self._string = np.frombuffer(string.encode(), np.uint8)
        self._content = np.frombuffer(content.encode(), np.uint8)
        self._is_run = is_run

    def apply(self, values: Bytes, bounds: Int64, ends: Int64 | None) -> Text:
        """Normalize segments; see ``TextNormalizer.normalize``."""
        num_bytes = int(bounds[-1] - bounds[0])
        growth = max(0, len(self._content) - len(self._string))
        size = num_bytes + num_bytes // len(self._string) * growth
        options = self._string, self._is_run, self._content
        return _run_kernel(replace_string, (values, bounds, ends), options, size)


class TrimStep:
    """Removes characters from the ends of texts, and puts a string in front of what is left.

    Args:
        left: characters to remove from starts.
        right: characters to remove from stops.
        prefix: for texts of which something is left.
        even_before: whether texts that begin with a space have the prefix, too.
    """

    def __init__(
        self, left: str, right: str, prefix: str = "", *, even_before: bool = True
    ) -> None:
        self._left, self._right = _make_set(left), _make_set(right)
        self.prefix = prefix
        self._even_before = even_before

    def apply(
        self, values: Bytes, bounds: Int64, ends: Int64 | None, takes_prefix: Bools = _ALL
    ) -> Text:
        """Normalize segments; see ``TextNormalizer.normalize``."""
        prefix = np.frombuffer(self.prefix.encode(), np.uint8)
        size = int(bounds[-1] - bounds[0]) + len(prefix) * (len(bounds) - 1)
        options = self._left, self._right, prefix, self._even_before, takes_prefix
        return _run_kernel(trim_segments, (values, bounds, ends), options, size)


def _make_set(chars: str) -> Bools:
    """Return which code points are among some: bool, as long as the highest needs."""
    found = np.zeros(max(map(ord, chars), default=-1) + 1, np.bool_)
    found[list(map(ord, chars))] = True
    return found


def _run_kernel(
    kernel: Callable[..., None], text: Text, options: tuple[Any, ...], size: int
) -> Text:
    """Run ``replace_string`` or ``trim_segments``, whose results have at most ``size`` bytes."""
    values, bounds, ends = text
    old_ends = _NO_ENDS if ends is None else ends
    state = new_state(int(bounds[0]))
    out_values = np.empty(size, np.uint8)
    out_bounds = np.zeros(len(bounds), np.int64)
    out_ends = np.empty(len(old_ends), np.int64)
    out = state, out_values, out_bounds, out_ends
    kernel(values, bounds, old_ends, *options, *out)
    if state[replace.RUN] == bounds[0] and not state[replace.SIZE]:
        return text
    return out_values[: state[replace.SIZE]], out_bounds, None if ends is None else out_ends


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
        return start << replace.LENGTH_BITS | len(encoded)


class CharacterStep:
    """A step that works on groups of a few characters.

    Args:
        rules: where a text can be cut, and what becomes of the parts.
    """

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._kinds = np.zeros(UNICODE_SIZE, np.uint8)
        self._places = np.zeros(UNICODE_SIZE, np.uint64)
        self._pieces = np.zeros(((1 << _PIECE_BITS), normalize.ROW_WORDS), np.uint64)
        self._forms = _Forms()
        self._piece_forms = _Forms()
        self._asked = np.zeros(_MAX_ASKED, np.int64)
        self._num_pieces = 0
        self._is_plain = np.zeros((256, 256), np.uint8)  # second and first byte
        self._is_plain[:, 0x80:0xC0] = 1
        self._learn_page(0)
        is_plain = np.concatenate([[False], self._kinds[:128] == normalize.PLAIN, [False]])
        runs = np.flatnonzero(np.diff(is_plain)).reshape(-1, 2).tolist()
        lowest, stop = max(runs, key=lambda run: run[1] - run[0], default=(1, 1))
        self._plain_ascii = lowest, stop - 1

    def apply(self, values: Bytes, bounds: Int64, ends: Int64 | None) -> Text:
        """Normalize segments; see ``TextNormalizer.normalize``."""
        state = new_state(int(bounds[0]))
        state[normalize.NUM_PIECES] = self._num_pieces
        text = values, bounds, ends
        marks = _NO_ENDS if ends is None else ends
        out_values = np.empty(0, np.uint8)
        out_bounds = np.zeros(len(bounds), np.int64)
        out_marks = np.empty(len(marks), np.int64)

        def run() -> int:
            known = NormalizerTables(
                self._kinds,
                self._places,
                self._forms.values,
                self._piece_forms.values,
                self._rules.blocks,
                self._pieces.reshape(-1),
                64 - _PIECE_BITS,
                *self._plain_ascii,
                self._is_plain.reshape(-1),
            )
            out = out_values, out_bounds, out_marks
            return normalize_pieces(values, bounds, marks, known, state, self._asked, *out)

        while (stop := run()) != normalize.DONE:
            if stop == normalize.UNSEEN_CHARACTER:
                self._learn_page(int(state[replace.DETAIL]))
            elif stop == normalize.NEW_PIECES:
                self._learn_pieces(state)
            elif stop == normalize.LONG_PIECE:
                first, last = int(state[replace.POSITION]), int(state[replace.DETAIL])
                start = max(int(bounds[state[replace.SEGMENT]]), first - _CONTEXT_BYTES)
                before, piece = (bytes(values[start:first]), bytes(values[first:last]))
                form = self._rules.normalize_in_context(
                    before.decode(errors="ignore"), piece.decode()
                ).encode()
                state[replace.DETAIL] = first - state[replace.RUN] + len(form)
                out_values = _make_room(out_values, state, int(bounds[-1]))
                place = np.frombuffer(form, np.uint8), np.uint64(len(form))
                replace_part(values, marks, first, last, *place, state, out_values, out_marks)
                state[replace.POSITION] = last
            else:
                out_values = _make_room(out_values, state, int(bounds[-1]))
        self._num_pieces = int(state[normalize.NUM_PIECES])
        if state[replace.RUN] == bounds[0]:
            return text
        return out_values[: state[replace.SIZE]], out_bounds, None if ends is None else out_marks

    def _learn_page(self, code: int) -> None:
        """Ask the library about the characters on a page."""
        codes = page_of(code)
        chars = list(map(chr, codes))
        classes = np.array(self._rules.classify(chars), np.uint8)
        text = "".join(chars)
        if np.any(classes != normalize.PLAIN) or self._rules.normalize([text])[0] != text:
            for char, form in zip(chars, self._rules.normalize(chars), strict=True):
                if form != char:
                    self._kinds[ord(char)] = normalize.CHANGED
                    self._places[ord(char)] = self._forms.add(form)
        self._kinds[codes] |= classes
        is_plain = self._kinds[:0x10000] == normalize.PLAIN
        self._is_plain[:, :0x80] = is_plain[:0x80]
        # The characters of two bytes, and of three, of which 64 have the same two first ones.
        self._is_plain[0x80:0xC0, 0xC2:0xE0] = is_plain[0x80:0x800].reshape(-1, 64).T
        self._is_plain[0x80:0xC0, 0xE0:0xF0] = is_plain.reshape(16, 64, 64).all(axis=2).T

    def _learn_pieces(self, state: Int64) -> None:
        """Ask the library about pieces that the kernel put into the table, or empty a full table."""
        if state[normalize.NUM_PIECES] > _MAX_PIECES:
            state[normalize.NUM_PIECES] = self._piece_forms.size = 0
            self._pieces[:] = 0
            return
        rows = self._asked[: state[normalize.NUM_ASKED]] // normalize.ROW_WORDS
        values = self._pieces[rows, :-1].tobytes()
        lengths = (self._pieces[rows, -1] & 0xFF).tolist()
        texts = [
            values[first : first + length].decode()
            for first, length in zip(
                range(0, len(values), normalize.LONGEST_PIECE), lengths, strict=True
            )
        ]
        same = normalize.IS_SAME << normalize.FLAG_SHIFT
        for row, length, text, form in zip(
            rows.tolist(), lengths, texts, self._rules.normalize(texts), strict=True
        ):
            meaning = same
            if form != text:
                place = self._piece_forms.add(form)
                form_length = place & ((1 << replace.LENGTH_BITS) - 1)
                meaning = place - form_length | form_length << normalize.FORM_LENGTH_SHIFT
            self._pieces[row, -1] = meaning | length


Step = ReplaceStep | TrimStep | CharacterStep


def _make_room(out_values: Bytes, state: Int64, stop: int) -> Bytes:
    """Return an array with the bytes written so far and room for ``state[DETAIL]`` more."""
    size, needed = int(state[replace.SIZE]), int(state[replace.DETAIL])
    if size + needed <= len(out_values):
        return out_values
    num_left = stop - int(state[replace.RUN])
    grown = np.empty(size + size // 2 + needed + num_left + num_left // 8, np.uint8)
    grown[:size] = out_values[:size]
    return grown
