"""A cache on disk of large tokenizers and their tables: a second process starts in half a second.

A tokenizer of 150,000 tokens takes a second to load with its library and check, and 0.3 s to turn
into tables. The results are kept next to the compiled kernels, a file each:

    tokenizers/3f9a…-tokenizer    the tokenizer, without the objects of its library
    tokenizers/3f9a…-files        what ``save_tokenizer`` writes
    tokenizers/3f9a…-kernel       which kernel encodes
    tokenizers/3f9a…-tables       that kernel's tables

The number stands for the content of all files that loading looks at, the sources of all code that
makes tables, and the releases or files of the libraries that it asks. A file begins with the SHA-256 of the
rest: one that is damaged or cut off is made again. Files that were used last stay, up to
``MAX_BYTES`` in all. A user who can write here could replace the compiled kernels, too, so pickles
are as safe as these.
"""

import hashlib
import importlib.util
import logging
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np

from tokkit.kernels.compiled import find_folder

Result = TypeVar("Result")

MAX_BYTES = 512 << 20
LARGE = 1 << 18  # bytes; smaller tokenizers are loaded as fast, and tests make thousands of them
_MAX_NAMES = 1000
_DIGEST_BYTES = 32
_READ_SUFFIXES = {".json", ".txt", ".model", ".spm"}

log = logging.getLogger(__name__)


class LazyDefinition(Mapping[str, Any]):
    """The object of a ``tokenizer.json`` whose model is parsed at the first access.

    Args:
        parts: all of it but the model.
        model: the model, as JSON.
    """

    def __init__(self, parts: Mapping[str, Any], model: bytes) -> None:
        self._parts = parts
        self._model: Any = model

    @classmethod
    def of(cls, definition: Mapping[str, Any]) -> "LazyDefinition":
        """Return the same object, ready to be pickled."""
        parts = {name: part for name, part in definition.items() if name != "model"}
        return cls(parts, msgspec.json.encode(definition["model"]))

    def __getitem__(self, name: str) -> Any:
        if name != "model":
            return self._parts[name]
        if isinstance(self._model, bytes):
            self._model = msgspec.json.decode(self._model)
        return self._model

    def __iter__(self) -> Iterator[str]:
        return iter((*self._parts, "model"))

    def __len__(self) -> int:
        return len(self._parts) + 1


def digest_files(path: Path) -> str:
    """Return what identifies the tokenizer in a folder or file; empty if nothing is kept of it.

    That is the SHA-256 of the names in its folder, and of the content of those that loading reads.
    """
    folder = path if path.is_dir() else path.parent
    digest = hashlib.sha256(b"" if path == folder else os.fsencode(path.name))
    largest = 0
    with suppress(OSError):
        names = sorted(os.listdir(folder))  # noqa: PTH208  half of the time
        files = [folder / name for name in names]
        files = [file for file in files if file.suffix in _READ_SUFFIXES and file.is_file()]
        sizes = [file.stat().st_size for file in files]
        if len(names) > _MAX_NAMES or sum(sizes) > MAX_BYTES:
            return ""
        largest = max(sizes, default=0)
        digest.update(repr(names).encode(errors="surrogateescape"))
        for file in files if largest >= LARGE else []:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest() if largest >= LARGE else ""
    return ""


def recall(digest: str, name: str, make: Callable[[], Result]) -> Result:
    """Return what was made of a tokenizer before, or make and keep it.

    Args:
        digest: from ``digest_files``; empty if nothing is kept.
        name: tells apart what is made of one tokenizer.
        make: returns it, from the tokenizer's files alone; picklable, and not None.
    """
    kept: Result | None = find_kept(digest, name)
    if kept is None:
        kept = make()
        keep(digest, name, kept)
    return kept


def find_kept(digest: str, name: str) -> Any:
    """Return what was kept; None if there is nothing, or it is damaged. See ``recall``."""
    path = _find_path(digest, name)
    if path is None:
        return None
    try:
        content = path.read_bytes()
        os.utime(path)
    except OSError:
        return None
    data = memoryview(content)[_DIGEST_BYTES:]
    is_whole = hashlib.sha256(data).digest() == content[:_DIGEST_BYTES]
    return pickle.loads(data) if is_whole else None  # noqa: S301  see the module


def keep(digest: str, name: str, made: Any) -> None:
    """Keep what was made, and delete what was not used for the longest time; see ``recall``."""
    path = _find_path(digest, name)
    if path is None:
        return
    data = pickle.dumps(made, pickle.HIGHEST_PROTOCOL)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_bytes(hashlib.sha256(data).digest() + data)
        temporary.replace(path)
        found = [(other.stat(), other) for other in path.parent.iterdir()]
        room = MAX_BYTES
        for status, other in sorted(found, key=lambda row: -row[0].st_mtime_ns):
            room -= status.st_size
            if room < 0:
                other.unlink(missing_ok=True)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        log.debug("%s: cannot keep tables: %s", path.parent, error.strerror)


def _find_path(digest: str, name: str) -> Path | None:
    folder = find_folder() if digest else None
    if folder is None:
        return None
    key = hashlib.sha256(f"{digest} {_digest_version()}".encode()).hexdigest()
    return folder / "tokenizers" / f"{key}-{name}"


@cache
def _digest_version() -> str:
    """Return the SHA-256 of what affects the results in addition to a tokenizer's files."""
    versions = sys.version, np.__version__, msgspec.__version__, _describe_library()
    digest = hashlib.sha256(repr((versions, sys.byteorder)).encode())
    package = Path(__file__).parent.parent
    for room in ("tokenizer", "kernels", "shards"):
        for source in sorted((package / room).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def _describe_library() -> list[tuple[str, int, int]]:
    """Return the files of the tokenizers library, each with its size and time.

    Its version would do, too, but to import it takes 5 ms, and nothing else may need it.
    """
    spec = importlib.util.find_spec("tokenizers")
    assert spec is not None  # noqa: S101  tokkit depends on it
    folders = spec.submodule_search_locations or ()
    files = [file for folder in folders for file in os.scandir(folder) if file.is_file()]
    return sorted((file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files)
