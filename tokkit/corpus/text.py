"""Reading documents from streams of bytes: plain text, and the lines that hold JSON records.

The stream is read into one buffer, and a kernel finds the documents that end in it. An unfinished
document is moved to the front, and reading continues after it; if it fills half of the buffer, the
buffer doubles. So no byte is scanned twice, however long a document is, and memory stays at a few
times ``batch_bytes`` while documents are short.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.documents import (
    EMPTY,
    ERRORS_OPTION,
    DocumentBatch,
    add_counts,
    clean_texts,
    name_documents,
)
from tokkit.corpus.file_systems import open_files
from tokkit.corpus.sources import TO_THE_END
from tokkit.corpus.streams import ByteStream
from tokkit.errors import TokkitError
from tokkit.kernels.scan import (
    NEXT,
    NUM_EMPTY,
    NUM_LINES,
    find_documents,
    first_needed,
    move_state,
    new_state,
)
from tokkit.shards.arrow import read_only

# A batch has at most one document for so many bytes, which bounds the memory of their names.
_BYTES_PER_DOCUMENT = 64
# A character must fit, of which the kernel finds out whether it is white space.
_SMALLEST_BUFFER = 4
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class FoundDocuments:
    """Documents found in the buffer, valid until the next ones are requested.

    Attributes:
        stream: where they were found.
        buffer: uint8.
        base: position of the buffer in the file, decompressed.
        starts: int64 ``[num_documents]``, first byte of each in the buffer.
        stops: int64 ``[num_documents]``, the byte after its last one.
        num_empty: lines of white space alone since the last documents, if lines are documents.
        scanned_from: where in the buffer the kernel began.
        lines_before: lines of the unit that ended before that.
    """

    stream: ByteStream
    buffer: NDArray[np.uint8]
    base: int
    starts: NDArray[np.int64]
    stops: NDArray[np.int64]
    num_empty: int = 0
    scanned_from: int = 0
    lines_before: int = 0

    def line_number(self, index: int) -> int:
        """Return the number, from 1, of a found line in its file, for an error.

        If the unit begins within the file, everything before it is read again.
        """
        unit = self.stream.unit
        before = self.buffer[self.scanned_from : int(self.starts[index])].tobytes()
        number = self.lines_before + _count_line_ends(before) + 1
        if unit.start:
            with open_files(unit.source.uri).open(unit.source.path) as file:
                last = b""
                for offset in range(0, unit.start, _READ_BYTES):
                    data = last + file.read(min(_READ_BYTES, unit.start - offset))
                    last = b"\r" if data.endswith(b"\r") else b""
                    number += _count_line_ends(data.removesuffix(last))
        return number

    def invalid_utf8(self, index: int, error: UnicodeDecodeError) -> TokkitError:
        """Return the error for invalid UTF-8 in a document; its place is looked up in the buffer."""
        start = int(self.starts[index])
        try:
            self.buffer[start : int(self.stops[index])].tobytes().decode()
        except UnicodeDecodeError as in_buffer:
            error = in_buffer
        what = self.stream.unit.source.type.looks_like
        remedy = f"convert it to UTF-8, or {ERRORS_OPTION}"
        if what is not None:
            remedy = f"it looks like {what}, which must be converted to UTF-8 text first"
        begin = self.base + start
        return TokkitError(
            f"{self.stream.unit.source.name}: invalid UTF-8 at byte {begin + error.start}, in the "
            f"document that begins at byte {begin}; {remedy}"
        )


def _count_line_ends(data: bytes) -> int:
    return data.count(b"\n") + data.count(b"\r") - data.count(b"\r\n")


def read_text(
    stream: ByteStream, config: CorpusConfig, batch_bytes: int
) -> Iterator[DocumentBatch]:
    """Read the documents of a unit of plain text.

    Args:
        stream: the unit's bytes.
        config: how they fall into documents, and what to do about invalid UTF-8.
        batch_bytes: about how many bytes a batch has; one document may be longer.

    Raises:
        TokkitError: naming the first invalid byte, if ``--errors strict``.
    """
    name = stream.unit.source.name
    for found in find_in_stream(stream, config.documents, batch_bytes):
        clean = clean_texts(
            found.buffer,
            found.starts,
            found.stops,
            config.errors,
            found.invalid_utf8,
            of_text_file=True,
        )
        names = name_documents(name, found.base + found.starts[clean.kept])
        num_empty = found.num_empty
        del found  # a file that is one document lies in memory once
        yield DocumentBatch(
            clean.texts,
            names,
            dropped=add_counts(clean.dropped, {EMPTY: num_empty}),
            replaced=clean.replaced,
            bytes_read=stream.take_progress(),
        )


def find_in_stream(
    stream: ByteStream, documents: str, batch_bytes: int
) -> Iterator[FoundDocuments]:
    """Find the documents of a stream of bytes.

    Args:
        stream: of one unit.
        documents: ``blank-line``, ``line`` or ``file``.
        batch_bytes: size of the buffer, as long as documents are shorter than half of it.
    """
    if documents == "file":
        yield _take_whole(stream, batch_bytes)
        return
    by_line = documents == "line"
    unit = stream.unit
    batch_bytes = max(batch_bytes, _SMALLEST_BUFFER)
    # One byte more than the unit has, so that the first read shows that nothing follows.
    capacity = batch_bytes
    if unit.stop != TO_THE_END:
        capacity = min(batch_bytes, unit.stop - unit.start + 1)
    buffer = np.empty(capacity, dtype=np.uint8)
    starts = np.empty(max(1, batch_bytes // _BYTES_PER_DOCUMENT), dtype=np.int64)
    stops = np.empty_like(starts)
    base = unit.start
    size = stream.fill(buffer.data)
    state = new_state(0)
    while True:
        final = size < buffer.size
        view = read_only(buffer)
        count = starts.size
        while count == starts.size:
            before = state.copy()
            count = find_documents(view, size, final, by_line, state, starts, stops)
            yield FoundDocuments(
                stream,
                view,
                base,
                starts[:count],
                stops[:count],
                num_empty=int(state[NUM_EMPTY] - before[NUM_EMPTY]) if by_line else 0,
                scanned_from=int(before[NEXT]),
                lines_before=int(before[NUM_LINES]),
            )
        if final:
            return
        needed = first_needed(state)
        size -= needed
        if size > buffer.size // 2:
            capacity = 2 * buffer.size
        else:
            capacity = min(buffer.size, max(batch_bytes, 2 * size))
        buffer = _move(buffer, needed, size, capacity)
        move_state(state, needed)
        base += needed
        size += stream.fill(buffer[size:].data)


def _take_whole(stream: ByteStream, batch_bytes: int) -> FoundDocuments:
    """Read a stream to its end as one document."""
    unit = stream.unit
    capacity = max(batch_bytes, _SMALLEST_BUFFER)
    if unit.stop != TO_THE_END:
        capacity = unit.stop - unit.start + 1
    buffer = np.empty(capacity, dtype=np.uint8)
    size = stream.fill(buffer.data)
    while size == buffer.size:
        buffer = _move(buffer, 0, size, 2 * size)
        size += stream.fill(buffer[size:].data)
    bounds = np.array([0, size], dtype=np.int64)
    count = int(size > 0)
    return FoundDocuments(
        stream, read_only(buffer), unit.start, bounds[:count], bounds[1 : 1 + count]
    )


def _move(buffer: NDArray[np.uint8], start: int, size: int, capacity: int) -> NDArray[np.uint8]:
    """Move ``size`` bytes from ``start`` to the front of a buffer of this capacity."""
    moved = buffer if capacity == buffer.size else np.empty(capacity, dtype=np.uint8)
    moved[:size] = buffer[start : start + size]
    return moved
