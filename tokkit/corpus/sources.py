"""From what the user named to the files that are read, in a fixed order.

An input is a path that exists, a folder, a glob, an URI of one of these, or ``-``. Inputs keep
the order in which they were given; within a folder or a glob, files are sorted by the bytes of
their paths. Hidden files are left out unless they were named, and links are followed, except into
a folder that they lie in themselves.

    corpora/            every file under it
    corpora/*.txt.gz    the files that match
    corpora/**/*.jsonl  likewise, in every folder below
    s3://bucket/wiki/   every object under it
"""

import fnmatch
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.files import Entry, Files, LocalFiles, RemoteFiles, is_uri, printable
from tokkit.errors import TokkitError, UsageError

STDIN = "stdin"
# Where a unit stops that cannot be entered in the middle.
TO_THE_END = -1

COMPRESSIONS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".tsv": "counts",
}
TABLES = ("parquet", "arrow")


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        name: as the user would call it: the path as given, or found under the folder or glob;
            the URI without its secrets; or ``stdin``. Printable, on one line.
        input: the INPUT under which it was found, without secrets, or ``stdin``.
        path: what its file system opens; empty for standard input.
        uri: of its file system; None where it is this machine's.
        bytes: size of the file; 0 for standard input.
        mtime_ns: when it was last written; 0 where nobody knows.
        format: ``text``, ``jsonl``, ``parquet``, ``arrow``, or ``counts``: words with how often they occur.
        compression: ``gzip``, ``zstd``, ``bz2``, ``lz4`` or None.
    """

    name: str
    input: str
    path: str
    uri: str | None
    bytes: int
    mtime_ns: int
    format: str
    compression: str | None

    @property
    def is_stdin(self) -> bool:
        """Whether this is standard input."""
        return not self.path

    @property
    def is_table(self) -> bool:
        """Whether it has rows and columns."""
        return self.format in TABLES


def find_sources(config: CorpusConfig) -> list[Source]:
    """The files of all inputs, in the order in which they are read.

    Raises:
        TokkitError: an input that is missing, empty, matches nothing or may not be read.
    """
    return [source for text in config.inputs for source in _find(text, config.format)]


def describe_name(name: str) -> tuple[str, str | None]:
    """Format and compression of a file by its name: ``a.jsonl.gz`` is ``("jsonl", "gzip")``."""
    root, suffix = os.path.splitext(name.lower())  # noqa: PTH122  an URI's name is no path
    compression = COMPRESSIONS.get(suffix)
    if compression:
        _, suffix = os.path.splitext(root)  # noqa: PTH122  likewise
    return FORMATS.get(suffix, "text"), compression


def _find(text: str, wanted_format: str) -> list[Source]:
    """The files of one input."""
    if text == "-":
        return [_stdin(wanted_format)]
    # A file may be called "http://x" or "a*b": what exists under its literal name is that.
    if is_uri(text) and not os.path.lexists(text):
        remote = RemoteFiles(text)
        files: Files = remote
        uri, path, shown = text, remote.path, remote.name
    else:
        files = LocalFiles()
        uri, path, shown = None, text, printable(text)
    entry = files.find(path)
    if entry is not None and not entry.is_folder:
        found = [entry]
    else:
        found = list(_list_folder(files, entry.path) if entry else _match(files, path))
        found.sort(key=lambda entry: os.fsencode(entry.path))
    if not found:
        fault = "no such file or folder; check the path"
        if entry is not None:
            fault = "the folder holds no file, hidden ones aside; name another"
        elif _has_magic(path):
            fault = "matches no file; check the pattern"
        raise TokkitError(f"{shown}: {fault}")
    return [_source(files, uri, shown, entry, wanted_format) for entry in found]


def _source(files: Files, uri: str | None, shown: str, entry: Entry, wanted_format: str) -> Source:
    """Describe one file that was found, and see that it opens."""
    scheme = f"{uri.split('://', 1)[0]}://" if uri else ""
    name = printable(scheme + entry.path)
    if not entry.is_file:
        raise TokkitError(f"{name}: not a regular file; pipe what it gives into -")
    with files.open(entry.path):
        pass
    known_format, compression = describe_name(entry.name)
    if wanted_format != "auto":
        known_format = wanted_format
    if compression and known_format in TABLES:
        raise TokkitError(
            f"{name}: {known_format} inside {compression} cannot be read in pieces; unpack it first"
        )
    return Source(
        name, shown, entry.path, uri, entry.bytes, entry.mtime_ns, known_format, compression
    )


def _stdin(wanted_format: str) -> Source:
    """Describe standard input."""
    if wanted_format in TABLES:
        raise UsageError(
            f"{STDIN}: {wanted_format} cannot be read from standard input; name the file instead"
        )
    if sys.stdin is None or sys.stdin.closed:
        raise TokkitError(f"{STDIN}: standard input is closed; name a file, or pipe text into it")
    known_format = "text" if wanted_format == "auto" else wanted_format
    return Source(STDIN, STDIN, "", None, 0, 0, known_format, None)


def _list_folder(files: Files, folder: str, above: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Every file under a folder; ``above`` holds the true paths of the folders that hold it."""
    here = files.resolve(folder)
    if here in above:
        return
    for entry in files.children(folder, _is_shown):
        if entry.is_folder:
            yield from _list_folder(files, entry.path, above | {here})
        elif entry.is_file:
            yield entry


def _match(files: Files, pattern: str) -> Iterator[Entry]:
    """Every file that a pattern matches, once, and every file under a folder that it matches."""
    if not _has_magic(pattern):
        return
    root = "/" if pattern.startswith("/") else ""
    parts = [part for part in pattern.split("/") if part]
    found: dict[str, Entry] = {}
    for entry in _match_parts(files, root, parts, frozenset()):
        if entry.is_folder:
            found.update((file.path, file) for file in _list_folder(files, entry.path))
        elif not pattern.endswith("/"):
            found[entry.path] = entry
    yield from found.values()


def _match_parts(
    files: Files, folder: str, parts: list[str], above: frozenset[str]
) -> Iterator[Entry]:
    """Match the parts of a pattern one after the other; ``**`` is any number of folders."""
    part, *rest = parts
    if not _has_magic(part):
        entry = files.find(f"{folder.rstrip('/')}/{part}" if folder else part)
        matches = [entry] if entry else []
    elif part == "**":
        here = files.resolve(folder)
        if here in above:
            return
        yield from _match_parts(files, folder, rest or ["*"], frozenset())
        for entry in files.children(folder, _is_shown):
            if entry.is_folder:
                yield from _match_parts(files, entry.path, parts, above | {here})
        return
    else:
        matches = list(files.children(folder, partial(_matches, part)))
    for entry in matches:
        if not rest:
            yield entry
        elif entry.is_folder:
            yield from _match_parts(files, entry.path, rest, frozenset())


def _matches(part: str, name: str) -> bool:
    """Whether a name matches a part of a pattern; a hidden one must be asked for."""
    return fnmatch.fnmatchcase(name, part) and (part.startswith(".") or _is_shown(name))


def _is_shown(name: str) -> bool:
    """Whether a file or folder is not hidden."""
    return not name.startswith(".")


def _has_magic(text: str) -> bool:
    """Whether a path is a pattern."""
    return any(character in text for character in "*?[")
