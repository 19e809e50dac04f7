"""Makes the n-th call fail that changes a folder: creating, writing, syncing or renaming a file.

A disk that is full, or fails, does so anywhere. Here all calls of Python that change what is in a
folder are counted, and from a number on they raise an ``OSError``: all of them, as a disk that is
full, or only that one, as a disk that fails now and then. A write that fails has written a part.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

_CREATES = os.O_CREAT | os.O_TRUNC


class FailingDisk:
    """Counts the calls that change a folder, and lets some of them fail.

    Args:
        folder: calls elsewhere are not counted.
        first: number of the first call that fails, from 1; 0 for none.
        lasting: whether all later calls fail, too, with ENOSPC; else it is only one, with EIO.
    """

    def __init__(self, folder: Path, first: int, *, lasting: bool) -> None:
        self.folder = os.path.realpath(folder)
        self.first = first
        self.lasting = lasting
        self.count = 0

    def check(self, path: Any) -> bool:
        """Count a call for a path or a descriptor, and return whether it fails."""
        found = os.path.realpath(f"/proc/self/fd/{path}" if isinstance(path, int) else path)
        if found != self.folder and not found.startswith(f"{self.folder}/"):
            return False
        self.count += 1
        return self.count == self.first or (self.lasting and 0 < self.first < self.count)

    def error(self) -> OSError:
        """Return what the system would say."""
        number = errno.ENOSPC if self.lasting else errno.EIO
        return OSError(number, os.strerror(number))

    def install(self) -> None:
        """Replace the calls of this process, for good."""
        for name, place in (
            ("fsync", 0),
            ("rename", 1),
            ("replace", 1),
            ("mkdir", 0),
            ("write", 0),
            ("ftruncate", 0),
        ):
            setattr(os, name, self._wrap(getattr(os, name), place))
        os.open = self._wrap(os.open, 0, lambda _, flags, *__, **___: bool(flags & _CREATES))
        io.open = builtins.open = self._open

    def _wrap(
        self, call: Callable[..., Any], place: int, counts: Callable[..., bool] | None = None
    ) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            counted = counts is None or counts(*arguments, **options)
            if counted and self.check(arguments[place]):
                raise self.error()
            return call(*arguments, **options)

        return wrapped

    def _open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if not {*mode} & {*"wax+"} or isinstance(file, int):
            return _OPEN(file, mode, *arguments, **options)
        if self.check(file):
            raise self.error()
        raw = _FailingFile(self, file, mode.replace("b", "").replace("t", ""))
        if 0 in (options.get("buffering"), *arguments[:1]):
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        names = ("buffering", "encoding", "errors", "newline")
        options |= dict(zip(names, arguments, strict=False))
        options.pop("buffering", None)
        return io.TextIOWrapper(buffered, **options)


_OPEN = io.open


class _FailingFile(io.FileIO):
    """A file whose writes are counted."""

    def __init__(self, disk: FailingDisk, path: Any, mode: str) -> None:
        self._disk = disk
        self._path = path
        super().__init__(path, mode)

    def write(self, data: Any) -> int:
        """Write all of the data; if the call fails, half of it."""
        if self._disk.check(self._path):
            super().write(memoryview(data).cast("B")[: len(data) // 2])
            raise self._disk.error()
        return super().write(data) or 0
