"""Files that are either complete or absent, and their hashes.

A file is written under a temporary name, synced, renamed, and its folder synced: after a crash at
any moment the name has the old content or the new one, never a part. The content is hashed while it
is written, so that nothing is read again for its SHA-256. A file of a folder on an object store goes
up in place of the syncing; see ``tokkit.engine.mirrors``.

Several processes, on several machines, may write the same file at once, so each writes a draft of its own:

    shard-0000003.arrow.5d1f0c3a-4711-9e0c1d2e.tmp    machine, process, a random number

A draft that a killed process left is deleted by another process of the same machine, which sees that
its writer is gone, or by any after a day.
"""

import errno
import hashlib
import os
import platform
import re
import secrets
import shutil
import stat
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from tokkit.engine.mirrors import (
    clear_store,
    drop,
    find_listing,
    find_size,
    is_stored,
    push,
    read_listed,
)
from tokkit.engine.object_store import read_object
from tokkit.engine.requests import map_in_threads
from tokkit.errors import TokkitError, describe_os_error, wrap_os_errors

MAX_BYTES = 1 << 30  # of a manifest, of millions of shards, and of any other file read as a whole
_PART_BYTES = 1 << 20

# Age at which a draft of another machine is taken for abandoned.
LEASE_SECONDS = 24 * 3600
_DRAFT = re.compile(r".*\.(?P<machine>[0-9a-f]{8})-(?P<process>\d+)-[0-9a-f]{8}\.tmp", re.DOTALL)
# What file systems say that have no hard links.
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


@cache
def _identify_machine() -> str:
    """Return what tells whether two process ids are of the same system: machine, boot, container."""
    parts = [platform.node()]
    with suppress(OSError):  # Linux has these
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text())
        parts.append(str(Path("/proc/self/ns/pid").stat().st_ino))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]


def draft_path(path: Path) -> Path:
    """Return a new name for a draft of a file, which no other process uses."""
    token = f"{_identify_machine()}-{os.getpid()}-{secrets.token_hex(4)}"
    return path.with_name(f"{path.name}.{token}.tmp")


def remove_drafts(folder: Path) -> None:
    """Delete the drafts in a folder that this process or one that was killed left."""
    for path in folder.rglob("*.tmp"):
        with suppress(OSError):
            if _is_abandoned(path):
                path.unlink()


def _is_abandoned(path: Path) -> bool:
    """Return whether nobody writes a draft any more, except this process."""
    draft = _DRAFT.fullmatch(path.name)
    if draft is None or draft["machine"] != _identify_machine():
        return time.time() - path.stat().st_mtime > LEASE_SECONDS
    process = int(draft["process"])
    return process == os.getpid() or not _is_running(process)


def _is_running(process: int) -> bool:
    """Return whether a process of this machine has not ended; zombies have."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # it is another user's
        return True
    try:
        return Path(f"/proc/{process}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:  # it ended just now, or this is no Linux
        return sys.platform != "linux"


class HashedFile:
    """A file open for writing that knows the SHA-256 and the size of what was written.

    It has what pyarrow and ``json`` need of a binary file; it cannot seek.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.size = 0

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of all bytes so far."""
        return self._sha256.hexdigest()

    def write(self, data: Any) -> int:
        """Write bytes or anything with a contiguous buffer, and return the number of bytes."""
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        self._file.write(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Return the number of bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Pass buffered bytes to the operating system."""
        self._file.flush()

    def writable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return False."""
        return False

    def seekable(self) -> bool:
        """Return False."""
        return False


class PendingFile:
    """A file being written under a temporary name, until ``commit`` or ``discard``.

    As a context manager it discards the file after an exception, and leaves it pending otherwise.

    Args:
        path: final name of the file; its folder must exist.

    Attributes:
        sink: the file to write to.

    Raises:
        TokkitError: if it is a device, a pipe or a link to nothing.
    """

    def __init__(self, path: Path) -> None:
        if path.is_char_device() or path.is_block_device() or path.is_fifo() or path.is_socket():
            raise TokkitError(
                f"{path}: not a regular file, so it is not overwritten; choose another path"
            )
        if path.is_symlink() and not path.exists():
            raise TokkitError(f"{path}: {describe_os_error(FileExistsError(errno.EEXIST, ''))}")
        self.path = path
        self._temporary = draft_path(path)
        with wrap_os_errors(path):
            if is_stored(path):  # the machine may be another one than that which made the folder
                path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._temporary.open("wb")
        self.sink = HashedFile(cast("BinaryIO", self._file))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            self.discard()
        if isinstance(error, OSError):
            raise TokkitError(f"{self.path}: {describe_os_error(error)}") from error

    def commit(self, *, only_new: bool = False) -> None:
        """Sync or upload the file and give it its name; may be called in another thread.

        Args:
            only_new: leave a file that has the name already, and discard this one.

        Raises:
            TokkitError: if the operating system refuses, as on a full disk; the file is discarded.
        """
        with self:
            with self._file as file:
                file.flush()
                if not is_stored(self.path):
                    os.fsync(file.fileno())
            if is_stored(self.path):
                push(self._temporary, self.path, only_new=only_new)
                return
            if not only_new:
                self._temporary.replace(self.path)
            else:
                self._link()
            sync_folder(self.path.parent)

    def _link(self) -> None:
        """Give the file its name unless another one has it."""
        try:
            self.path.hardlink_to(self._temporary)
        except FileExistsError:
            pass
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if not self.path.exists():
                self._temporary.replace(self.path)
        self._temporary.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete the file."""
        with suppress(OSError):  # closing writes what is buffered
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


@contextmanager
def write_atomically(path: Path, *, only_new: bool = False) -> Iterator[HashedFile]:
    """Write ``path`` so that it appears complete or not at all.

    Args:
        path: final name of the file; its folder must exist.
        only_new: leave a file that is there already, also one that appears while this one is written.

    Yields:
        The file to write to. When the block ends without an exception the file is synced and
        gets its name; after an exception it is deleted.

    Raises:
        TokkitError: if the operating system refuses, as on a full disk.
    """
    with PendingFile(path) as file:
        yield file.sink
    file.commit(only_new=only_new)


def follow_link(path: Path) -> Path:
    """Return the file that a sound link leads to, so that it is written and the link stays."""
    return path.resolve() if path.is_symlink() and path.exists() else path


@contextmanager
def write_folder_atomically(folder: Path) -> Iterator[Path]:
    """Write a folder of files so that it appears complete or not at all.

    Args:
        folder: final name; a folder of that name is replaced.

    Yields:
        A temporary folder to write into; its files need not be synced. When the block ends without
        an exception they are synced and the folder takes its name; otherwise it is removed.

    Raises:
        OSError: if writing fails, as on a full disk.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        _remove_folder(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        _remove_folder(folder)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove_folder(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def remove_folder(folder: Path) -> None:
    """Delete a folder, as far as the operating system lets it."""
    if is_stored(folder):
        clear_store(folder)
    shutil.rmtree(folder, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_whole(path: Path, max_bytes: int = MAX_BYTES) -> bytes:
    """Return the content of a file, which may be a device that never ends.

    Raises:
        TokkitError: it has more than ``max_bytes``, or cannot be read.
    """
    with wrap_os_errors(path), path.open("rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        content = bytearray()
        while status.st_size <= max_bytes and len(content) <= max_bytes:
            part = file.read(_PART_BYTES)
            content += part
            if not part:
                return bytes(content)
    raise TokkitError(
        f"{path}: more than {max_bytes:,} bytes, which no such file has; name another, or restore it"
    )


def read_file(path: Path) -> bytes | None:
    """Return the content of a small file; None if it is missing."""
    if is_stored(path):
        found = read_object(path)
        return found and found[0]
    with wrap_os_errors(path):
        return read_whole(path) if path.is_file() else None


def read_files(
    folder: Path, names: Iterable[str] | None = None
) -> Iterable[tuple[str, bytes | None]]:
    """Yield names and contents of small files of a folder.

    Args:
        folder: the folder.
        names: those of a few, or None for all, which is quicker than to ask for each.
    """
    if names is None and is_stored(folder):
        return read_listed(folder)
    names = [*(list_names(folder) if names is None else names)]
    paths = (folder / name for name in names)
    contents = map_in_threads(read_file, paths) if is_stored(folder) else map(read_file, paths)
    return zip(names, contents, strict=True)


def list_names(folder: Path) -> list[str]:
    """Return the names in a folder; none if it is missing."""
    if is_stored(folder):
        return [*{name.split("/", 1)[0]: None for name in find_listing(folder)}]
    with wrap_os_errors(folder):
        return os.listdir(folder) if folder.is_dir() else []  # noqa: PTH208  100,000 of them


def remove_file(path: Path) -> None:
    """Delete a file, unless it is missing."""
    if is_stored(path):
        drop([path])
    path.unlink(missing_ok=True)


def measure_file(path: str | Path) -> int | None:
    """Return the size of a file in bytes; None if it is missing."""
    if is_stored(path):
        return find_size(path)
    try:
        found = os.stat(path)  # noqa: PTH116  no path is made for each of 100,000
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal.

    Raises:
        TokkitError: it cannot be read, or is no file, which may never end.
    """
    with wrap_os_errors(path):
        path.stat()  # raises if it is missing
        if not path.is_file():
            raise TokkitError(f"{path}: is not a regular file; restore the file")
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
