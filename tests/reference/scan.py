"""Readable twins of tokkit/kernels/scan.py."""

SPACE = b" \t\n\v\f\r"


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
    if start < len(data):
        found.append((start, len(data)))
    return found


def documents(data: bytes, documents: str) -> list[tuple[int, int]]:
    """Return start and stop of each document that is not empty."""
    if documents == "file":
        return [(0, len(data))] if data.strip(SPACE) else []
    found: list[tuple[int, int]] = []
    within = False
    for start, stop in lines(data):
        if not data[start:stop].strip(SPACE):
            within = False
        elif documents == "line" or not within:
            found.append((start, stop))
            within = True
        else:
            found[-1] = (found[-1][0], stop)
    return found


def count_empty_lines(data: bytes) -> int:
    """Count the lines of white space alone."""
    return sum(not data[start:stop].strip(SPACE) for start, stop in lines(data))


def clean(text: bytes) -> bytes:
    r"""Return the text with ``\n`` line ends, and none at its end."""
    return text.replace(b"\r\n", b"\n").replace(b"\r", b"\n").removesuffix(b"\n")


def sentences(text: bytes, method: str) -> list[bytes]:
    """Return the sentences of a clean text by ``lines`` or ``none``."""
    pieces = text.split(b"\n") if method == "lines" else [text]
    stripped = [piece.strip(SPACE) for piece in pieces]
    return [piece for piece in stripped if piece]
