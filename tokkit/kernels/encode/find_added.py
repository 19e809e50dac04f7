r"""Find added tokens in text, and cut the text there.

    tokens    two spaces, three spaces, <think>, and <s>, which text never becomes
    text      "if x:\n   <think> <s>"
    segments  "if x:\n" | "   " | "<think>" | " <s>"

Of tokens that begin at the same place the longest counts, and after it the search goes on behind
it; so does the search after a special token, though that is no cut.

Nearly all text has no such tokens. Blocks of 64 bytes are searched for the first two bytes of
tokens, by comparing vectors: for each first byte, and where that is found, for the bytes that
follow it. Where there are too many of them, each two bytes are looked up in a table instead.
"""

from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int64
from tokkit.kernels.encode.tries import NO_TOKEN, Cells, find_longest
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import find_either, signed, trailing_zeros

PLAIN = -1  # instead of the id of a token

# Indices into the state of ``find_added``.
TEXT = 0  # number of the text that it is in
BLOCK = 1  # first byte of the block that it is in
START = 2  # where the segment that is not complete begins
REACHED = 3  # where the last token ends
NUM_SEGMENTS = 4
NUM_FOUND = 5  # number of segments that are tokens
STATE_SIZE = 6

_BLOCK = 64
_ONE = np.uint64(1)


class AddedTable(NamedTuple):
    """The added tokens to search for.

    Attributes:
        cells: double array over the tokens; see ``tries``.
        ids: int64 ``[num_tokens]``, the ids in the vocabulary, or ``PLAIN`` for special tokens.
        firsts: int64 ``[n]``, bytes that tokens begin with; empty if they are too many.
        offsets: int64 ``[n + 1]``, into ``seconds``.
        seconds: int64 ``[m, 2]``, the bytes that follow; where there are none, any byte does.
        is_start: bool ``[65536]``: whether a token begins with a byte and the next, first byte
            times 256.
    """

    cells: Cells
    ids: Int64
    firsts: Int64
    offsets: Int64
    seconds: Int64
    is_start: Bools


@inline
def _look_up_starts(values: Bytes, position: int, table: AddedTable) -> np.uint64:
    """Return a bit for each of 64 bytes that a token may begin with, near the end of the values too."""
    found = np.uint64(0)
    for index in range(min(_BLOCK, values.size - position)):
        place = position + index
        pair = signed(values[place]) << 8
        if place + 1 < values.size:
            pair |= signed(values[place + 1])
        found |= np.uint64(table.is_start[pair]) << np.uint64(index)
    return found


@splice
def _find_starts(values: Bytes, position: int, table: AddedTable) -> np.uint64:
    """Return a bit for each of 64 bytes that a token may begin with."""
    if table.firsts.size == 0 or position + _BLOCK >= values.size:
        return _look_up_starts(values, position, table)
    found = np.uint64(0)
    for index in range(table.firsts.size):
        first = table.firsts[index]
        is_first: np.uint64 = find_either(values, position, first, first)
        if is_first == 0:
            continue
        start, stop = table.offsets[index], table.offsets[index + 1]
        is_second = ~np.uint64(0) if start == stop else np.uint64(0)
        for place in range(start, stop):
            one, other = table.seconds[place, 0], table.seconds[place, 1]
            is_second |= find_either(values, position + 1, one, other)
        found |= is_first & is_second
    return found


@splice
def _add_segment(state: Int64, stop: int, token_id: int, out_bounds: Int64, out_ids: Int64) -> None:
    """Append the segment that ends at ``stop``."""
    number = state[NUM_SEGMENTS]
    out_bounds[number + 1] = stop
    out_ids[number] = token_id
    state[NUM_SEGMENTS] = number + 1
    state[START] = stop


@inline
def _end_text(
    bounds: Int64,
    ids: Int64,
    state: Int64,
    out_bounds: Int64,
    out_ids: Int64,
    out_firsts: Int64,
) -> None:
    """Append what is left of a text, and go to the next one."""
    text = state[TEXT]
    stop = bounds[text + 1]
    if state[START] < stop or state[NUM_SEGMENTS] == out_firsts[text]:
        token_id = signed(ids[text]) if ids.size else PLAIN
        _add_segment(state, stop, token_id, out_bounds, out_ids)
    state[TEXT] = text + 1
    out_firsts[text + 1] = state[NUM_SEGMENTS]


@kernel
def find_added(
    values: Bytes,
    bounds: Int64,
    ids: Int64,
    table: AddedTable,
    state: Int64,
    out_bounds: Int64,
    out_ids: Int64,
    out_firsts: Int64,
) -> bool:
    """Cut texts before and behind tokens, from where ``state`` stands.

    Args:
        values: uint8, the texts in valid UTF-8.
        bounds: int64 ``[num_texts + 1]``, into ``values``.
        ids: int64 ``[num_texts]``: the id of the token that a text is, which is not searched, or
            ``PLAIN``; empty if all are plain.
        table: the tokens.
        state: int64 ``[STATE_SIZE]``, updated; before the first call zeros, and ``BLOCK``,
            ``START`` and ``REACHED`` are ``bounds[0]``.
        out_bounds: int64 ``[n + 1]``, of segments; the first is set already. ``n`` is at least
            ``num_texts + 2``.
        out_ids: int64 ``[n]``: the id of the token that a segment is, or ``PLAIN``.
        out_firsts: int64 ``[num_texts + 1]``, number of the first segment of each text, and of all
            segments; the first is 0. A text without bytes has a segment without any.

    Returns:
        Whether it is done; if not, call it again with a larger ``out_bounds`` and ``out_ids``.
    """
    num_texts = bounds.size - 1
    stop = bounds[num_texts]
    position = state[BLOCK]
    while position < stop:
        found = _find_starts(values, position, table)
        while found:
            place = position + trailing_zeros(found)
            found &= found - _ONE
            # After a second call, the block may begin before the text.
            if place < max(state[REACHED], state[START]) or place >= stop:
                continue
            while bounds[state[TEXT] + 1] <= place:
                _end_text(bounds, ids, state, out_bounds, out_ids, out_firsts)
            text = state[TEXT]
            if ids.size and ids[text] != PLAIN:
                continue
            token, end = find_longest(table.cells, values, place, bounds[text + 1])
            if token == NO_TOKEN:
                continue
            if table.ids[token] != PLAIN:
                if state[NUM_SEGMENTS] + num_texts - text + 2 > out_ids.size:
                    state[BLOCK] = position
                    return False
                if state[START] < place:
                    _add_segment(state, place, PLAIN, out_bounds, out_ids)
                _add_segment(state, end, table.ids[token], out_bounds, out_ids)
                state[NUM_FOUND] += 1
            state[REACHED] = end
        position += _BLOCK
    state[BLOCK] = position
    while state[TEXT] < num_texts:
        _end_text(bounds, ids, state, out_bounds, out_ids, out_firsts)
    return True
