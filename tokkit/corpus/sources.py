"""Finding the files of a corpus, in a fixed order.

An input is a path that exists, a folder, a glob, a URI of one of these, or ``-``. Inputs keep
their order; within a folder or a glob, files are sorted by the bytes of their paths. Hidden files
are skipped unless they were named, and links are followed, except to a folder that contains them.

    corpora/            every file under it
    corpora/*.txt.gz    the files that match
    corpora/**/*.jsonl  the same in every folder below
    s3://bucket/wiki/   every object under it
"""

import fnmatch
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.file_systems import Entry, Files, LocalFiles, RemoteFiles, is_uri
from tokkit.errors import TokkitError, UsageError

STDIN = "stdin"
# The stop of a unit that can only be read as a whole.
TO_THE_END = -1

_SUFFIX_CODECS = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2", ".lz4": "lz4"}
_FORMATS = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".tsv": "counts",
}
_TABLES = ("parquet", "arrow")


@dataclass(frozen=True)
class Source:
    """One input file.

    Attributes:
        name: the path as given, or as found under the folder or glob; the URI without secrets; or
            ``stdin``. Printable, on one line.
        input: the INPUT under which it was found, without secrets, or ``stdin``.
        path: for its file system; empty for standard input.
        uri: of its file system; None for this machine's.
        bytes: size of the file; 0 for standard input.
        mtime_ns: modification time; 0 if unknown.
        format: ``text``, ``jsonl``, ``parquet``, ``arrow``, or ``counts`` (words and their counts).
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
        """Whether it is standard input."""
        return not self.path

    @property
    def is_table(self) -> bool:
        """Whether it has rows and columns."""
        return self.format in _TABLES


def find_sources(config: CorpusConfig) -> list[Source]:
    """Return the files of all inputs, in the order in which they are read.

    Raises:
        TokkitError: if an input is missing, empty, matches nothing or cannot be read.
    """
    return [source for text in config.inputs for source in _find(text, config.format)]


def describe_name(name: str) -> tuple[str, str | None]:
    """Return format and compression by a file's name: ``("jsonl", "gzip")`` for ``a.jsonl.gz``."""
    root, suffix = os.path.splitext(name.lower())  # noqa: PTH122  a URI's name is no path
    compression = _SUFFIX_CODECS.get(suffix)
    if compression:
        _, suffix = os.path.splitext(root)  # noqa: PTH122  a URI's name is no path
    return _FORMATS.get(suffix, "text"), compression


def _find(text: str, wanted_format: str) -> list[Source]:
    """Return the files of one input."""
    if text == "-":
        return [_stdin(wanted_format)]
    # A file may be named "http://x" or "a*b", so the literal name comes first.
    if is_uri(text) and not os.path.lexists(text):
        remote = RemoteFiles(text)
        files: Files = remote
        uri, path = remote.uri, remote.path
    else:
        files = LocalFiles()
        uri, path = None, text
    shown = files.name(path)
    entry = files.find(path)
    if entry is not None and not entry.is_folder:
        found = [entry]
    else:
        found = list(_list_folder(files, entry.path) if entry else _match(files, path))
        found.sort(key=lambda entry: os.fsencode(entry.path))
    if not found:
        fault = "no such file or folder; check the path"
        if entry is not None:
            fault = "no file in this folder, except hidden ones; name another"
        elif _has_magic(path):
            fault = "matches no file; check the pattern"
        raise TokkitError(f"{shown}: {fault}")
    return [_source(files, uri, shown, entry, wanted_format) for entry in found]


def _source(files: Files, uri: str | None, shown: str, entry: Entry, wanted_format: str) -> Source:
    """Return the description of one file, after checking that it opens."""
    name = files.name(entry.path)
    if not entry.is_file:
        raise TokkitError(f"{name}: not a regular file; pipe its content to -")
    with files.open(entry.path):
        pass
    known_format, compression = describe_name(entry.name)
    if wanted_format != "auto":
        known_format = wanted_format
    if compression and known_format in _TABLES:
        raise TokkitError(
            f"{name}: {known_format} within {compression} cannot be read in parts; decompress it first"
        )
    return Source(
        name, shown, entry.path, uri, entry.bytes, entry.mtime_ns, known_format, compression
    )


def _stdin(wanted_format: str) -> Source:
    """Return the description of standard input."""
    if wanted_format in _TABLES:
        raise UsageError(
            f"{STDIN}: {wanted_format} cannot be read from standard input; name the file instead"
        )
    if sys.stdin is None or sys.stdin.closed:
        raise TokkitError(f"{STDIN}: standard input is closed; name a file, or pipe text into it")
    known_format = "text" if wanted_format == "auto" else wanted_format
    return Source(STDIN, STDIN, "", None, 0, 0, known_format, None)


def _list_folder(files: Files, folder: str, above: frozenset[str] = frozenset()) -> Iterator[Entry]:
    """Yield every file under a folder; ``above`` holds the real paths of the folders above it."""
    here = files.resolve(folder)
    if here in above:
        return
    for entry in files.children(folder, _is_shown):
        if entry.is_folder:
            yield from _list_folder(files, entry.path, above | {here})
        elif entry.is_file:
            yield entry


def _match(files: Files, pattern: str) -> Iterator[Entry]:
    """Yield, once each, the files that a pattern matches and those under folders that it matches."""
    if not _has_magic(pattern):
        return
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if _has_magic(part))
    root = "/".join(parts[:fixed]) or pattern[: min(fixed, 1)]
    start = files.find(root or ".")
    if start is None or not start.is_folder:
        return
    found: dict[str, Entry] = {}
    for entry in _match_parts(files, root, [*filter(None, parts[fixed:])], frozenset()):
        if entry.is_folder:
            found.update((file.path, file) for file in _list_folder(files, entry.path))
        elif not pattern.endswith("/"):
            found[entry.path] = entry
    yield from found.values()


def _match_parts(
    files: Files, folder: str, parts: list[str], above: frozenset[str]
) -> Iterator[Entry]:
    """Match the parts of a pattern in turn; ``**`` matches any number of folders."""
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
    """Whether a name matches a part of a pattern, which must begin with a dot for a hidden name."""
    return fnmatch.fnmatchcase(name, part) and (part.startswith(".") or _is_shown(name))


def _is_shown(name: str) -> bool:
    """Whether a file or folder is not hidden."""
    return not name.startswith(".")


def _has_magic(text: str) -> bool:
    """Whether a path is a pattern."""
    return any(character in text for character in "*?[")
