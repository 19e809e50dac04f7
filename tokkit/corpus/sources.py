"""Finding the files of a corpus, in a fixed order.

An input is a path that exists, a folder, a glob, a URI of one of these, or ``-``. Inputs keep
their order; within a folder or a glob, files are sorted by the bytes of their paths. Links are
followed, except to a folder that contains them.

A folder's hidden files are left out and listed, and so are the files of a tokenizer, and folders
that tokkit wrote, except what the command of a recipe printed. Where at least
half of the files hold records or tables, their companions are, too: README.md, ``_SUCCESS``,
``dataset_info.json``. Of a data set that was saved by ``datasets``, the files that its
``state.json`` names are read.

    corpora/            every file under it
    corpora/*.txt.gz    the files that match
    corpora/**/*.jsonl  the same in every folder below
    s3://bucket/wiki/   every object under it
"""

import builtins
import fnmatch
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from glob import has_magic
from typing import TypedDict

import msgspec

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.file_systems import Entry, Files, LocalFiles, is_uri, printable
from tokkit.corpus.formats import TABLES, FileType, find_type, identify, read_head
from tokkit.corpus.refusals import SIGNS_OF_TOKENIZER, is_companion, is_tokenizer_file
from tokkit.engine.manifest import RECORDS
from tokkit.engine.mirrors import STATE_FOLDER
from tokkit.errors import TokkitError, UsageError

log = logging.getLogger(__name__)

STDIN = "stdin"
# The stop of a unit that can only be read as a whole.
TO_THE_END = -1

_STATE = "state.json"
_SPLITS = "dataset_dict.json"
_CORPUS = "corpus"  # kind of a folder with what a recipe's command printed
_MAX_SHOWN = 5
_MAX_DEPTH = 200
_MAX_STATE_BYTES = 16 << 20
_MAX_RECORD_BYTES = 256 << 20
# A younger file may change once more without another modification time; clocks differ, too.
_SETTLED_NS = 60 * 10**9

# What files were found to be, by the URI of their file system, path, size and modification time.
KnownTypes = Mapping[tuple[str | None, str, int, int], FileType]


class _DataFile(TypedDict):
    filename: str


@dataclass(frozen=True, slots=True)  # there are 100,000
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
        type: its format and compression.
        is_settled: whether size and modification time tell that its content is the same later.
        head: what was read of standard input in order to identify it.
        left_out: files that were left out of the same input; in its first source.
    """

    name: str
    input: str
    path: str
    uri: str | None
    bytes: int
    mtime_ns: int
    type: FileType
    is_settled: bool = False
    head: builtins.bytes = b""
    left_out: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """Its format; see ``FileType``."""
        return self.type.format

    @property
    def compression(self) -> str | None:
        """What it is compressed with, or None."""
        return self.type.compression

    @property
    def is_stdin(self) -> bool:
        """Whether it is standard input."""
        return not self.path

    @property
    def is_table(self) -> bool:
        """Whether it has rows and columns."""
        return self.format in TABLES


def find_sources(config: CorpusConfig, known: KnownTypes | None = None) -> list[Source]:
    """Return the files of all inputs, in the order in which they are read.

    Args:
        config: names the inputs.
        known: files of which the first bytes need not be read again.

    Raises:
        TokkitError: if an input is missing, empty, matches nothing or cannot be read.
    """
    return [source for text in config.inputs for source in _find(text, config, known or {})]


def _find(text: str, config: CorpusConfig, known: KnownTypes) -> list[Source]:
    """Return the files of one input."""
    if text == "-":
        return [_stdin(config.format)]
    # A file may be named "http://x" or "a*b", so the literal name comes first.
    if is_uri(text) and not os.path.lexists(text):
        from tokkit.corpus.remote_files import RemoteFiles, read_several

        remote = RemoteFiles(text)
        files: Files = remote
        uri, path = remote.uri, remote.path
        run_all: Callable[..., Iterator[FileType]] = read_several
    else:
        files = LocalFiles()
        uri, path = None, text
        run_all = map
    shown = files.name(path)
    entry = files.find(path)
    left_out: list[str] = []
    companions: set[str] = set()
    if entry is not None and not entry.is_folder:
        found = [entry]
    else:
        listed = _list_folder(files, path, left_out) if entry else _match(files, path, left_out)
        found = sorted(listed, key=lambda entry: os.fsencode(entry.path))
        root = path if entry else re.split(r"[*?[]", path, maxsplit=1)[0].rpartition("/")[0]
        companions = {f.path for f in found if is_companion(f.path.removeprefix(root))}
    if not found:
        fault = "no such file or folder; check the path"
        if entry is not None:
            fault = (
                "no file in this folder, except hidden ones, those of a tokenizer and what tokkit "
                "wrote; name another"
            )
        elif has_magic(path):
            fault = "matches no file; check the pattern"
        raise TokkitError(f"{shown}: {fault}")
    newest = time.time_ns() - _SETTLED_NS

    def find_types(entries: list[Entry]) -> dict[str, FileType]:
        states = ((e.path, (uri, e.path, e.bytes, e.mtime_ns)) for e in entries if e.is_file)
        types = {path: known[state] for path, state in states if state in known}
        others = [entry for entry in entries if entry.path not in types]
        found = run_all(partial(find_type, files, config), others)
        return types | {e.path: each for e, each in zip(others, found, strict=True)}

    types = find_types([file for file in found if file.path not in companions])
    num_data = sum(each.format != "text" for each in types.values())
    if num_data and 2 * num_data >= len(types):
        left_out += companions
    else:
        types |= find_types([file for file in found if file.path in companions])
    sources = [
        Source(
            *(files.name(e.path), shown, e.path, uri, e.bytes, e.mtime_ns),
            *(types[e.path], 0 < e.mtime_ns < newest),
        )
        for e in found
        if e.path in types
    ]
    left_out = [files.name(path) for path in sorted({*left_out}, key=os.fsencode)]
    if left_out:
        rest = f" and {len(left_out) - _MAX_SHOWN:,} more" if len(left_out) > _MAX_SHOWN else ""
        log.info("%s: left out %s%s", shown, ", ".join(left_out[:_MAX_SHOWN]), rest)
    return [replace(sources[0], left_out=tuple(left_out)), *sources[1:]]


def _stdin(wanted_format: str) -> Source:
    """Return the description of standard input, after reading its first bytes."""
    if sys.stdin is None or sys.stdin.closed:
        raise TokkitError(f"{STDIN}: standard input is closed; name a file, or pipe text into it")
    head = b"" if wanted_format in TABLES else read_head(sys.stdin.buffer)
    file_type = identify(STDIN, "", head, wanted_format)
    if file_type.format in TABLES:
        raise UsageError(
            f"{STDIN}: {file_type.format} cannot be read from standard input; name the file instead"
        )
    return Source(STDIN, STDIN, "", None, 0, 0, file_type, head=head)


def _list_folder(
    files: Files, folder: str, left_out: list[str], above: frozenset[str] = frozenset()
) -> Iterator[Entry]:
    """Yield every file under a folder.

    Args:
        files: its file system.
        folder: its path.
        left_out: gets the paths of files that are not to be read.
        above: from ``_enter``.
    """
    above = _enter(files, folder, above)
    if not above:
        return
    output = _find_output(files, folder)
    if output not in (None, _CORPUS):
        left_out.append(f"{folder.rstrip('/')}/")
        return
    names: list[str] = []

    def is_wanted(name: str) -> bool:
        names.append(name)
        return _is_shown(name)

    entries = list(files.children(folder, is_wanted))
    left_out += [f"{folder.rstrip('/')}/{name}" for name in names if not _is_shown(name)]
    if not {"_delta_log", ".hoodie"}.isdisjoint(names):
        raise TokkitError(
            f"{files.name(folder)}: a Delta or Hudi table, some of whose files may be outdated; export "
            f"it to Parquet, or name the files"
        )
    if {"blobs", "refs", "snapshots"} <= {*names}:
        raise TokkitError(
            f"{files.name(folder)}: a cache of the Hugging Face Hub, which holds each file more than "
            f"once; name one of the folders in its snapshots"
        )
    shards = _read_state(files, folder, entries)
    has_tokenizer = not SIGNS_OF_TOKENIZER.isdisjoint(names)
    for entry in entries:
        if entry.is_folder:
            yield from _list_folder(files, entry.path, left_out, above)
        elif (
            (shards and entry.name not in shards)
            or (has_tokenizer and is_tokenizer_file(entry.name))
            or (output and entry.name in RECORDS)
        ):
            left_out.append(entry.path)
        elif entry.is_file:
            yield entry


def _enter(files: Files, folder: str, above: frozenset[str]) -> frozenset[str]:
    """Return the real paths of a folder and those above it; none if a link leads back to it."""
    here = files.resolve(folder)
    if here in above:
        return frozenset()
    if len(above) == _MAX_DEPTH:
        raise TokkitError(f"{files.name(folder)}: over {_MAX_DEPTH} folders deep; name another")
    files.list_below(folder)
    return above | {here}


def _find_output(files: Files, folder: str) -> str | None:
    """Return the kind of a folder that tokkit wrote, finished or not; None for another folder."""
    is_unfinished = False
    for entry in files.children(folder, {STATE_FOLDER, *RECORDS}.__contains__):
        if entry.is_file and entry.bytes < _MAX_RECORD_BYTES:
            with files.open(entry.path) as file, suppress(ValueError, RecursionError):
                record = msgspec.json.decode(file.read(), type=dict[str, msgspec.Raw])
                if "tokkit_version" in record:
                    return str(msgspec.json.decode(record.get("kind", b'"tokenizer"')))
        is_unfinished |= entry.name == STATE_FOLDER
    return "unfinished" if is_unfinished else None


def _read_state(files: Files, folder: str, entries: Sequence[Entry]) -> set[str]:
    """Return the names of the files of a data set that ``datasets`` saved in a folder, if it did.

    Raises:
        TokkitError: if one of them is missing, or the data set is a selection of their rows.
    """
    state: object = None
    name = files.name(folder)
    for entry in entries:
        if entry.name == _SPLITS:
            log.info(
                "%s: holds a DatasetDict, whose splits are all read; name one for it alone", name
            )
        if entry.name == _STATE and entry.is_file and entry.bytes < _MAX_STATE_BYTES:
            with files.open(entry.path) as file, suppress(ValueError, RecursionError):
                state = msgspec.json.decode(file.read())
    if not isinstance(state, dict) or "_data_files" not in state:
        return set()
    if state.get("_indices_files") or state.get("_indices_data_files"):
        raise TokkitError(
            f"{name}: a data set with an indices mapping; call flatten_indices() and save it again"
        )
    try:
        names = {row["filename"] for row in msgspec.convert(state["_data_files"], list[_DataFile])}
    except msgspec.ValidationError as error:
        raise TokkitError(
            f"{name}: {_STATE} is damaged ({error}); copy the folder again"
        ) from error
    if missing := names - {entry.name for entry in entries}:
        fault = f"{printable(min(missing))} is missing, which {_STATE} names; copy the folder again"
        raise TokkitError(f"{name}: {fault}")
    return names


def _match(files: Files, pattern: str, left_out: list[str]) -> Iterator[Entry]:
    """Yield, once each, the files that a pattern matches and those under folders that it matches."""
    if not has_magic(pattern):
        return
    parts = pattern.split("/")
    fixed = next(number for number, part in enumerate(parts) if has_magic(part))
    root = "/".join(parts[:fixed]) or pattern[: min(fixed, 1)]
    start = files.find(root or ".")
    if start is None or not start.is_folder:
        return
    found: dict[str, Entry] = {}
    for entry in _match_parts(files, root, [*filter(None, parts[fixed:])], left_out):
        if entry.is_folder:
            found.update((file.path, file) for file in _list_folder(files, entry.path, left_out))
        elif not pattern.endswith("/"):
            found[entry.path] = entry
    yield from found.values()


def _match_parts(
    files: Files,
    folder: str,
    parts: list[str],
    left_out: list[str],
    above: frozenset[str] = frozenset(),
) -> Iterator[Entry]:
    """Match the parts of a pattern in turn; ``**`` matches any number of folders."""
    part, *rest = parts
    if not has_magic(part):
        entry = files.find(f"{folder.rstrip('/')}/{part}" if folder else part)
        matches = [entry] if entry else []
    elif part == "**":
        above = _enter(files, folder, above)
        if not above:
            return
        yield from _match_parts(files, folder, rest or ["*"], left_out)
        matches = list(files.children(folder, _is_shown))
        rest = parts
    else:
        above = frozenset()
        matches = list(files.children(folder, partial(_matches, part)))
    for entry in matches:
        if not rest:
            yield entry
        elif (
            entry.is_folder
            and has_magic(part)
            and _find_output(files, entry.path) not in (None, _CORPUS)
        ):
            left_out.append(f"{entry.path}/")
        elif entry.is_folder:
            yield from _match_parts(files, entry.path, rest, left_out, above)


def _matches(part: str, name: str) -> bool:
    """Whether a name matches a part of a pattern, which must begin with a dot for a hidden name."""
    return fnmatch.fnmatchcase(name, part) and (part.startswith(".") or _is_shown(name))


def _is_shown(name: str) -> bool:
    """Whether a file or folder is not hidden."""
    return not name.startswith(".")
