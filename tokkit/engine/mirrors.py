"""Folders on object stores: each has a mirror on the local disk.

Stages and readers work in the mirror, and what they finish goes up, file by file:

    s3://bucket/tokens/shard-0000000.arrow     CACHE/.tokkit-stores/s3/bucket/tokens/…

    pull    one listing, then every file that differs comes down, except shards and the folder's state
    fetch   one shard comes down when it is first read
    push    a finished file goes up in one go, its size is compared, and a shard is deleted here

A path of the mirror says by itself which object it is, so any process on any machine may push it.
The store is what counts: what it does not list is deleted here. A file and its object are the same
while the file's time of change is the number that ``_stamp`` makes of the object's ETag.
"""

import fcntl
import hashlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokkit.engine.object_store import (
    StoredFile,
    delete_objects,
    find_object,
    list_objects,
    put_object,
    read_object,
    receive_object,
)
from tokkit.engine.requests import NUM_REQUESTS, map_in_threads
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.options import find_mirrored

STATE_FOLDER = ".tokkit"
SHARD_SUFFIX = ".arrow"
_DRAFTS = (".tmp", ".part")

_listed: set[Path] = set()  # the mirrors of folders that were listed
_objects: dict[str, StoredFile] = {}  # what they hold, by its path, as of the last ``pull``
_current: set[str] = set()  # shards that are known to be those of the store


def is_stored(path: str | Path) -> bool:
    """Return whether a path is in the mirror of a store."""
    return find_mirrored(path) is not None


def list_store(folder: Path, *, without: str = "") -> dict[str, StoredFile]:
    """List a folder in its store, except a folder in it, and remember what is there."""
    found = list_objects(folder, without=without)
    start = f"{folder}/"
    for path in [path for path in _objects if path.startswith(start)]:
        del _objects[path]
    _objects.update((start + name, each) for name, each in found.items())
    _listed.add(folder)
    return found


def find_listing(folder: Path) -> dict[str, StoredFile]:
    """Return the files of a folder as of the last ``pull`` of it, or of one that has it."""
    start = f"{folder}/"
    objects = [*_objects.items()]  # while another thread pushes
    found = {path.removeprefix(start): f for path, f in objects if path.startswith(start)}
    return found if found or folder in _listed else list_store(folder)


def _find(path: str | Path) -> StoredFile | None:
    """Return what the store says of a file, by the last listing if it has the file."""
    found = _objects.get(str(path))
    # Another process may have just pushed it.
    return find_object(Path(path)) if found is None else found


def _note(path: Path, found: StoredFile | None) -> None:
    """Keep listings up with what this process does."""
    _current.discard(str(path))
    _objects.pop(str(path), None)
    if found is not None and not _listed.isdisjoint(path.parents):
        _objects[str(path)] = found


def find_size(path: str | Path) -> int | None:
    """Return the size of a file in the store; None if it is missing."""
    if str(path) in _current:
        return Path(path).stat().st_size
    found = _find(path)
    return None if found is None else found.size


def read_listed(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the names and contents of all files of a folder of small ones, by its last listing.

    Copies are kept together in one file, since a request takes as long as a hundred of its lines:

        CACHE/…/.tokkit/done.copies    NAME  ETAG  CRC-32 of the content  CONTENT, which is one line

    A line whose size or ETag the store does not list is ignored, and so is a damaged one.
    """
    missing = find_listing(folder)
    copies = folder.with_name(f"{folder.name}.copies")
    with wrap_os_errors(copies):
        copies.parent.mkdir(parents=True, exist_ok=True)
        with copies.open("a+b") as file:
            file.seek(0)
            for line in file:
                fields = line.split(b"\t", 3)
                name, content = fields[0].decode(errors="replace"), fields[-1]
                found = missing.get(name, StoredFile(-1, ""))
                if found.size == len(content) and line == _copy_line(name, found, content):
                    del missing[name]
                    yield name, content
            if missing:
                file.write(b"\n")  # a process may have been killed in the middle of a line
            answers = map_in_threads(lambda name: read_object(folder / name), missing)
            for (name, found), answer in zip(missing.items(), answers, strict=True):
                if answer is None:
                    continue
                content, read = answer
                if read == found:
                    file.write(_copy_line(name, found, content))
                yield name, content


def _copy_line(name: str, found: StoredFile, content: bytes) -> bytes:
    checksum = b"%08x" % zlib.crc32(content)
    return b"\t".join((name.encode(), found.e_tag.encode(), checksum, content))


def pull(path: Path, *, is_output: bool = False, shards: bool = False) -> None:
    """Make the mirror of a folder, or of a single file, what the store has now.

    Nothing happens to a path of this machine.

    Args:
        path: in a mirror.
        is_output: refuse a folder of the store that tokkit did not make.
        shards: copy them as well, which is done otherwise when they are first read.

    Raises:
        TokkitError: the store refuses or does not answer.
    """
    if not is_stored(path):
        return
    _current.clear()
    listing = list_store(path, without="" if is_output else STATE_FOLDER) or list_store(path)
    if not listing and not is_output and _find(path) is None:
        _listed.discard(path)
        found = _find(path)
        if found is not None:
            _download(path, found)
            return
        raise TokkitError(f"{path}: no such file or folder")
    marks = (f"{STATE_FOLDER}/", "manifest.json", "training.json")
    if is_output and listing and not any(name.startswith(marks) for name in listing):
        raise TokkitError(f"{path}: not empty, and not made by tokkit; choose another folder")
    if listing and is_output:
        with wrap_os_errors(path):
            (path / STATE_FOLDER).mkdir(parents=True, exist_ok=True)  # where the store has it
    _remove_others(path, listing)
    wanted = [
        (path / name, found)
        for name, found in listing.items()
        if STATE_FOLDER not in name.split("/") and (shards or not name.endswith(SHARD_SUFFIX))
    ]
    for _ in map_in_threads(lambda each: _download(*each), wanted):
        pass


def _remove_others(folder: Path, listing: dict[str, StoredFile]) -> None:
    """Delete from a mirror what the store no longer has."""
    for above, _, files in os.walk(folder, topdown=False):
        start = Path(above).relative_to(folder).as_posix()
        if STATE_FOLDER in start.split("/"):
            continue
        for name in files:  # maybe 100,000, for which a path each takes seconds
            if (name if start == "." else f"{start}/{name}") in listing or name.endswith(_DRAFTS):
                continue
            file = Path(above, name)
            if find_object(file) is None:  # nor has another process pushed it
                file.unlink(missing_ok=True)
        if start != ".":
            with suppress(OSError):  # it is not empty
                Path(above).rmdir()


def fetch(path: Path, sha256: str = "") -> None:
    """Copy a file from its store, unless the copy is there.

    Raises:
        TokkitError: there is none, or it has another SHA-256.
    """
    if str(path) in _current:
        return
    found = _find(path)
    if found is None:
        raise TokkitError(f"{path}: no such file or folder")
    _download(path, found, sha256)
    _current.add(str(path))


def fetch_again(path: Path) -> None:
    """Copy a file from its store once more, since the copy may have been damaged here."""
    if is_stored(path):
        path.unlink(missing_ok=True)
        _current.discard(str(path))
        fetch(path)


def fetch_files(
    folder: Path,
    files: Iterable[tuple[str, str, int]],
    report: Callable[[int], Any] = lambda _: None,
) -> None:
    """Copy files of a folder from its store, several at a time; if it has none, do nothing.

    Args:
        folder: the folder.
        files: each with its name in the folder, its SHA-256 and its size; maybe 100,000, which are
            compared with the last listing without a path for each.
        report: called with sizes of files that are here.
    """
    if not is_stored(folder):
        return
    missing, num_bytes = [], 0
    for name, sha256, size in files:
        path = f"{folder}/{name}"
        if path in _current or _is_same(path, _objects.get(path)):
            _current.add(path)
            num_bytes += size
        else:
            missing.append((name, sha256, size))
    report(num_bytes)

    def copy(file: tuple[str, str, int]) -> int:
        name, sha256, size = file
        fetch(folder / name, sha256)
        return size

    for size in map_in_threads(copy, missing, NUM_REQUESTS // 4):
        report(size)


def _stamp(e_tag: str) -> int:
    """Return a time of change, in nanoseconds, that stands for an ETag."""
    return int.from_bytes(hashlib.sha256(e_tag.encode()).digest()[:7])


def _is_same(path: str | Path, found: StoredFile | None) -> bool:
    """Return whether a file here is a copy of what the store has."""
    if found is None:
        return False
    with suppress(OSError):
        status = os.stat(path)  # noqa: PTH116  a path is not made for each of 100,000
        return (status.st_size, status.st_mtime_ns) == (found.size, _stamp(found.e_tag))
    return False


def _download(path: Path, found: StoredFile, sha256: str = "") -> None:
    """Copy an object, once for all processes of this machine."""
    if _is_same(path, found):
        return
    part = path.with_name(f"{path.name}.part")
    with wrap_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _is_same(path, found):  # another process has just done it
                part.unlink(missing_ok=True)
                return
            size, digest = receive_object(path, part)
            if size != found.size or (sha256 and digest != sha256):
                fault = (
                    "its SHA-256 is not that of the manifest" if size == found.size else "changed"
                )
                part.unlink()
                raise TokkitError(
                    f"{path}: {fault} in the store while it was copied; when nothing writes to it any "
                    f"more, check the folder with tokkit verify"
                )
            os.utime(part, ns=(_stamp(found.e_tag),) * 2)
            part.replace(path)


def push(draft: Path, path: Path, *, only_new: bool = False) -> None:
    """Upload a finished draft, and give it its name unless it is a shard, or the folder's state.

    Args:
        draft: file on this machine.
        path: its name in the mirror.
        only_new: leave an object that is there already.
    """
    found = put_object(draft, path, only_new=only_new)
    _note(path, found)
    is_state = STATE_FOLDER in path.parts and path.suffix == ".json"
    if found is None or is_state or path.suffix == SHARD_SUFFIX:
        draft.unlink()
        return
    os.utime(draft, ns=(_stamp(found.e_tag),) * 2)
    draft.replace(path)


def push_folder(folder: Path) -> None:
    """Upload what has changed in the mirror of a folder, and delete what is gone from it.

    JSON goes last, since it says that the files next to it are complete.
    """
    if not is_stored(folder):
        return
    listing = find_listing(folder)
    files = {
        file.relative_to(folder).as_posix(): file
        for file in folder.rglob("*")
        if file.is_file() and not any(part.endswith(_DRAFTS) for part in file.parts)
    }
    for name in sorted(files, key=lambda name: name.endswith(".json")):
        file = files[name]
        if not name.startswith(f"{STATE_FOLDER}/") and not _is_same(file, listing.get(name)):
            found = put_object(file, file)
            assert found is not None  # noqa: S101  it replaces what is there
            _note(file, found)
            os.utime(file, ns=(_stamp(found.e_tag),) * 2)
    drop(folder / name for name in [*listing] if name not in files and STATE_FOLDER not in name)


def drop(paths: Iterable[Path]) -> None:
    """Delete files of one bucket from their store; some may be missing."""
    paths = [*paths]
    delete_objects(paths)
    for path in paths:
        _note(path, None)


def clear_store(folder: Path, first: Sequence[str] = ()) -> None:
    """Delete all that the store has of a folder, those files first that make it look finished."""
    names = list_store(folder)
    drop(folder / name for name in first if name in names)
    drop([folder / name for name in names if name not in first])
