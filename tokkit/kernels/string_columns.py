"""Write the value buffers of Arrow string columns: documents, names, texts with a space in front."""

import numpy as np

from tokkit.kernels.arrays import Bytes, Int32, Int64
from tokkit.kernels.jit import kernel
from tokkit.kernels.memory import copy_values
from tokkit.kernels.scan import CR, LF, count_byte, has_text, is_byte_order_mark

SPACE = 32


@kernel
def count_byte_order_marks(values: Bytes) -> int:
    """Count the occurrences of U+FEFF; LLVM vectorizes the loop."""
    number = 0
    for position in range(values.size - 2):
        number += (
            (values[position] == 0xEF)
            & (values[position + 1] == 0xBB)
            & (values[position + 2] == 0xBF)
        )
    return number


@kernel
def copy_documents(
    buffer: Bytes,
    starts: Int64,
    stops: Int64,
    as_text_file: bool,
    out_values: Bytes,
    out_offsets: Int64,
    out_kept: Int64,
) -> int:
    r"""Copy slices of a buffer one after the other, without those of white space alone.

    In a text file, ``"a\r\nb\r\n"`` becomes ``"a\nb"``, and byte order marks at the start of a line
    are dropped: files that begin with one were joined. Elsewhere U+FEFF is a character.

    Args:
        buffer: uint8.
        starts: int64 ``[num_documents]``, first byte of each slice, ascending.
        stops: int64 ``[num_documents]``, the byte after its last one, ascending.
        as_text_file: whether to write ``\n`` line ends, none at the end, and no byte order marks
            at the start of a line; otherwise slices are copied as they are.
        out_values: uint8, at least as long as all slices together.
        out_offsets: int64 ``[num_documents + 1]``, bounds of the copies.
        out_kept: int64 ``[num_documents]``, numbers of the slices that were copied.

    Returns:
        The number of copies.
    """
    out_offsets[0] = 0
    end = 0
    num_kept = 0
    is_changed = False
    if as_text_file and starts.size:
        all_bytes = buffer[starts[0] : stops[starts.size - 1]]
        is_changed = count_byte(all_bytes, CR) > 0 or count_byte_order_marks(all_bytes) > 0
    for document in range(starts.size):
        start = starts[document]
        stop = stops[document]
        if not has_text(buffer, start, stop):
            continue
        if not is_changed:
            copy_values(buffer, start, out_values, end, stop - start)
            end += stop - start
        else:
            position = start
            while position < stop:
                byte = buffer[position]
                begins_line = end == out_offsets[num_kept] or out_values[end - 1] == LF
                if begins_line and is_byte_order_mark(buffer, position, stop):
                    position += 3
                    continue
                if byte == CR:
                    byte = np.uint8(LF)
                    if position + 1 < stop and buffer[position + 1] == LF:
                        position += 1
                out_values[end] = byte
                end += 1
                position += 1
        if as_text_file:
            end -= out_values[end - 1] == LF
        out_kept[num_kept] = document
        num_kept += 1
        out_offsets[num_kept] = end
    return num_kept


@kernel
def write_names(prefix: Bytes, numbers: Int64, out_values: Bytes, out_offsets: Int32) -> int:
    """Write names of a prefix and a decimal number: ``books.txt:0``, ``books.txt:312``.

    Args:
        prefix: uint8.
        numbers: int64 ``[num_names]``, none negative.
        out_values: uint8 ``[num_names * (prefix.size + 19)]`` at least.
        out_offsets: int32 ``[num_names + 1]``, bounds of the names.

    Returns:
        The number of bytes written.
    """
    end = 0
    out_offsets[0] = 0
    for index in range(numbers.size):
        for position in range(prefix.size):
            out_values[end + position] = prefix[position]
        end += prefix.size
        number = numbers[index]
        num_digits = 1
        while number >= 10:
            number //= 10
            num_digits += 1
        end += num_digits
        number = numbers[index]
        for position in range(end - 1, end - 1 - num_digits, -1):
            out_values[position] = 48 + number % 10
            number //= 10
        out_offsets[index + 1] = end
    return end


@kernel
def prefix_spaces(values: Bytes, offsets: Int64, out_values: Bytes, out_offsets: Int64) -> int:
    """Copy texts, with a space in front of those that do not begin with one; empty ones stay empty.

    Args:
        values: uint8.
        offsets: int64 ``[num_texts + 1]``, bounds of the texts.
        out_values: uint8, longer than the texts by a byte for each.
        out_offsets: int64 ``[num_texts + 1]``, bounds of the copies.

    Returns:
        The number of bytes written.
    """
    end = 0
    out_offsets[0] = 0
    for text in range(offsets.size - 1):
        start, stop = offsets[text], offsets[text + 1]
        if start < stop and values[start] != SPACE:
            out_values[end] = SPACE
            end += 1
        copy_values(values, start, out_values, end, stop - start)
        end += stop - start
        out_offsets[text + 1] = end
    return end
