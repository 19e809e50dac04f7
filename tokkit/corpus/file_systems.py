"""File systems that corpora are read from: this machine's, or that behind a URI.

Both answer the same questions: what is at this path, what does this folder hold, which folder is
it really, and what are this file's bytes. A folder lists only the names that its caller wants, so
that callers decide about hidden files.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.fs

from tokkit.errors import TokkitError, wrap_os_errors

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Entry:
    """What is at a path, links followed.

    Attributes:
        path: as its file system accepts it.
        is_folder: whether it is a folder.
        is_file: whether it holds bytes; a pipe, a socket or a device is neither.
        bytes: its size.
        mtime_ns: modification time in nanoseconds; 0 if the file system does not report it.
    """

    path: str
    is_folder: bool
    is_file: bool
    bytes: int
    mtime_ns: int

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rsplit("/", 1)[-1]


class LocalFiles:
    """The file system of this machine. Paths stay the strings that users gave."""

    def find(self, path: str) -> Entry | None:
        """Return what is at ``path``, or None."""
        with wrap_os_errors(printable(path)):
            try:
                status = os.stat(path)  # noqa: PTH116  a path stays the string that it is
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Entry(
            path,
            stat.S_ISDIR(status.st_mode),
            stat.S_ISREG(status.st_mode),
            status.st_size,
            status.st_mtime_ns,
        )

    def children(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """Yield what a folder holds under a name that is ``wanted``, in any order."""
        with wrap_os_errors(printable(folder or ".")), os.scandir(folder or ".") as entries:
            names = [entry.name for entry in entries if wanted(entry.name)]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118  a path stays the string that it is
            entry = self.find(path)
            if entry is None:
                raise TokkitError(f"{printable(path)}: no such file or folder")
            yield entry

    def resolve(self, folder: str) -> str:
        """Return the folder's real path, which is the same through every link to it."""
        return os.path.realpath(folder)

    def open(self, path: str) -> Any:
        """Open a file as a ``pyarrow.NativeFile``, which can seek."""
        with wrap_os_errors(printable(path)):
            return pa.OSFile(os.fsencode(path))


class RemoteFiles:
    """The file system behind a URI such as ``s3://bucket/folder``.

    Attributes:
        name: the URI without secrets.
        path: of the URI, within the file system.

    Raises:
        TokkitError: if pyarrow has no such file system.
    """

    def __init__(self, uri: str) -> None:
        # Without user, password and options: this may be written into a manifest.
        self.name = printable(re.sub(r"(?<=://)[^/@]*@", "", uri.split("?", 1)[0]))
        try:
            self._system, self.path = pyarrow.fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            reason = first_line(error).replace(uri, self.name)
            raise TokkitError(
                f"{self.name}: cannot read this URI ({reason}); "
                f"use file://, s3://, gs://, abfs:// or hdfs://"
            ) from error

    def find(self, path: str) -> Entry | None:
        """Return what is at ``path``, or None."""
        with self._wrap_errors():
            entry = _remote_entry(self._system.get_file_info(path))
        return entry if entry.is_file or entry.is_folder else None

    def children(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """Yield what a folder holds under a name that is ``wanted``, in any order."""
        with self._wrap_errors():
            infos = self._system.get_file_info(pyarrow.fs.FileSelector(folder))
        return (entry for entry in map(_remote_entry, infos) if wanted(entry.name))

    def resolve(self, folder: str) -> str:
        """Return the folder's path, which is its only one."""
        return folder

    def open(self, path: str) -> Any:
        """Open a file as a ``pyarrow.NativeFile``, which can seek."""
        with self._wrap_errors():
            return self._system.open_input_file(path)

    @contextmanager
    def _wrap_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise TokkitError(
                f"{self.name}: cannot be read ({first_line(error)}); "
                f"check the name, the network and the permissions"
            ) from error


Files = LocalFiles | RemoteFiles


@lru_cache(maxsize=8)
def open_files(uri: str | None) -> Files:
    """Return the file system behind a URI, or this machine's for None."""
    return LocalFiles() if uri is None else RemoteFiles(uri)


def is_uri(text: str) -> bool:
    """Whether an input looks like a URI."""
    return _URI.match(text) is not None


def printable(path: str) -> str:
    r"""Return a path as valid UTF-8 on one line: ``caf\xe9`` in Latin-1 becomes ``caf\udce9``."""
    if path.isprintable():
        return path
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in path
    )


def changed_error(name: str) -> TokkitError:
    """Return the error for a file that has changed since the work was planned."""
    return TokkitError(
        f"{name}: changed while it was read; run the same command again when nothing writes to it"
    )


def first_line(error: BaseException) -> str:
    """Return an error's message without the lines that pyarrow adds for its own developers."""
    return str(error).strip().split("\n", 1)[0].rstrip(".")


def _remote_entry(info: Any) -> Entry:
    return Entry(
        info.path,
        info.type == pyarrow.fs.FileType.Directory,
        info.type == pyarrow.fs.FileType.File,
        info.size or 0,
        info.mtime_ns or 0,
    )
