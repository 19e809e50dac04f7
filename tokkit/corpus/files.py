"""Files, wherever they lie: under a local path, or behind an URI.

Both kinds answer the same three questions: what is at this path, what does this folder hold, and
what are this file's bytes. Folders are entered by name, so that whoever walks them decides
about hidden files and links.
"""

import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.fs

from tokkit.errors import TokkitError, wrap_os_errors

_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Entry:
    """What is at a path; links are followed.

    Attributes:
        path: as its file system takes it.
        is_folder: whether it holds others.
        is_file: whether it holds bytes; a pipe, a socket or a device is neither.
        bytes: its size.
        mtime_ns: when it was last written, in nanoseconds; 0 where the file system does not say.
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


class Files(Protocol):
    """A file system, as far as reading needs one."""

    def find(self, path: str) -> Entry | None:
        """What is at ``path``, or None."""

    def children(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """What a folder holds under a name that is ``wanted``, in no order."""

    def resolve(self, folder: str) -> str:
        """The folder's true path: two paths of one folder, through links, have one."""

    def open(self, path: str) -> Any:
        """The file's bytes, as a ``pyarrow.NativeFile`` that can seek."""


class LocalFiles:
    """The files of this machine."""

    def find(self, path: str) -> Entry | None:
        """What is at ``path``, or None."""
        with wrap_os_errors(printable(path)):
            try:
                status = os.stat(path)  # noqa: PTH116  paths stay the strings that users gave
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _local_entry(path, status)

    def children(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """What a folder holds under a name that is ``wanted``, in no order."""
        with wrap_os_errors(printable(folder or ".")), os.scandir(folder or ".") as entries:
            names = [entry.name for entry in entries if wanted(entry.name)]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118  likewise
            with wrap_os_errors(printable(path)):
                yield _local_entry(path, os.stat(path))  # noqa: PTH116  likewise

    def resolve(self, folder: str) -> str:
        """The folder's true path."""
        return os.path.realpath(folder)

    def open(self, path: str) -> Any:
        """The file's bytes."""
        with wrap_os_errors(printable(path)):
            return pa.OSFile(os.fsencode(path))


class RemoteFiles:
    """The files behind an URI such as ``s3://bucket/folder``.

    Raises:
        TokkitError: where pyarrow knows no such file system.
    """

    def __init__(self, uri: str) -> None:
        self.name = printable(_without_secrets(uri))
        try:
            self._system, self.path = pyarrow.fs.FileSystem.from_uri(uri)
        except (pa.ArrowException, OSError, ValueError, ImportError) as error:
            reason = first_line(error).replace(uri, self.name)
            raise TokkitError(
                f"{self.name}: this URI cannot be read ({reason}); "
                f"known are file://, s3://, gs://, abfs:// and hdfs://"
            ) from error

    def find(self, path: str) -> Entry | None:
        """What is at ``path``, or None."""
        with self._errors_told():
            entry = _remote_entry(self._system.get_file_info(path))
        return entry if entry.is_file or entry.is_folder else None

    def children(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """What a folder holds under a name that is ``wanted``, in no order."""
        with self._errors_told():
            infos = self._system.get_file_info(pyarrow.fs.FileSelector(folder))
        entries = map(_remote_entry, infos)
        return (entry for entry in entries if wanted(entry.name))

    def resolve(self, folder: str) -> str:
        """The folder's path, which is its only one."""
        return folder

    def open(self, path: str) -> Any:
        """The file's bytes."""
        with self._errors_told():
            return self._system.open_input_file(path)

    @contextmanager
    def _errors_told(self) -> Iterator[None]:
        """Turn what the file system says into an error that names the URI."""
        try:
            yield
        except (OSError, pa.ArrowException) as error:
            raise TokkitError(
                f"{self.name}: cannot be read ({first_line(error)}); "
                f"check the name, the network, and who may read it"
            ) from error


@lru_cache(maxsize=8)
def open_files(uri: str | None) -> Files:
    """The file system behind an URI; this machine's for None."""
    return LocalFiles() if uri is None else RemoteFiles(uri)


def is_uri(text: str) -> bool:
    """Whether an input reads as an URI."""
    return _URI.match(text) is not None


def _without_secrets(uri: str) -> str:
    """The URI without its user, password and options: what may be written into a manifest."""
    return re.sub(r"(?<=://)[^/@]*@", "", uri.split("?", 1)[0])


def printable(path: str) -> str:
    r"""The path in valid UTF-8 on one line: ``caf\xe9`` in Latin-1 is told as ``caf\udce9``."""
    if path.isprintable():
        return path
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in path
    )


def changed(name: str) -> TokkitError:
    """The error of a file that is no longer what it was when the work was planned."""
    return TokkitError(
        f"{name}: changed while it was read; run the same command again when nothing writes to it"
    )


def first_line(error: BaseException) -> str:
    """What an error says, without the lines that pyarrow adds for its own developers."""
    return str(error).strip().split("\n", 1)[0].rstrip(".")


def _local_entry(path: str, status: os.stat_result) -> Entry:
    """Tell what the operating system tells."""
    return Entry(
        path,
        stat.S_ISDIR(status.st_mode),
        stat.S_ISREG(status.st_mode),
        status.st_size,
        status.st_mtime_ns,
    )


def _remote_entry(info: Any) -> Entry:
    """Tell what pyarrow tells."""
    return Entry(
        info.path,
        info.type == pyarrow.fs.FileType.Directory,
        info.type == pyarrow.fs.FileType.File,
        info.size or 0,
        info.mtime_ns or 0,
    )
