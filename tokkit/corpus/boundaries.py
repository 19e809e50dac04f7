r"""Where a file of bytes can be cut into units, found without reading what lies before.

A cut is made near every multiple of an even share of the file, at the first document boundary
from there on. The line ends around it tell a boundary:

    lines                   right after a line end
    blank lines between     right after the first blank line that begins within sight

    "ab\ncd\nef\n" in two, by lines: an even share ends at 4, within "cd"; the line end that
    follows it gives the units [0, 6) and [6, 9)
"""

import re
from typing import Any

from tokkit.corpus.files import changed, open_files
from tokkit.corpus.sources import Source
from tokkit.errors import os_errors_about

# Possessive, or "\r\n" would be taken for two line ends where it must be one. Both begin with
# alternatives of one character, which the search skips to: twice as fast as atomic groups are.
LINE_END = re.compile(rb"(?:\n|\r\n?+)")
BLANK_LINE = re.compile(rb"(?:\n|\r\n?+)[ \t\v\f]*+(?:\n|\r\n?+)")

_BLANKS = b" \t\v\f"
_FIRST_READ_BYTES = 1 << 16
_LARGEST_READ_BYTES = 8 << 20


def find_bounds(source: Source, unit_bytes: int, boundary: re.Pattern[bytes]) -> list[int]:
    """Where the units of a file begin and end: 0, the cuts, and its size.

    Args:
        source: an uncompressed file.
        unit_bytes: about how many bytes a unit has.
        boundary: ``LINE_END`` or ``BLANK_LINE``.

    Raises:
        TokkitError: where the file cannot be read, or is no longer as long as it was.
    """
    bounds = [0]
    num_units = max(1, round(source.bytes / unit_bytes))
    if num_units > 1:
        with os_errors_about(source.name), open_files(source.uri).open(source.path) as file:
            for index in range(1, num_units):
                target = source.bytes * index // num_units
                if target > bounds[-1]:
                    bounds.append(_find_boundary(file, source, target, boundary))
    # A last document that is longer than a unit's share ends with the file.
    return [*(bound for bound in bounds if bound < source.bytes or not bound), source.bytes]


def _find_boundary(file: Any, source: Source, target: int, boundary: re.Pattern[bytes]) -> int:
    """The first boundary at or after ``target``, which is above 0; the file's end without one."""
    # The line end that makes a line begin at the target lies right before it.
    offset = target - 1
    data = b""
    read_bytes = _FIRST_READ_BYTES
    while True:
        at = offset + len(data)
        final = at + read_bytes >= source.bytes
        file.seek(at)
        data += file.read(read_bytes)
        if len(data) < min(source.bytes - offset, at + read_bytes - offset):
            raise changed(source.name)
        match = boundary.search(data)
        if match and (final or match.end() < len(data)):
            return offset + match.end()
        if final:
            return source.bytes
        # Keep what may be the beginning of a boundary: one that a "\n" may still lengthen, or
        # the last line end with nothing but blanks behind it.
        kept = match.start() if match else _trailing_line_end(data)
        data = data[kept:]
        offset += kept
        read_bytes = min(2 * read_bytes, _LARGEST_READ_BYTES)


def _trailing_line_end(data: bytes) -> int:
    """Where the line end stands that only blanks follow; the data's length without one."""
    text = data.rstrip(_BLANKS)
    return len(text) - 1 if text.endswith((b"\n", b"\r")) else len(data)
