"""Normalize text piece by piece: what a library's normalizer made of each piece is in tables.

Between most characters a text can be cut for its normalizer: the parts, normalized by themselves,
joined, are the whole text, normalized. A piece is what lies between two cuts next to each other.

    text      "Le café."    where the accent is a character of its own, U+0301
    pieces    L | e |   | c | a | f | e + U+0301 | .
    NFC       L | e |   | c | a | f | é          | .

Most pieces are one character, and most of these stay as they are: long runs of such are passed
over, and copied only if something before or behind them changes. Pieces of several characters are
looked up in a table of pieces. A kernel that meets a character or a piece that is in no table
stops; its caller asks the library, and calls the kernel again, which continues where it stopped.

Where characters can be cut apart follows from their classes: see ``NormalizerTables.blocks``.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64, UInt64
from tokkit.kernels.encode.replace import (
    DETAIL,
    POSITION,
    RUN,
    SEGMENT,
    SIZE,
    finish,
    write_part,
)
from tokkit.kernels.jit import kernel, splice
from tokkit.kernels.memory import (
    HASH_PRIME,
    HASH_PRIME_2,
    decode_character,
    load_last_word,
    load_word,
    signed,
)

# Classes of characters, the low bits of ``kinds``; the tables' owner gives the others a meaning.
UNSEEN = 0  # not in the table yet
PLAIN = 1  # two of them can be cut apart
JOINED = 2  # these two belong to the character before them
LINKER = 3
IN_CONTEXT = 7  # what a piece that begins with it becomes depends on the text before
CLASS_MASK = 7
NUM_CLASSES = 8
# A bit of ``kinds``: the character alone is not normalized to itself.
CHANGED = 8

# A row of the table of pieces is four words of bytes and the meaning.
ROW_WORDS = 5
LONGEST_PIECE = 32
# The lowest byte of a piece's meaning is its number of bytes, the next has these.
IS_ASKED = 1  # the caller is asked what the piece is normalized to
IS_SAME = 2  # the piece is normalized to itself
FLAG_SHIFT = 8
# Then two bytes are the length of its form, and four the start, in ``piece_values``.
FORM_LENGTH_SHIFT = 16

# Indices into the state of the kernel, beyond those of ``replace``.
NUM_ASKED = 6
NUM_PIECES = 7

# Reasons to return, and the detail of each.
DONE = 0
UNSEEN_CHARACTER = 1  # a code point that is not in the table
NEW_PIECES = 2  # no detail: ``asked[:state[NUM_ASKED]]`` are their rows
LONG_PIECE = 3  # the end of a piece that is too long for the table, or depends on what is before
FULL = 4  # number of bytes for which there was no room in the output

# A kernel looks for so many bytes beyond an unknown piece for others, so that its caller is asked
# about many at a time where most are unknown, and few bytes are read twice where few are.
_LOOK_AHEAD = 1 << 15

_FORM_START = np.uint64(0xFFFF_FFFF_0000_0000)
_ONES = np.uint64(0x0101_0101_0101_0101)
_HIGH_BITS = np.uint64(0x8080_8080_8080_8080)
_PAIR = np.uint64(0xFFFF)
_BYTE = np.uint64(8)


class NormalizerTables(NamedTuple):
    """What is known of a normalizer.

    Attributes:
        kinds: uint8 ``[0x110000]``: of each code point its class, and ``CHANGED``.
        forms: uint64 ``[0x110000]``: where in ``values`` is what a changed character becomes; see
            ``replace``.
        values: uint8.
        piece_values: uint8, what pieces become.
        blocks: uint8 ``[NUM_CLASSES, NUM_CLASSES]``: a text can be cut between a character of the
            first class and one of the second, unless a bit is set here of a class that was seen
            before the cut, back to the last character that is not joined.
        pieces: uint64 ``[2 ** n * ROW_WORDS]``, table of pieces, addressed by a hash.
        shift: ``64 - n``.
        lowest: first of a range of ASCII characters that are all plain.
        highest: the last one.
        is_plain: uint8 ``[0x10000]``, by a byte and 256 times the next one: 1 if all characters that
            begin with the two are plain, or the one if it has a single byte; and if the first byte
            begins no character.
    """

    kinds: Bytes
    forms: UInt64
    values: Bytes
    piece_values: Bytes
    blocks: Bytes
    pieces: UInt64
    shift: int
    lowest: int
    highest: int
    is_plain: Bytes


@splice
def _pair(values: Bytes, position: int) -> np.uint64:
    """Return a byte and the next one, as one number."""
    return np.uint64(values[position]) | np.uint64(values[position + 1]) << _BYTE


@splice
def _skip_plain(values: Bytes, position: int, stop: int, known: NormalizerTables) -> int:
    """Return the first character from ``position`` on that is not plain, or ``stop``.

    Eight bytes at a time where all are plain ASCII, or in characters that two bytes show to be
    plain: 3 GB/s in English, where to look at each character reaches 0.8. With a table by the first
    byte alone, Arabic, whose vowel signs share theirs with letters, took twice as long.

    Where two bytes do not show it, as in kana, each character is looked at until four follow where
    they do.
    """
    below = _ONES * np.uint64(128 - known.lowest)
    above = _ONES * np.uint64(127 - known.highest)
    is_plain = known.is_plain
    while position + 8 <= stop and position + 8 < values.size:
        word = load_word(values, position)
        # The carry of a byte that is not ASCII disturbs only bytes behind it.
        if (word | (word + above) | ~(word + below)) & _HIGH_BITS:
            last = word >> np.uint64(56) | np.uint64(values[position + 8]) << _BYTE
            are_plain = (
                is_plain[word & _PAIR]
                & is_plain[word >> np.uint64(8) & _PAIR]
                & is_plain[word >> np.uint64(16) & _PAIR]
                & is_plain[word >> np.uint64(24) & _PAIR]
                & is_plain[word >> np.uint64(32) & _PAIR]
                & is_plain[word >> np.uint64(40) & _PAIR]
                & is_plain[word >> np.uint64(48)]
                & is_plain[last]
            )
            if not are_plain:
                while is_plain[_pair(values, position)]:
                    position += 1
                num_shown = 0
                while position + 1 < stop and num_shown < 4:
                    code, size = decode_character(values, position)
                    if known.kinds[code] != PLAIN:
                        return position
                    num_shown = num_shown + 1 if is_plain[_pair(values, position)] else 0
                    position += size
                continue
        position += 8
    while position < stop and values[position] & 0xC0 == 0x80:
        position += 1
    while position < stop:
        code, size = decode_character(values, position)
        if known.kinds[code] != PLAIN:
            return position
        position += size
    return position


@splice
def _piece_word(values: Bytes, position: int, stop: int) -> np.uint64:
    """Return up to eight bytes of a piece that ends at ``stop``, followed by zeros."""
    length = stop - position
    if length <= 0:
        return np.uint64(0)
    if position + 8 <= values.size:
        word: np.uint64 = load_word(values, position)
    else:
        word = load_last_word(values, position)
    if length < 8:
        word &= (np.uint64(1) << np.uint64(8 * length)) - np.uint64(1)
    return word


@splice
def _find_row(values: Bytes, start: int, stop: int, pieces: UInt64, shift: int) -> tuple[int, bool]:
    """Return where in the table a piece is, or was put now, and whether it is new."""
    length = np.uint64(stop - start)
    first = _piece_word(values, start, stop)
    second = _piece_word(values, start + 8, stop)
    third = _piece_word(values, start + 16, stop)
    fourth = _piece_word(values, start + 24, stop)
    hashed = (first ^ length) * HASH_PRIME ^ second * HASH_PRIME_2
    hashed = (hashed ^ (hashed >> np.uint64(32)) ^ third) * HASH_PRIME ^ fourth * HASH_PRIME_2
    hashed = (hashed ^ (hashed >> np.uint64(32))) * HASH_PRIME
    last_row = pieces.size - ROW_WORDS
    row = signed(hashed >> np.uint64(shift)) * ROW_WORDS
    while True:
        meaning = pieces[row + 4]
        if not meaning:
            pieces[row] = first
            pieces[row + 1] = second
            pieces[row + 2] = third
            pieces[row + 3] = fourth
            pieces[row + 4] = np.uint64(IS_ASKED << FLAG_SHIFT) | length
            return row, True
        is_same = (
            (pieces[row] == first)
            & (pieces[row + 1] == second)
            & (pieces[row + 2] == third)
            & (pieces[row + 3] == fourth)
            & ((meaning & np.uint64(0xFF)) == length)
        )
        if is_same:
            return row, False
        row = row + ROW_WORDS if row < last_row else 0


@kernel
def normalize_pieces(
    values: Bytes,
    bounds: Int64,
    ends: Int64,
    known: NormalizerTables,
    state: Int64,
    asked: Int64,
    out_values: Bytes,
    out_bounds: Int64,
    out_ends: Int64,
) -> int:
    """Normalize segments of text, each by itself.

    Args:
        values: uint8, valid UTF-8.
        bounds: int64 ``[num_segments + 1]``, into ``values``.
        ends: int64 ``[num_ends]``, into ``values``, ascending.
        known: see ``NormalizerTables``.
        state: int64 ``[STATE_SIZE]``, updated; ``POSITION`` and ``RUN`` begin as ``bounds[0]``.
        asked: int64, where in the table the pieces are that the caller is asked about.
        out_values: uint8. A state whose ``RUN`` is ``bounds[0]`` when all is done changed nothing,
            and wrote nothing.
        out_bounds: int64 ``[num_segments + 1]``.
        out_ends: int64 ``[num_ends]``.

    Returns:
        Why it stopped; see the reasons.
    """
    kinds, blocks, pieces = known.kinds, known.blocks, known.pieces
    start = state[POSITION]
    first_segment = state[SEGMENT]
    asked_start = asked_segment = look_until = np.int64(-1)
    num_asked = np.int64(0)
    reason = DONE
    for segment in range(first_segment, bounds.size - 1):
        stop = bounds[segment + 1]
        while start < stop:
            position = _skip_plain(values, start, stop, known)
            if position == stop:
                start = stop
                break
            if position > start:  # what follows may combine with the character before
                start = position - 1
                while values[start] & 0xC0 == 0x80:
                    start -= 1
            first_code, size = decode_character(values, start)
            code = first_code
            kind = signed(kinds[code])
            position = start + size
            is_single = True
            seen = 1 << (kind & CLASS_MASK)
            while position < stop and kind != UNSEEN:
                code, size = decode_character(values, position)
                right = signed(kinds[code])
                if right == UNSEEN:
                    kind = right
                elif not blocks[kind & CLASS_MASK, right & CLASS_MASK] & seen:
                    break
                else:
                    kind = right
                    position += size
                    is_single = False
                    number = kind & CLASS_MASK
                    if number in (JOINED, LINKER):
                        seen |= 1 << number
                    else:
                        seen = 1 << number
            if kind == UNSEEN:
                state[DETAIL] = code
                reason = UNSEEN_CHARACTER
                break
            form = np.uint64(0)
            is_changed = True
            if is_single:
                is_changed = kind & CHANGED != 0
                form = known.forms[first_code]
            elif position - start > LONGEST_PIECE or kinds[first_code] & CLASS_MASK == IN_CONTEXT:
                if not num_asked:
                    state[DETAIL] = position
                    reason = LONG_PIECE
                    break
            else:
                row, is_new = _find_row(values, start, position, pieces, known.shift)
                meaning = pieces[row + 4]
                flags = signed(meaning) >> FLAG_SHIFT
                length = (meaning >> np.uint64(FORM_LENGTH_SHIFT)) & np.uint64(0xFFFF)
                form = (meaning & _FORM_START) | length
                is_changed = flags & IS_SAME == 0
                if is_new:
                    state[NUM_PIECES] += 1
                    if not num_asked:
                        asked_start, asked_segment = start, np.int64(segment)
                        look_until = start + _LOOK_AHEAD
                    asked[num_asked] = row
                    num_asked += 1
            if num_asked:
                if start >= look_until or num_asked == asked.size:
                    reason = NEW_PIECES
                    break
            elif is_changed:
                forms = known.values if is_single else known.piece_values
                has_room = write_part(
                    values, ends, start, position, forms, form, state, out_values, out_ends
                )
                if not has_room:
                    reason = FULL
                    break
            start = position
        if reason != DONE:
            first_segment = np.int64(segment)
            break
        out_bounds[segment + 1] = stop - state[RUN] + state[SIZE]
        first_segment = np.int64(segment + 1)
    state[NUM_ASKED] = num_asked
    if num_asked:
        state[POSITION], state[SEGMENT] = asked_start, asked_segment
        return NEW_PIECES
    state[POSITION], state[SEGMENT] = start, first_segment
    if reason == DONE and state[RUN] > bounds[0]:
        is_done = finish(values, bounds[bounds.size - 1], ends, state, out_values, out_ends)
        reason = DONE if is_done else FULL
    return reason
