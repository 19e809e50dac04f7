"""Write and check the value buffers of Arrow string columns: documents, names, prefixed texts."""

import numpy as np

from tokkit.kernels.arrays import Bytes, Int32, Int64
from tokkit.kernels.jit import inline, kernel
from tokkit.kernels.memory import copy_values, find_either, find_small_bytes
from tokkit.kernels.scan import CR, LF, has_text, is_byte_order_mark

SPACE = 32
BLOCK = 64


@inline
def _find_changes(buffer: Bytes, position: int) -> np.uint64:
    """Return a bit for each of 64 bytes, set at CR and where U+FEFF begins; reads 66 bytes."""
    marks = (
        find_either(buffer, position, 0xEF, 0xEF)
        & find_either(buffer, position + 1, 0xBB, 0xBB)
        & find_either(buffer, position + 2, 0xBF, 0xBF)
    )
    changes: np.uint64 = find_either(buffer, position, CR, CR) | marks
    return changes


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
        out_values: uint8, at least as long as all slices together; where it is longer by ``BLOCK``,
            blocks are copied whole.
        out_offsets: int64 ``[num_documents + 1]``, bounds of the copies.
        out_kept: int64 ``[num_documents]``, numbers of the slices that were copied.

    Returns:
        The number of copies.
    """
    out_offsets[0] = 0
    end = 0
    num_kept = 0
    for document in range(starts.size):
        start = starts[document]
        stop = stops[document]
        if not has_text(buffer, start, stop):
            continue
        position = start
        if not as_text_file:
            copy_values(buffer, start, out_values, end, stop - start)
            end += stop - start
            position = stop
        while position < stop:
            block_stop = min(position + BLOCK, stop)
            if position + BLOCK + 2 <= buffer.size and end + BLOCK <= out_values.size:
                changes = _find_changes(buffer, position)
                if changes << np.uint64(BLOCK - (block_stop - position)) == 0:
                    copy_values(buffer, position, out_values, end, BLOCK)
                    end += block_stop - position
                    position = block_stop
            while position < block_stop:
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
def is_utf8(values: Bytes, offsets: Int64) -> bool:
    """Return whether every text is valid UTF-8; looks at 64 bytes at a time.

    A bit for each byte says what it is; moved by one to three places, those of the first bytes of
    characters must be those of the others (0x80 to 0xBF). What the second byte may be depends on
    the first: no overlong forms, no surrogates, nothing above U+10FFFF.

    Args:
        values: uint8, the texts one after the other, and ``BLOCK`` bytes more.
        offsets: int64 ``[num_texts + 1]``, bounds of the texts, the first 0.
    """
    one = np.uint64(1)
    needed = np.uint64(0)  # continuation bytes that the block before needs
    after_e0 = after_ed = after_f0 = after_f4 = np.uint64(0)  # whether it ends with such a byte
    size = offsets[offsets.size - 1]
    for position in range(0, size, BLOCK):
        inside = ~np.uint64(0)
        if size - position < BLOCK:
            inside = (one << np.uint64(size - position)) - one
        high = ~find_small_bytes(values, position, 0x80) & inside
        if high == 0 and needed == 0:
            continue
        from_c0 = ~find_small_bytes(values, position, 0xC0) & inside
        from_c2 = ~find_small_bytes(values, position, 0xC2) & inside
        from_e0 = ~find_small_bytes(values, position, 0xE0) & inside
        from_f0 = ~find_small_bytes(values, position, 0xF0) & inside
        from_f5 = ~find_small_bytes(values, position, 0xF5) & inside
        needed |= from_c2 << one | from_e0 << np.uint64(2) | from_f0 << np.uint64(3)
        below_a0 = find_small_bytes(values, position, 0xA0)
        below_90 = find_small_bytes(values, position, 0x90)
        e0 = find_either(values, position, 0xE0, 0xE0) & inside
        ed = find_either(values, position, 0xED, 0xED) & inside
        f0 = find_either(values, position, 0xF0, 0xF0) & inside
        f4 = find_either(values, position, 0xF4, 0xF4) & inside
        faults = (needed ^ (high & ~from_c0)) | (from_c0 & ~from_c2) | from_f5
        faults |= (e0 << one | after_e0) & below_a0
        faults |= (ed << one | after_ed) & ~below_a0
        faults |= (f0 << one | after_f0) & below_90
        faults |= (f4 << one | after_f4) & ~below_90
        if faults:
            return False
        last = np.uint64(BLOCK - 1)
        needed = from_c2 >> last | from_e0 >> (last - one) | from_f0 >> (last - np.uint64(2))
        after_e0, after_ed, after_f0, after_f4 = e0 >> last, ed >> last, f0 >> last, f4 >> last
    if needed:
        return False
    for text in range(offsets.size - 1):
        if offsets[text] < size and values[offsets[text]] & 0xC0 == 0x80:
            return False
    return True


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
