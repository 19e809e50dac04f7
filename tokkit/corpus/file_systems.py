"""File systems that corpora are read from: this machine's, or that behind a URI.

Both answer the same questions: what is at this path, what does this folder hold, which folder is
it really, and what are this file's bytes. A folder lists only the names that its caller wants, so
that callers decide about hidden files.

    s3://, gs://, abfs://, hdfs://, file://    pyarrow
    hf://                                      huggingface_hub
    https:// and others                        fsspec, if the package that it needs is installed

Credentials come from the environment. A file of the Hub is read at the commit that its revision had
when the work was planned; of any other, size and modification time must stay the same.
"""

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa

from tokkit.errors import TokkitError, wrap_os_errors

if TYPE_CHECKING:
    from tokkit.corpus.remote_files import RemoteFiles

_LONGEST_NAMES = 300
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Entry:
    """What is at a path, links followed.

    Attributes:
        path: as its file system accepts it.
        is_folder: whether it is a folder.
        is_file: whether it holds bytes; a pipe, a socket or a device is neither.
        bytes: its size.
        mtime_ns: modification time in nanoseconds, or a number that stands for the version; 0 if
            the file system reports neither.
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

    def name(self, path: str) -> str:
        """Return the name of a path in errors and manifests."""
        return printable(path)

    def find(self, path: str) -> Entry | None:
        """Return what is at ``path``, or None."""
        with wrap_os_errors(printable(path)):
            try:
                status = os.stat(path)  # noqa: PTH116  a path stays the string that it is
            except (FileNotFoundError, NotADirectoryError):
                if os.path.islink(path):  # noqa: PTH114  a path stays the string that it is
                    raise TokkitError(
                        f"{printable(path)}: a link to {printable(os.readlink(path))}, which does "  # noqa: PTH115
                        f"not exist; restore the file, or remove the link"
                    ) from None
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

    def list_below(self, folder: str) -> None:
        """Do nothing: here, each folder is listed when it is looked into."""

    def resolve(self, folder: str) -> str:
        """Return the folder's real path, which is the same through every link to it."""
        return os.path.realpath(folder)

    def open(self, path: str, _buffer_bytes: int = 0) -> Any:
        """Open a file as a ``pyarrow.NativeFile``, which can seek."""
        with wrap_os_errors(printable(path)):
            return pa.OSFile(os.fsencode(path))

    def open_head(self, entry: Entry, _num_bytes: int) -> Any:
        """Open a file of which only the first bytes are read."""
        return self.open(entry.path)


Files: TypeAlias = "LocalFiles | RemoteFiles"


@lru_cache(maxsize=8)
def open_files(uri: str | None) -> Files:
    """Return the file system behind a URI, or this machine's for None."""
    if uri is None:
        return LocalFiles()
    from tokkit.corpus.remote_files import RemoteFiles  # imports pyarrow.fs, which takes 15 ms

    return RemoteFiles(uri)


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


def join_names(names: Iterable[str], most: int | None = None) -> str:
    """Return names of columns or fields for a message: at most so many, and 300 characters of them."""
    shown = [*islice(names, most and most + 1)]
    text = printable(", ".join(shown[:most]))
    is_cut = len(text) > _LONGEST_NAMES or len(shown) > len(shown[:most])
    return text[:_LONGEST_NAMES] + "…" * is_cut


def changed_error(name: str) -> TokkitError:
    """Return the error for a file that has changed since the work was planned."""
    return TokkitError(
        f"{name}: changed while it was read; when nothing writes to it any more, run the same command "
        f"again, with --overwrite if the folder is refused then"
    )


def first_line(error: BaseException) -> str:
    """Return an error's message without the lines that pyarrow adds for its own developers."""
    return str(error).strip().split("\n", 1)[0].rstrip(".")
