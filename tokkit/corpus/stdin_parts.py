r"""Standard input as work units: cut at document boundaries while it is read.

The length of standard input is not known before its end, so it is cut by bytes alone: a part ends at
the first document boundary from ``unit_bytes`` on. A thread of the process that planned the work reads and
decompresses, at most two parts ahead, and shares each part with a worker. A part is identified by the
SHA-256 of all bytes up to its end: if a run was stopped and gets the same bytes again, parts that are
done are skipped.

A boundary is what it is for files; see ``tokkit.corpus.units``.
"""

import fcntl
import hashlib
import os
import queue
import sys
import threading
from contextlib import suppress
from dataclasses import replace
from io import BytesIO

import numpy as np

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.sources import TO_THE_END, Source
from tokkit.corpus.streams import SharedMemory, open_stdin
from tokkit.corpus.text import count_line_ends
from tokkit.corpus.units import CorpusUnit, find_boundary_pattern, trailing_line_end
from tokkit.engine.unit import Unit
from tokkit.errors import TokkitError

_READ_BYTES = 1 << 20


class StdinParts:
    """The parts of standard input, as units whose payload is a ``Group`` with their bytes.

    Args:
        source: standard input.
        config: where documents end, and the size of the largest.
        unit_bytes: about how many bytes a part has.
        shard: name of a part's file, with a place for its number.
        number: that of the first part.

    Attributes:
        ended: whether all parts were returned.
    """

    def __init__(
        self, source: Source, config: CorpusConfig, unit_bytes: int, shard: str, number: int
    ) -> None:
        self.ended = False
        self._thread: threading.Thread | None = None
        self._found: queue.Queue[tuple[list[Unit], BaseException | None]] = queue.Queue(1)
        self._is_final = False
        self._source = source
        self._unit_bytes = unit_bytes
        boundary = find_boundary_pattern(source, config)
        assert boundary is not None  # noqa: S101  or it is one unit
        self._boundary = boundary
        self._shard = shard
        self._number = number
        self._max_document_bytes = config.max_document_bytes
        self._digest = hashlib.sha256()
        self._num_hashed = 0
        self._memory = SharedMemory()
        unit = CorpusUnit(source, 0, TO_THE_END, 0)
        self._stream = open_stdin(unit, None, BytesIO(source.head))
        self._buffer = np.empty(unit_bytes + _READ_BYTES, np.uint8)
        self._filled = 0
        self._searched = unit_bytes - 1
        self._start = self._num_lines = 0
        with suppress(OSError, AttributeError):  # a pipe, on Linux: fewer and larger reads
            fcntl.fcntl(sys.stdin.fileno(), fcntl.F_SETPIPE_SZ, _READ_BYTES)

    def fileno(self) -> int:
        """Return the descriptor to wait for, after which ``read`` returns at once."""
        self._start_thread()
        return self._wake_reader

    def read(self) -> list[Unit]:
        """Return the next part, or several small ones, when it was read; none at the end.

        Raises:
            TokkitError: if no document ends where the largest one would.
        """
        self._start_thread()
        assert self._thread is not None  # noqa: S101  it was started
        parts, error = self._found.get()
        os.read(self._wake_reader, 1)
        if error is not None:
            raise error
        self.ended = not parts
        if self.ended:  # processes with threads cannot be copied
            self._thread.join()
            os.close(self._wake_reader)
            os.close(self._wake_writer)
        return parts

    def _start_thread(self) -> None:
        """Start to read, which a process that is copied must not do before."""
        if self._thread is None:
            self._wake_reader, self._wake_writer = os.pipe()
            self._thread = threading.Thread(target=self._read_all, daemon=True, name="stdin")
            self._thread.start()

    def _read_all(self) -> None:
        """Hand over all parts, and at the end none; or an error."""
        error: BaseException | None = None
        try:
            while not self._is_final:
                if parts := self._read_once():
                    self._hand_over(parts)
        except BaseException as caught:  # noqa: BLE001  the other thread raises it
            error = caught
        self._hand_over([], error)

    def _hand_over(self, parts: list[Unit], error: BaseException | None = None) -> None:
        self._found.put((parts, error))
        os.write(self._wake_writer, b"1")

    def _read_once(self) -> list[Unit]:
        """Read what is there, and return the parts that end in it."""
        if self._filled > self._unit_bytes + self._max_document_bytes:
            raise TokkitError(
                f"{self._source.name}: the document at byte {self._start + self._unit_bytes} has more "
                f"than {self._max_document_bytes:,} bytes; raise --max-document-bytes, or write the "
                f"text to a file, from which --errors skip drops such documents"
            )
        if self._filled == len(self._buffer):
            larger = np.empty(2 * self._filled, np.uint8)
            larger[: self._filled] = self._buffer
            self._buffer = larger
        stop = self._filled + _READ_BYTES
        num_read = self._stream.read_once(self._buffer[self._filled : stop].data)
        self._filled += num_read
        self._is_final = not num_read
        # No part ends before, so that little is left to hash at its end, when the other process waits.
        num_sure = min(self._filled, self._unit_bytes)
        if num_sure - self._num_hashed >= _READ_BYTES:
            self._digest.update(self._buffer[self._num_hashed : num_sure].data)
            self._num_hashed = num_sure
        parts = []
        while cut := self._find_cut():
            parts.append(self._take(cut))
        return parts

    def _find_cut(self) -> int:
        """Return where the first part in the buffer ends; 0 if the bytes that tell are missing."""
        if self._filled > self._searched:
            view = self._buffer[: self._filled].data
            match = self._boundary.search(view, self._searched)
            if match and (self._is_final or match.end() < self._filled):
                return match.end()
            rest = view[self._searched :].tobytes()
            self._searched = match.start() if match else self._searched + trailing_line_end(rest)
        return self._filled if self._is_final else 0

    def _take(self, num_bytes: int) -> Unit:
        """Return the part that has the first bytes of the buffer."""
        data = self._buffer[:num_bytes].data
        self._digest.update(data[self._num_hashed :])
        self._num_hashed = 0
        content, num_lines = self._memory.share(data), self._num_lines
        if self._source.format != "text":  # errors name lines
            self._num_lines += count_line_ends(data.tobytes())
        rest = self._buffer[num_bytes : self._filled].copy()
        self._buffer[: len(rest)] = rest
        self._filled = len(rest)
        self._searched = self._unit_bytes - 1
        start, self._start = self._start, self._start + num_bytes
        is_all = self._is_final and not start and not self._filled
        part = CorpusUnit(
            replace(
                self._source,
                bytes=num_bytes if is_all else 0,
                type=replace(self._source.type, compression=None),
                head=b"",
            ),
            start,
            start + num_bytes,
            num_bytes,
            num_lines,
            content,
        )
        self._number += 1
        sha256 = self._digest.hexdigest()
        return Unit(
            name=part.name,
            shard=self._shard.format(self._number - 1),
            identity={**part.identity, "sha256": sha256},
            stamp=0,
            size=num_bytes,
            payload=(part,),
            input_sha256=(sha256,),
        )
