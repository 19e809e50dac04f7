"""Files that are either whole or not there, and folders that one process writes at a time.

A file is written under a temporary name, synced, renamed, and the folder synced: after a crash
at any moment the name holds the old content or the new, never a part. The content is hashed on
its way, so that nothing is read twice for its SHA-256.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from tokkit.errors import TokkitError, wrap_os_errors

STATE_FOLDER = ".tokkit"


class HashedFile:
    """A file open for writing that knows the SHA-256 and the size of what went through.

    It has what pyarrow and ``json`` ask of a binary file; it cannot seek.
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
        """Write bytes or anything with a contiguous buffer; returns how many."""
        view = memoryview(data).cast("B")
        self._sha256.update(view)
        self._file.write(view)
        self.size += view.nbytes
        return view.nbytes

    def tell(self) -> int:
        """Bytes written so far."""
        return self.size

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        self._file.flush()

    def writable(self) -> bool:
        """Yes."""
        return True

    def readable(self) -> bool:
        """No."""
        return False

    def seekable(self) -> bool:
        """No."""
        return False


class Draft:
    """A file being written under a temporary name; it appears whole, or not at all.

    Args:
        path: the file's final name; its folder must exist.

    Attributes:
        sink: the file to write to.

    Either ``keep`` or ``discard`` ends it, in any thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
        with wrap_os_errors(path):
            self._file = self._temporary.open("wb")
        self.sink = HashedFile(cast("BinaryIO", self._file))

    def keep(self) -> None:
        """Sync the file, and give it its name; where that fails nothing is left of it.

        Raises:
            TokkitError: where the operating system refuses, as on a full disk.
        """
        with wrap_os_errors(self.path):
            try:
                with self._file as file:
                    file.flush()
                    os.fsync(file.fileno())
                self._temporary.replace(self.path)
                sync_folder(self.path.parent)
            except BaseException:
                self.discard()
                raise

    def discard(self) -> None:
        """Leave nothing of it."""
        with suppress(OSError):  # closing writes what is buffered
            self._file.close()
        with suppress(OSError):
            self._temporary.unlink()


@contextmanager
def draft_for(path: Path) -> Iterator[Draft]:
    """Write a file whose name somebody else gives it: by ``Draft.keep``.

    Args:
        path: the file's final name; its folder must exist.

    Yields:
        The draft. After an exception in the block nothing is left of it.

    Raises:
        TokkitError: where the operating system refuses, as on a full disk.
    """
    draft = Draft(path)
    with wrap_os_errors(path):
        try:
            yield draft
        except BaseException:
            draft.discard()
            raise


@contextmanager
def write_atomically(path: Path) -> Iterator[HashedFile]:
    """Write ``path`` so that it appears whole or not at all.

    Args:
        path: the file's final name; its folder must exist.

    Yields:
        The file to write to. When the block ends without an exception the file is synced and
        takes its name; after an exception nothing is left of it.

    Raises:
        TokkitError: where the operating system refuses, as on a full disk.
    """
    with draft_for(path) as draft:
        yield draft.sink
    draft.keep()


def sync_folder(folder: Path) -> None:
    """Make renames inside ``folder`` survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def canonical_json(form: Any) -> bytes:
    """The one spelling of a JSON value that keys and fingerprints are made of."""
    return json.dumps(form, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def write_json(path: Path, form: Any) -> None:
    """Write a JSON file that people may read, atomically."""
    text = json.dumps(form, indent=2, ensure_ascii=False) + "\n"
    with write_atomically(path) as file:
        file.write(text.encode())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        TokkitError: where it cannot be read or is not JSON.
    """
    with wrap_os_errors(path):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except ValueError as error:
        raise TokkitError(f"{path}: not valid JSON ({error}); it must be made again") from error


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with wrap_os_errors(path), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FolderLock:
    """Lets one process at a time write a folder, which is made if it is not there.

    The lock is the operating system's (``flock``), so it ends with its holder however that ends;
    the file also names the holder's process id, for the one who is refused.

    Raises:
        TokkitError: where another process holds the folder, or it cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __enter__(self) -> Self:
        state = self.folder / STATE_FOLDER
        with wrap_os_errors(self.folder):
            state.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(state / "lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.read(self._descriptor, 32).decode(errors="replace").strip()
                os.close(self._descriptor)
                raise TokkitError(
                    f"{self.folder}: process {holder or 'unknown'} is writing this folder; "
                    f"wait for it, or choose another folder"
                ) from None
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, f"{os.getpid()}\n".encode())
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._descriptor)


def is_being_written(folder: Path) -> bool:
    """Whether a process holds the folder's lock. Asking takes it for an instant, for reading."""
    try:
        descriptor = os.open(folder / STATE_FOLDER / "lock", os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
