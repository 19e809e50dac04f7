"""Reading documents from streams of bytes: plain text, and the lines that hold JSON records.

The stream is read into one buffer, and a kernel finds the documents that end in it. An unfinished
document is moved to the front, and reading continues after it; if it fills half of the buffer, the
buffer doubles. So no byte is scanned twice, however long a document is, and memory stays at a few
times ``batch_bytes`` while documents are short. Of a document above ``--max-document-bytes`` that is
dropped, the beginning is discarded while its end is searched.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.documents import (
    EMPTY,
    ERRORS_OPTION,
    TOO_LONG,
    DocumentBatch,
    add_counts,
    clean_texts,
    name_documents,
    spare_memory,
    too_long_error,
)
from tokkit.corpus.file_systems import open_files
from tokkit.corpus.sources import TO_THE_END
from tokkit.corpus.streams import ByteStream
from tokkit.errors import TokkitError
from tokkit.kernels import scan
from tokkit.kernels.arrays import Bytes, Int64
from tokkit.kernels.scan import find_documents, first_needed, move_state, new_state

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
        num_too_long: documents above ``--max-document-bytes`` since the last ones, left out.
        scanned_from: where in the buffer the kernel began.
        lines_before: lines of the unit that ended before that.
    """

    stream: ByteStream
    buffer: Bytes
    base: int
    starts: Int64
    stops: Int64
    num_empty: int = 0
    num_too_long: int = 0
    scanned_from: int = 0
    lines_before: int = 0

    def line_number(self, index: int) -> int:
        """Return the number, from 1, of a found line in its file, for an error.

        If the unit begins within the file, everything before it is read again.
        """
        unit = self.stream.unit
        before = self.buffer[self.scanned_from : int(self.starts[index])].tobytes()
        number = unit.lines_before + self.lines_before + count_line_ends(before) + 1
        if unit.start and not unit.source.is_stdin:
            with open_files(unit.source.uri).open(unit.source.path) as file:
                last = b""
                for offset in range(0, unit.start, _READ_BYTES):
                    data = last + file.read(min(_READ_BYTES, unit.start - offset))
                    last = b"\r" if data.endswith(b"\r") else b""
                    number += count_line_ends(data.removesuffix(last))
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


def count_line_ends(data: bytes) -> int:
    """Return how many lines end in some bytes."""
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
    for found in find_in_stream(stream, config, config.documents, batch_bytes):
        clean = clean_texts(
            found.buffer,
            found.starts,
            found.stops,
            config.errors,
            found.invalid_utf8,
            of_text_file=True,
        )
        names = name_documents(name, found.base + found.starts[clean.kept])
        dropped = {EMPTY: found.num_empty, TOO_LONG: found.num_too_long}
        del found  # a file that is one document is in memory once
        yield DocumentBatch(
            clean.texts,
            names,
            dropped=add_counts(clean.dropped, dropped),
            replaced=clean.replaced,
            bytes_read=stream.take_progress(),
            are_lines=config.documents == "line",
        )


def find_in_stream(
    stream: ByteStream, config: CorpusConfig, documents: str, batch_bytes: int
) -> Iterator[FoundDocuments]:
    """Find the documents of a stream of bytes.

    Args:
        stream: of one unit.
        config: the largest document, and what to do about a larger one.
        documents: ``blank-line``, ``line`` or ``file``.
        batch_bytes: size of the buffer, as long as documents are shorter than half of it.

    Raises:
        TokkitError: naming a document that is too long, unless ``--errors skip``.
    """
    if documents == "file":
        yield _take_whole(stream, config, batch_bytes)
        return
    scan = _Scan(stream, config, by_line=documents == "line", batch_bytes=batch_bytes)
    yield from scan.find()
    while not scan.is_final:
        scan.advance()
        yield from scan.find()


class _Scan:
    """The part of a stream that is in memory, and how far it was scanned.

    Args:
        stream: of one unit.
        config: the largest document, and what to do about a larger one.
        by_line: each line is a document.
        batch_bytes: size of the buffer, see ``find_in_stream``.
    """

    def __init__(
        self, stream: ByteStream, config: CorpusConfig, *, by_line: bool, batch_bytes: int
    ) -> None:
        self._stream = stream
        self._config = config
        self._by_line = by_line
        self._batch_bytes = max(batch_bytes, _SMALLEST_BUFFER)
        # One byte more than the unit has, so that the first read shows that nothing follows.
        capacity = self._batch_bytes
        unit = stream.unit
        if unit.stop != TO_THE_END:
            capacity = min(self._batch_bytes, unit.stop - unit.start + 1)
        self._buffer = spare_memory.take(capacity)
        self._starts = np.empty(max(1, self._batch_bytes // _BYTES_PER_DOCUMENT), dtype=np.int64)
        self._stops = np.empty_like(self._starts)
        self._base = unit.start
        self._size = stream.fill(self._buffer.data)
        self._state = new_state(0)
        self._is_cut = False  # whether the buffer begins within a document that is too long

    @property
    def is_final(self) -> bool:
        """Whether the buffer has the end of the unit."""
        return self._size < self._buffer.size

    def find(self) -> Iterator[FoundDocuments]:
        """Find the documents that end in the buffer."""
        limit = self._config.max_document_bytes
        count = self._starts.size
        while count == self._starts.size:
            before = self._state.copy()
            rest = (self.is_final, self._by_line, self._state, self._starts, self._stops)
            count = find_documents(self._buffer, self._size, *rest)
            starts, stops = self._starts[:count], self._stops[:count]
            if self._is_cut and count:
                if starts[0] == 0:
                    starts[0] = stops[0] - limit - 1
                self._is_cut = False
            fits = stops - starts <= limit
            if not fits.all():
                self._allow_too_long(int(starts[fits.argmin()]))
            num_empty = int(self._state[scan.NUM_EMPTY] - before[scan.NUM_EMPTY])
            yield FoundDocuments(
                self._stream,
                self._share_buffer(is_last=self.is_final and count < self._starts.size),
                self._base,
                starts[fits],
                stops[fits],
                num_empty=num_empty if self._by_line else 0,
                num_too_long=count - int(fits.sum()),
                scanned_from=int(before[scan.NEXT]),
                lines_before=int(before[scan.NUM_LINES]),
            )

    def _share_buffer(self, *, is_last: bool) -> Bytes:
        """Return the buffer; the last time, forget it, so that a long document is in memory once."""
        buffer = self._buffer
        if is_last:
            self._buffer, self._size = np.empty(1, np.uint8), 0
        return buffer

    def advance(self) -> None:
        """Move an unfinished document to the front of the buffer, and read on after it."""
        needed = first_needed(self._state)
        self._is_cut &= needed == 0
        if not self._is_cut and self._is_too_long():
            self._allow_too_long(needed)
            self._is_cut = True
        if self._is_cut:
            needed = self._discard_beginning()
        else:
            move_state(self._state, needed)
        size = self._size - needed
        capacity = min(self._buffer.size, max(self._batch_bytes, 2 * size))
        if size > self._buffer.size // 2:
            largest = self._config.max_document_bytes + 2 * self._batch_bytes
            capacity = min(2 * self._buffer.size, max(self._buffer.size, largest))
        self._buffer = _move(self._buffer, needed, size, capacity)
        self._base += needed
        self._size = size + self._stream.fill(self._buffer[size:].data)

    def _is_too_long(self) -> bool:
        """Return whether the unfinished document is too long, whatever follows.

        The white space after it may turn out to separate it from the next, but counts as a part of
        it where keeping it would fill the memory.
        """
        state, limit = self._state, self._config.max_document_bytes
        start = first_needed(state)
        stop = state[scan.NEXT] if state[scan.LINE_HAS_TEXT] else state[scan.DOCUMENT_STOP]
        return stop - start > limit or self._size - start > limit + self._batch_bytes

    def _allow_too_long(self, start: int) -> None:
        """Raise the error for the document at ``start`` in the buffer, unless it may be dropped."""
        if self._config.errors != "skip":
            raise _too_long_error(self._stream, self._base + start, self._config)

    def _discard_beginning(self) -> int:
        """Adjust the state to the loss of all bytes that were read but one; return their number."""
        state = self._state
        is_open = state[scan.DOCUMENT_START] >= 0
        distance = int(state[scan.NEXT]) - 1
        move_state(state, distance)
        state[scan.LINE_START] = max(0, state[scan.LINE_START])
        if is_open:
            state[scan.DOCUMENT_START] = 0
            state[scan.DOCUMENT_STOP] = max(0, state[scan.DOCUMENT_STOP])
        return distance


def _too_long_error(stream: ByteStream, position: int, config: CorpusConfig) -> TokkitError:
    what = "document" if stream.unit.source.format == "text" else "record"
    name = stream.unit.source.name
    return too_long_error(f"{name}: the {what} that begins at byte {position}", config)


def _take_whole(stream: ByteStream, config: CorpusConfig, batch_bytes: int) -> FoundDocuments:
    """Read a stream to its end as one document."""
    unit = stream.unit
    limit = config.max_document_bytes
    capacity = max(batch_bytes, _SMALLEST_BUFFER)
    if unit.stop != TO_THE_END:
        capacity = unit.stop - unit.start + 1
    buffer = np.empty(min(capacity, limit + 1), dtype=np.uint8)
    size = stream.fill(buffer.data)
    while size == buffer.size <= limit:
        buffer = _move(buffer, 0, size, min(2 * size, limit + 1))
        size += stream.fill(buffer[size:].data)
    is_too_long = size > limit
    if is_too_long and config.errors != "skip":
        raise _too_long_error(stream, unit.start, config)
    while size == buffer.size:  # the digest needs the rest of what is dropped
        size = stream.fill(buffer.data)
    bounds = np.array([0, size], dtype=np.int64)
    count = int(size > 0 and not is_too_long)
    return FoundDocuments(
        stream,
        buffer,
        unit.start,
        bounds[:count],
        bounds[1 : 1 + count],
        num_too_long=int(is_too_long),
    )


def _move(buffer: Bytes, start: int, size: int, capacity: int) -> Bytes:
    """Move ``size`` bytes from ``start`` to the front of a buffer of this capacity."""
    moved = buffer if capacity == buffer.size else np.empty(capacity, dtype=np.uint8)
    moved[:size] = buffer[start : start + size]
    return moved
