"""An output folder: who may write it, and what a signal leaves of it.

A folder of tokkit holds the hidden folder ``.tokkit`` with the lock, the statement and the receipts
(see ``tokkit.engine.receipts``), and, when it is finished, a record that was written last:
``manifest.json`` or a tokenizer's ``training.json``.
"""

import errno
import fcntl
import fnmatch
import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from glob import has_magic
from pathlib import Path
from types import FrameType
from typing import Self

from tokkit.engine.manifest import RECORDS, Manifest
from tokkit.engine.mirrors import STATE_FOLDER, clear_store, is_stored
from tokkit.errors import Interrupted, TokkitError, UsageError, describe_os_error, wrap_os_errors
from tokkit.options import find_local

_LOCK = "lock"
# How long another process may hold a lock that only looks at the folder.
_INSTANT_SECONDS = 0.2
# What file systems say that have no locks, such as Lustre where it is mounted without.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


class FolderLock:
    """Lets one process at a time write a folder, or several that share it; creates the folder.

    The lock is the operating system's (``flock``), so it ends with the process that holds it,
    however that ends. The lock file contains the process id, for the error that others get. File
    systems without such locks have none: there, only the folder's statement refuses other commands.
    What an error leaves empty is removed again.

    Args:
        folder: created where it is missing.
        shared: others may share the folder, too.

    Raises:
        TokkitError: if another process holds the lock, or the folder cannot be written.
    """

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self.folder = folder
        self._mode = fcntl.LOCK_SH if shared else fcntl.LOCK_EX

    def __enter__(self) -> Self:
        state = self.folder / STATE_FOLDER
        self._created = [path for path in (state, *state.parents) if not path.exists()]
        with wrap_os_errors(self.folder):
            while True:
                state.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(state / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
                self._holder = os.pread(self._descriptor, 256, 0).decode(errors="replace").strip()
                try:
                    self._acquire(self._mode)
                except TokkitError:
                    os.close(self._descriptor)
                    raise
                if os.fstat(self._descriptor).st_nlink:
                    break
                os.close(self._descriptor)  # another process removed it, see below
            self._write_holder(f"{os.getpid()} on {platform.node()}")
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error and self._created and self._mode == fcntl.LOCK_EX:
            state = self._created[0]
            with suppress(OSError):
                if [path.name for path in state.iterdir()] == [_LOCK]:
                    (state / _LOCK).unlink()
                    for path in self._created:
                        path.rmdir()
        os.close(self._descriptor)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock alone inside the block.

        Raises:
            TokkitError: if another process shares it.
        """
        try:
            self._acquire(fcntl.LOCK_EX)
        except TokkitError:
            self._write_holder(self._holder)
            raise
        try:
            yield
        finally:
            self._acquire(self._mode)

    def _write_holder(self, holder: str) -> None:
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{holder}\n".encode(), 0)

    def _acquire(self, mode: int) -> None:
        deadline = time.monotonic() + _INSTANT_SECONDS
        while not _lock(self._descriptor, mode):
            if time.monotonic() > deadline:
                raise TokkitError(
                    f"{self.folder}: process {self._holder or 'unknown'} is writing this folder; "
                    f"wait until it ends, or choose another folder"
                )
            time.sleep(_INSTANT_SECONDS / 10)


def _lock(descriptor: int, mode: int) -> bool:
    """Lock a file, and return whether no other process has it locked; without locks none has."""
    try:
        fcntl.flock(descriptor, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True


def is_being_written(folder: Path) -> bool:
    """Return whether a process holds the folder's lock.

    To find out, this takes the lock for an instant, which writers wait for.
    """
    try:
        descriptor = os.open(folder / STATE_FOLDER / _LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _lock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Turn SIGINT and SIGTERM inside the block into an ``Interrupted`` that names ``folder``.

    Signals reach the main thread only; in another thread the block runs unchanged.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(
            f"{folder}: stopped by {signal.Signals(number).name}; "
            f"run the same command again to continue",
            exit_status=128 + number,
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt) for number in caught]
    try:
        yield
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)


def refuse_foreign(folder: Path) -> None:
    """Refuse a folder with files if nothing in it shows that tokkit made it.

    Raises:
        TokkitError: also if the path is a file, or the folder cannot be read.
    """
    try:
        names = {path.name for path in folder.iterdir()}
    except FileNotFoundError:
        return
    except NotADirectoryError:
        raise TokkitError(f"{folder}: is a file; choose another folder") from None
    except OSError as error:
        raise TokkitError(f"{folder}: {describe_os_error(error)}") from error
    if STATE_FOLDER in names or not names:
        return
    with suppress(TokkitError):
        Manifest.read(folder)  # a web application may have a manifest.json, too
        return
    raise TokkitError(f"{folder}: not empty, and not made by tokkit; choose another folder")


def refuse_overlap(
    output: Path,
    inputs: Iterable[str | Path],
    models: Iterable[Path] = (),
    *,
    cache: Path | None = None,
) -> None:
    """Refuse an output in an input folder, which a second run would read, and an input in the output.

    Folders are compared as the operating system identifies them, so links and ``..`` do not matter.

    Args:
        output: file or folder to write.
        inputs: files, folders, globs or URIs, of which folders are read completely.
        models: files and folders that the output may be in, but not contain.
        cache: folder of the mirrors of stores.

    Raises:
        UsageError: naming the input.
    """
    above_output = _folders_above(output)
    models = [*models]
    for name in (*inputs, *models):
        text = str(name).removeprefix("file://")
        if text.startswith(("s3://", "gs://")):
            text = str(find_local(Path(text), cache))
        pattern, fixed = _resolve_glob(text)
        if any(_is_same(folder, output) for folder in _folders_above(fixed)):
            raise UsageError(f"{output}: is or contains the input {name}; write to another path")
        is_matched = fixed != pattern and any(
            fnmatch.fnmatchcase(str(folder), str(pattern)) for folder in above_output
        )
        is_read = is_matched or any(_is_same(folder, pattern) for folder in above_output)
        if is_read and name not in models:
            raise UsageError(
                f"{output}: is inside the input {name}, so the next run would read it; choose a path "
                f"outside"
            )


def _resolve_glob(text: str) -> tuple[Path, Path]:
    """Return the real path of a glob, and that of its part before the first wildcard.

    They are the same for a path that exists, whatever characters it has.
    """
    path = Path(text)
    if path.exists():
        return _resolve(path), _resolve(path)
    parts = path.parts
    fixed = next((n for n, part in enumerate(parts) if has_magic(part)), len(parts))
    root = _resolve(Path(*parts[:fixed]))
    return root.joinpath(*parts[fixed:]), root


def _resolve(path: Path) -> Path:
    """Return the real path; ``Path.resolve`` fails at links that lead to themselves."""
    return Path(os.path.realpath(path))


def _folders_above(path: Path) -> list[Path]:
    """Return the real path and its parents."""
    resolved = _resolve(path)
    return [resolved, *resolved.parents]


def _is_same(first: Path, second: Path) -> bool:
    """Return whether two paths are one file or folder, on file systems without case, too."""
    try:
        return first.samefile(second)
    except OSError:
        return first == _resolve(second)


def clear_folder(folder: Path) -> None:
    """Delete what an earlier run left, except the lock, which the caller holds.

    The records go first, so that a folder that is half deleted never looks finished.
    """
    if is_stored(folder):
        clear_store(folder, RECORDS)
    with wrap_os_errors(folder):
        for name in RECORDS:
            (folder / name).unlink(missing_ok=True)
        state = folder / STATE_FOLDER
        for path in {*folder.iterdir(), *state.iterdir()} - {state, state / _LOCK}:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
