"""Readable twins of tokkit/kernels/scan.py."""

import re

BYTE_ORDER_MARK = "\ufeff".encode()


def is_blank(data: bytes) -> bool:
    """Return whether nothing but white space and byte order marks is in the data."""
    return not data.replace(BYTE_ORDER_MARK, b"").decode(errors="replace").strip()


def lines(data: bytes) -> list[tuple[int, int]]:
    r"""Return start and stop of each line; a line ends at ``\n``, ``\r\n`` or ``\r``."""
    found = []
    start = 0
    position = 0
    while position < len(data):
        if data[position : position + 2] == b"\r\n":
            found.append((start, position))
            position += 2
            start = position
        elif data[position] in b"\r\n":
            found.append((start, position))
            position += 1
            start = position
        else:
            position += 1
    if data[start:].replace(BYTE_ORDER_MARK, b""):
        found.append((start, len(data)))
    return found


def documents(data: bytes, documents: str) -> list[tuple[int, int]]:
    """Return start and stop of each document that is not empty."""
    if documents == "file":
        return [] if is_blank(data) else [(0, len(data))]
    found: list[tuple[int, int]] = []
    within = False
    for line_start, stop in lines(data):
        start = line_start
        while data[start:stop].startswith(BYTE_ORDER_MARK):
            start += len(BYTE_ORDER_MARK)
        if is_blank(data[start:stop]):
            within = False
        elif documents == "line" or not within:
            found.append((start, stop))
            within = True
        else:
            found[-1] = (found[-1][0], stop)
    return found


def count_empty_lines(data: bytes) -> int:
    """Count the lines of white space alone."""
    return sum(is_blank(data[start:stop]) for start, stop in lines(data))


def clean(text: bytes) -> bytes:
    r"""Return a text with ``\n`` line ends, none at its end, and no marks at the start of lines."""
    text = text.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return re.sub(b"(?m)^(?:" + BYTE_ORDER_MARK + b")+", b"", text).removesuffix(b"\n")


def text_lines(text: bytes) -> list[bytes]:
    """Return the lines of a text that are not blank, without their ends."""
    return [text[start:stop] for start, stop in lines(text) if not is_blank(text[start:stop])]


def is_utf8(text: bytes) -> bool:
    """Return whether Python decodes the text."""
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
