"""Replace parts of texts: occurrences of a string, runs of a character, white space at the ends.

The bytes between replaced parts are copied in one go. Where no part is replaced nothing is written,
and the caller keeps what it has.
"""

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int64
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import (
    copy_values,
    decode_character,
    find_either,
    signed,
    trailing_zeros,
)

# A form, which replaces a part, is where it is in an array: its start ``<< LENGTH_BITS``, and its
# number of bytes.
LENGTH_BITS = 32

# Indices into the state of a kernel.
POSITION = 0  # the next part begins here
SEGMENT = 1
RUN = 2  # start of the unchanged bytes that were not written yet
SIZE = 3  # number of bytes written
END = 4  # number of ends that were written
DETAIL = 5
STATE_SIZE = 8

SPACE = 32


def new_state(start: int) -> Int64:
    """Return the state of a kernel before the byte at ``start``."""
    state = np.zeros(STATE_SIZE, np.int64)
    state[POSITION] = state[RUN] = start
    return state


@splice
def write_part(
    values: Bytes,
    ends: Int64,
    start: int,
    stop: int,
    forms: Bytes,
    form: np.uint64,
    state: Int64,
    out_values: Bytes,
    out_ends: Int64,
) -> bool:
    """Write the unchanged bytes before a part, then what replaces it.

    Args:
        values: uint8.
        ends: int64 ``[num_ends]``, into ``values``, ascending.
        start: first byte of the part.
        stop: the byte after its last one.
        forms: uint8.
        form: where in ``forms`` is what replaces the part.
        state: ``RUN``, ``SIZE`` and ``END`` are updated; only ``DETAIL`` if there is no room.
        out_values: uint8.
        out_ends: int64 ``[num_ends]``; those within the part move behind what replaces it.

    Returns:
        Whether there was room; otherwise ``DETAIL`` is the number of bytes to write.
    """
    run, size, end = state[RUN], state[SIZE], state[END]
    length = signed(form & np.uint64((1 << LENGTH_BITS) - 1))
    if size + start - run + length > out_values.size:
        state[DETAIL] = start - run + length
        return False
    while end < ends.size and ends[end] <= start:
        out_ends[end] = ends[end] - run + size
        end += 1
    copy_values(values, run, out_values, size, start - run)
    size += start - run
    copy_values(forms, signed(form >> np.uint64(LENGTH_BITS)), out_values, size, length)
    size += length
    while end < ends.size and ends[end] < stop:
        out_ends[end] = size
        end += 1
    state[RUN], state[SIZE], state[END] = stop, size, end
    return True


@kernel
def replace_part(
    values: Bytes,
    ends: Int64,
    start: int,
    stop: int,
    forms: Bytes,
    form: np.uint64,
    state: Int64,
    out_values: Bytes,
    out_ends: Int64,
) -> bool:
    """Do what ``write_part`` does, called from Python."""
    return write_part(values, ends, start, stop, forms, form, state, out_values, out_ends)


@inline
def finish(
    values: Bytes, stop: int, ends: Int64, state: Int64, out_values: Bytes, out_ends: Int64
) -> bool:
    """Write the unchanged bytes up to ``stop``, and the ends that are left.

    Returns:
        Whether there was room; otherwise ``DETAIL`` is the number of bytes to write.
    """
    run, size = state[RUN], state[SIZE]
    if size + stop - run > out_values.size:
        state[DETAIL] = stop - run
        return False
    copy_values(values, run, out_values, size, stop - run)
    for end in range(state[END], ends.size):
        out_ends[end] = ends[end] - run + size
    state[SIZE] = size + stop - run
    state[RUN] = stop
    state[END] = ends.size
    return True


@splice
def _find_pair(values: Bytes, position: int, stop: int, first: int, second: int) -> int:
    """Return the first place of two bytes, next to each other, from ``position`` on, or ``stop``."""
    while position + 1 < stop and position + 65 <= values.size:
        found = find_either(values, position, first, first)
        found &= find_either(values, position + 1, second, second)
        if found:
            position += signed(trailing_zeros(found))
            return position if position + 1 < stop else stop
        position += 64
    while position + 1 < stop:
        if values[position] == first and values[position + 1] == second:
            return position
        position += 1
    return stop


@kernel
def replace_string(
    values: Bytes,
    bounds: Int64,
    ends: Int64,
    string: Bytes,
    is_run: bool,
    content: Bytes,
    state: Int64,
    out_values: Bytes,
    out_bounds: Int64,
    out_ends: Int64,
) -> None:
    """Replace each occurrence of a string within segments of text.

    Args:
        values: uint8.
        bounds: int64 ``[num_segments + 1]``, into ``values``.
        ends: int64 ``[num_ends]``, into ``values``, ascending.
        string: uint8, at least two bytes.
        is_run: the last byte of the string may be repeated.
        content: uint8, what replaces the string.
        state: of ``new_state(bounds[0])``. If ``RUN`` is still ``bounds[0]`` then nothing was
            replaced, or written.
        out_values: uint8, as long as the result at least.
        out_bounds: int64 ``[num_segments + 1]``.
        out_ends: int64 ``[num_ends]``.
    """
    first, second, last = signed(string[0]), signed(string[1]), string[string.size - 1]
    start = bounds[0]
    for segment in range(bounds.size - 1):
        stop = bounds[segment + 1]
        while start < stop:
            start = signed(_find_pair(values, start, stop, first, second))
            place = start
            index = 0
            while place < stop and index < string.size and values[place] == string[index]:
                place += 1
                index += 1
            if index < string.size:
                start += 1
                continue
            while is_run and place < stop and values[place] == last:
                place += 1
            form = np.uint64(content.size)
            write_part(values, ends, start, place, content, form, state, out_values, out_ends)
            start = place
        start = stop
        out_bounds[segment + 1] = stop - state[RUN] + state[SIZE]
    if state[RUN] > bounds[0]:
        finish(values, bounds[bounds.size - 1], ends, state, out_values, out_ends)


@kernel
def trim_segments(
    values: Bytes,
    bounds: Int64,
    ends: Int64,
    trimmed_left: Bools,
    trimmed_right: Bools,
    prefix: Bytes,
    prefixes_spaces: bool,
    takes_prefix: Bools,
    state: Int64,
    out_values: Bytes,
    out_bounds: Int64,
    out_ends: Int64,
) -> None:
    """Remove characters from the ends of segments, and put a string in front of what is left.

    Args:
        values: uint8, valid UTF-8.
        bounds: int64 ``[num_segments + 1]``, into ``values``.
        ends: int64 ``[num_ends]``, into ``values``, ascending.
        trimmed_left: bool, by code point: which are removed from starts; none beyond.
        trimmed_right: bool, by code point: which are removed from stops; none beyond.
        prefix: uint8, for segments in which something is left.
        prefixes_spaces: whether those that begin with a space have the prefix, too.
        takes_prefix: bool ``[num_segments]``, which segments may have the prefix; or of length 1,
            for all.
        state: see ``replace_string``.
        out_values: uint8, as long as the result at least.
        out_bounds: int64 ``[num_segments + 1]``.
        out_ends: int64 ``[num_ends]``.
    """
    for segment in range(bounds.size - 1):
        start, stop = bounds[segment], bounds[segment + 1]
        first, last = start, stop
        while first < stop and trimmed_left.size:
            code, size = decode_character(values, first)
            if code >= trimmed_left.size or not trimmed_left[code]:
                break
            first += size
        while last > first and trimmed_right.size:
            before = last - 1
            while values[before] & 0xC0 == 0x80:
                before -= 1
            code, size = decode_character(values, before)
            if code >= trimmed_right.size or not trimmed_right[code]:
                break
            last = before
        length = 0
        is_given = first < last and takes_prefix[min(segment, takes_prefix.size - 1)]
        if is_given and (prefixes_spaces or values[first] != SPACE):
            length = prefix.size
        if first > start or length:
            form = np.uint64(length)
            write_part(values, ends, start, first, prefix, form, state, out_values, out_ends)
        if last < stop:
            form = np.uint64(0)
            write_part(values, ends, last, stop, prefix, form, state, out_values, out_ends)
        out_bounds[segment + 1] = stop - state[RUN] + state[SIZE]
    if state[RUN] > bounds[0] or state[SIZE] > 0:
        finish(values, bounds[bounds.size - 1], ends, state, out_values, out_ends)
