r"""Find documents and lines in a buffer of bytes.

A line ends at ``\n``, at ``\r\n``, or at a lone ``\r``. It is blank if Python's ``str.strip`` leaves
nothing of it, byte order marks aside. ``find_documents`` walks a buffer once and keeps its position
in a state, so that the caller can refill the buffer at any byte:

    buffer "a\nb\n \n\nc\n"    documents between blank lines: [0, 3) and [7, 8); a run of blank
                              lines is one delimiter
    buffer "a\n\n b\n"         a document per line: [0, 1) and [3, 5); one line is empty

Results are slices of the raw bytes; see ``string_columns`` for what copies them.
"""

import numpy as np

from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.jit import inline, kernel
from tokkit.kernels.memory import find_either, find_last_either, trailing_zeros

LF = 10
CR = 13

# Indices into the state of ``find_documents``. The first four are positions in the buffer, which
# the caller moves when it moves the bytes.
NEXT = 0  # the first byte that was not read
LINE_START = 1
DOCUMENT_START = 2  # -1 between documents
DOCUMENT_STOP = 3  # end of the last line with text in it
LINE_HAS_TEXT = 4
NUM_LINES = 5  # lines that have ended
NUM_EMPTY = 6  # of these, lines of white space alone
STATE_SIZE = 7

_BLOCK = 64


def new_state(start: int) -> Int64:
    """Return the state of ``find_documents`` before the byte at ``start``."""
    state = np.zeros(STATE_SIZE, np.int64)
    state[NEXT] = state[LINE_START] = start
    state[DOCUMENT_START] = state[DOCUMENT_STOP] = -1
    return state


def move_state(state: Int64, distance: int) -> None:
    """Adjust a state to bytes that were moved by ``distance`` towards the start of the buffer."""
    state[NEXT] -= distance
    state[LINE_START] -= distance
    if state[DOCUMENT_START] >= 0:
        state[DOCUMENT_START] -= distance
        state[DOCUMENT_STOP] -= distance


def first_needed(state: Int64) -> int:
    """Return the first byte that an unfinished document may need; those before it are done."""
    open_document = state[DOCUMENT_START]
    return int(open_document if open_document >= 0 else state[LINE_START])


@inline
def is_line_end(byte: int) -> bool:
    """Return whether a byte ends a line."""
    return byte == LF or byte == CR  # Numba compiles ``in`` for 0.1 s and more


@inline
def blank_size(values: Bytes, position: int, stop: int) -> int:
    """Return the length in bytes of the white space at ``position`` that ends no line.

    White space is what Python's ``str.isspace`` says. The result is 0 for anything else, and -1 if
    only the bytes from ``stop`` on would tell.
    """
    if position >= stop:
        return 0
    first = values[position]
    if first < 0x80:
        return int(first == 32 or first == 9 or first == 11 or first == 12 or 28 <= first <= 31)
    if not (first == 0xC2 or 0xE1 <= first <= 0xE3):
        return 0
    if position + 1 >= stop:
        return -1
    second = values[position + 1]
    if first == 0xC2:  # U+0085 U+00A0
        return 2 if second == 0x85 or second == 0xA0 else 0
    if position + 2 >= stop:
        return -1
    third = values[position + 2]
    if first == 0xE2 and second == 0x80:  # U+2000 to U+200A, U+2028 U+2029 U+202F
        return 3 if third <= 0x8A or 0xA8 <= third <= 0xA9 or third == 0xAF else 0
    is_space = (
        (first == 0xE1 and second == 0x9A and third == 0x80)  # U+1680
        or (first == 0xE2 and second == 0x81 and third == 0x9F)  # U+205F
        or (first == 0xE3 and second == 0x80 and third == 0x80)  # U+3000
    )
    return 3 if is_space else 0


@inline
def is_byte_order_mark(values: Bytes, position: int, stop: int) -> bool:
    """Return whether the three bytes of U+FEFF are at ``position``."""
    return (
        position + 2 < stop
        and values[position] == 0xEF
        and values[position + 1] == 0xBB
        and values[position + 2] == 0xBF
    )


@inline
def has_text(values: Bytes, start: int, stop: int) -> bool:
    """Return whether a slice holds anything but white space and byte order marks."""
    while start < stop:
        size = blank_size(values, start, stop)
        if size <= 0 and is_line_end(values[start]):
            size = 1
        elif size <= 0 and is_byte_order_mark(values, start, stop):
            size = 3
        if size <= 0:
            return True
        start += size
    return False


@inline
def find_line_end(buffer: Bytes, position: int, size: int) -> int:
    """Return the first LF or CR from ``position`` on, or ``size``; looks at 64 bytes at a time."""
    while position < size:
        if position + _BLOCK <= buffer.size:
            found = find_either(buffer, position, LF, CR)
        else:
            found = find_last_either(buffer, position, LF, CR)
        if found:
            end: int = min(position + trailing_zeros(found), size)
            return end
        position += _BLOCK
    return size


@kernel
def find_documents(
    buffer: Bytes,
    size: int,
    final: bool,
    by_line: bool,
    state: Int64,
    out_starts: Int64,
    out_stops: Int64,
) -> int:
    r"""Find the documents that end within ``buffer[:size]``.

    Args:
        buffer: uint8; bytes from ``state[NEXT]`` on have not been read.
        size: number of bytes in the buffer.
        final: nothing follows, so the end of the buffer ends the last line and document.
        by_line: each line is a document; otherwise blank lines separate documents.
        state: int64 ``[STATE_SIZE]``, updated.
        out_starts: int64, first byte of each document.
        out_stops: int64, the byte after its last one, line end excluded.

    Returns:
        The number of documents. If it is ``len(out_starts)``, call again with the same buffer.
        Otherwise the whole buffer was read, except for a last ``\r``, or a character at the start of
        a line, of which only the next bytes tell what it is.
    """
    capacity = out_starts.size
    position = state[NEXT]
    line_start = state[LINE_START]
    document_start = state[DOCUMENT_START]
    document_stop = state[DOCUMENT_STOP]
    line_has_text = state[LINE_HAS_TEXT] != 0
    num_lines = state[NUM_LINES]
    num_empty = state[NUM_EMPTY]
    count = 0
    while count < capacity:
        if not line_has_text:
            size_of_blank = 1
            while size_of_blank > 0:
                size_of_blank = blank_size(buffer, position, size)
                if size_of_blank == 0 and is_byte_order_mark(buffer, position, size):
                    size_of_blank = 3
                    if line_start == position:
                        line_start += 3
                position += max(0, size_of_blank)
            if position < size and not final:
                is_unknown = size_of_blank < 0 or (
                    buffer[position] == 0xEF and position + 2 >= size
                )
                if is_unknown:
                    break
        line_stop = find_line_end(buffer, position, size)
        line_has_text = line_has_text or line_stop > position
        position = line_stop
        if position == size:
            if line_start == size or not final:
                break
        else:
            if buffer[position] == CR:
                if position + 1 < size:
                    position += buffer[position + 1] == LF
                elif not final:
                    break
            position += 1
        num_lines += 1
        num_empty += not line_has_text
        if by_line:
            if line_has_text:
                out_starts[count] = line_start
                out_stops[count] = line_stop
                count += 1
        elif line_has_text:
            if document_start < 0:
                document_start = line_start
            document_stop = line_stop
        elif document_start >= 0:
            out_starts[count] = document_start
            out_stops[count] = document_stop
            count += 1
            document_start = -1
        line_start = position
        line_has_text = False
    if final and line_start == size and document_start >= 0 and count < capacity:
        out_starts[count] = document_start
        out_stops[count] = document_stop
        count += 1
        document_start = -1
    state[NEXT] = position
    state[LINE_START] = line_start
    state[DOCUMENT_START] = document_start
    state[DOCUMENT_STOP] = document_stop
    state[LINE_HAS_TEXT] = line_has_text
    state[NUM_LINES] = num_lines
    state[NUM_EMPTY] = num_empty
    return count


@kernel
def count_byte(values: Bytes, byte: int) -> int:
    """Count the occurrences of a byte; LLVM vectorizes the loop to 20 GB/s and more."""
    number = 0
    for place in range(values.size):
        number += values[place] == byte
    return number


@kernel
def find_lines(
    values: Bytes,
    offsets: Int64,
    out_starts: Int64,
    out_stops: Int64,
    out_line_offsets: Int64,
) -> int:
    r"""Find each line with text in it, line end excluded.

    Args:
        values: uint8, documents one after the other.
        offsets: int64 ``[num_documents + 1]``, bounds of the documents.
        out_starts: int64 ``[num_documents + number of line ends]``, first byte of each line.
        out_stops: int64, as long as ``out_starts``, the byte after its last one.
        out_line_offsets: int64 ``[num_documents + 1]``, bounds of each document's lines.

    Returns:
        The number of lines.
    """
    count = 0
    out_line_offsets[0] = 0
    for document in range(offsets.size - 1):
        position = offsets[document]
        document_stop = offsets[document + 1]
        while position < document_stop:
            stop = find_line_end(values, position, document_stop)
            if has_text(values, position, stop):
                out_starts[count] = position
                out_stops[count] = stop
                count += 1
            position = stop + 1
        out_line_offsets[document + 1] = count
    return count
