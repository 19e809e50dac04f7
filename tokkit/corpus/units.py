r"""Work units over a corpus: which bytes, row groups or batches are read as one piece.

A plan follows from the files and ``unit_bytes`` alone, never from the number of workers, so that
the same shards come out of any. Large plain text and JSON lines are cut at document boundaries,
Parquet between row groups, an Arrow file between record batches. What cannot be read from the
middle is one unit: compressed files, Arrow streams, CSV, JSON arrays, and a file that is a document.
Standard input, as the last INPUT, is cut while it is read; see ``tokkit.corpus.stdin_parts``.

    books.txt, 150 MB                 [0, 75000312) and [75000312, 150000000)
    wiki.parquet, 9 row groups        row groups [0, 5) and [5, 9)
    books.txt.zst                     all of it

A file of bytes is cut near every multiple of an even share, at the first document boundary from
there on, without reading what comes before. A boundary is right after a line end, or right after
the first blank line. In two by lines, with an even share that ends at 4, within "cd":

    "ab\ncd\nef\n"                    [0, 6) and [6, 9)

A folder of a million small files must not become a million shards, so consecutive whole files make
one group, up to the size of a unit. With units of 64 MB:

    a.txt 1 kB, b.txt 2 MB, c.txt 50 MB, d.txt 20 MB, e.txt 200 MB, f.txt 1 kB

    (a.txt, b.txt, c.txt)  (d.txt,)  (e.txt, first part)  (e.txt, second part) …  (f.txt,)
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypedDict

from tokkit.corpus.corpus_config import FORMATS, CorpusConfig
from tokkit.corpus.file_systems import changed_error, open_files
from tokkit.corpus.formats import HEAD_BYTES, TABLES, FileType
from tokkit.corpus.sources import TO_THE_END, KnownTypes, Source, find_sources
from tokkit.engine.stage_plan import read_planned_payloads
from tokkit.engine.unit import Unit
from tokkit.errors import wrap_os_errors

UNIT_BYTES = 64 << 20

# Possessive, or "\r\n" would be taken for two line ends where it must be one. Both begin with
# alternatives of one character, which the search skips to: twice as fast as atomic groups are.
LINE_END = re.compile(rb"(?:\n|\r\n?+)")
# White space that ends no line, as in ``tokkit.kernels.scan``, and U+FEFF.
WIDE_SPACE = (
    rb"\xc2[\x85\xa0]|\xe1\x9a\x80|\xe2\x80[\x80-\x8a\xa8\xa9\xaf]|\xe2\x81\x9f|\xe3\x80\x80"
)
_BLANK = rb"(?:[ \t\v\f\x1c-\x1f]|" + WIDE_SPACE + rb"|\xef\xbb\xbf)"
BLANK_LINE = re.compile(rb"(?:\n|\r\n?+)" + _BLANK + rb"*+(?:\n|\r\n?+)")
# A line end that only white space follows, whose last character may be incomplete.
_OPEN_LINE = re.compile(rb"[\n\r]" + _BLANK + rb"*+[\xc2\xe1-\xe3\xef]?[\x80-\xbf]?\Z")

_LOOKED_INTO = ("csv", "tsv", *TABLES)  # whatever their size
_MAX_ALIKE = 8
_FIRST_READ_BYTES = 1 << 16
_LARGEST_READ_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)  # there are 100,000
class CorpusUnit:
    """A part of a file.

    Attributes:
        source: the file.
        start: first byte, row group or record batch.
        stop: the one after its last; ``TO_THE_END`` if only the whole file can be read.
        size: its share of the file's bytes; the shares of a file add up to ``source.bytes``.
        lines_before: for a part of standard input, the number of lines before it.
        content: for a part of standard input, its bytes; also for a file that was read already.
    """

    source: Source
    start: int
    stop: int
    size: int
    lines_before: int = 0
    content: Any = None  # SharedBytes, or bytes: msgspec, which reads plans, takes no such union

    @property
    def name(self) -> str:
        """Its name in errors: ``books.txt``, or ``books.txt, bytes 0 to 67108864``."""
        return f"{self.source.name}{self.part}"

    @property
    def part(self) -> str:
        """Which part of its file it is, as ``, bytes 0 to 67108864``; empty for the whole file."""
        if self.is_whole:
            return ""
        return f", {FORMATS[self.source.format].parts} {self.start} to {self.stop}"

    @property
    def identity(self) -> dict[str, str | int]:
        """What its content key is made of, without the modification time."""
        return {
            "name": self.source.name,
            "format": self.source.format,
            "bytes": self.source.bytes,
            "start": self.start,
            "stop": self.stop,
        }

    @property
    def is_whole(self) -> bool:
        """Whether it is the whole file."""
        return self.start == 0 and self.size == self.source.bytes


Group = tuple[CorpusUnit, ...]


def plan_groups(
    config: CorpusConfig,
    unit_bytes: int,
    shard: str,
    *,
    known: KnownTypes | None = None,
    max_units: int | None = None,
) -> list[Unit]:
    """Return the work units of a stage that reads a corpus; the payload of each is a ``Group``.

    Args:
        config: which inputs, and how they fall into documents.
        unit_bytes: about how many bytes a unit has.
        shard: name of a unit's file, with a place for the unit's number: ``shard-{:07}.arrow``.
        known: from ``find_known_types``.
        max_units: about the largest number of units; they are larger in a corpus that would have more.

    Raises:
        TokkitError: see ``plan_units``.
    """
    sources = find_sources(config, known)
    if max_units is not None:
        unit_bytes = max(unit_bytes, sum(source.bytes for source in sources) // max_units)
    parts = _cut_sources(sources, config, unit_bytes)
    units = [
        Unit(
            name=_name_group(group),
            shard=shard.format(number),
            identity={"files": [unit.identity for unit in group]},
            stamp=[unit.source.mtime_ns for unit in group],
            size=sum(unit.size for unit in group),
            payload=group,
            inputs=[(unit.name, unit.size) for unit in group],
            in_parent=group[0].source.is_stdin,
        )
        for number, group in enumerate(group_units(parts, unit_bytes))
    ]
    source = units[-1].payload[0].source
    is_short = len(source.head) < HEAD_BYTES
    if not source.is_stdin or is_short or find_boundary_pattern(source, config) is None:
        return units
    from tokkit.corpus.stdin_parts import StdinParts

    start = partial(StdinParts, source, config, unit_bytes, shard, len(units) - 1)
    return [*units[:-1], replace(units[-1], open_stream=start)]


class _KnownFile(TypedDict):
    """What a plan says of a file; see ``Source``."""

    uri: str | None
    path: str
    bytes: int
    mtime_ns: int
    type: FileType
    is_settled: bool


class _KnownPart(TypedDict):
    source: _KnownFile


def find_known_types(output: Path, options: Mapping[str, Any]) -> KnownTypes:
    """Return what files were found to be by an earlier command that planned the same output.

    Args:
        output: folder of the stage.
        options: those that its units depend on.
    """
    types: dict[FileType, FileType] = {}  # one of each, as there are 100,000 files
    return {
        (file["uri"], file["path"], file["bytes"], file["mtime_ns"]): types.setdefault(
            file["type"], file["type"]
        )
        for group in read_planned_payloads(output, options, tuple[_KnownPart, ...])
        for file in (part["source"] for part in group)
        if file["is_settled"]
    }


def hash_group(config: CorpusConfig, group: Group) -> list[str]:
    """Return the SHA-256 of what is read of each unit of a group, to compare it with an earlier run."""
    # Compiles kernels: only when it is needed.
    from tokkit.corpus.readers import digest_unit, read_ahead

    return [digest_unit(unit, config) for unit in read_ahead(group)]


def list_left_out(units: Sequence[Unit]) -> list[str]:
    """Return the files that were left out of the inputs of the units of ``plan_groups``."""
    parts = (part for unit in units for part in unit.payload)
    return list(dict.fromkeys(name for part in parts for name in part.source.left_out))


def group_units(units: Sequence[CorpusUnit], unit_bytes: int) -> list[Group]:
    """Group consecutive whole files in even shares, up to ``unit_bytes`` a group."""
    groups: list[list[CorpusUnit]] = []
    for is_alone, run in groupby(units, lambda unit: unit.source.is_stdin or not unit.is_whole):
        files = list(run)
        if is_alone:
            groups += [[unit] for unit in files]
            continue
        total = sum(unit.size for unit in files)
        num_shares = count_units(total, unit_bytes)
        position, last_share, room = 0, -1, 0
        for unit in files:
            share = min(position * num_shares // max(total, 1), num_shares - 1)
            if share > last_share or unit.size > room:
                groups.append([])
                last_share, room = share, unit_bytes
            groups[-1].append(unit)
            position += unit.size
            room -= unit.size
    return [tuple(group) for group in groups]


def count_units(num_bytes: int, unit_bytes: int) -> int:
    """Return how many even shares have at most ``unit_bytes`` each.

    The number is rounded up so that 2, 4 or 8 workers get equally many, if there are enough.
    """
    fewest = max(1, -(-num_bytes // unit_bytes))
    multiple = min(_MAX_ALIKE, 1 << (fewest - 1).bit_length())
    return -(-fewest // multiple) * multiple


def _name_group(group: Group) -> str:
    """Return the name of a group in errors: ``a.txt``, or ``a.txt to c.txt (3 files)``."""
    if len(group) == 1:
        return group[0].name
    return f"{group[0].name} to {group[-1].name} ({len(group)} files)"


def plan_units(config: CorpusConfig, unit_bytes: int = UNIT_BYTES) -> list[CorpusUnit]:
    """Cut a corpus into units, in the order of its documents.

    Args:
        config: which inputs, and how they fall into documents.
        unit_bytes: about how many bytes of a file make a unit.

    Raises:
        TokkitError: if an input is missing, cannot be read, or is not what its name says.
        UsageError: for standard input in a format that cannot be streamed.
    """
    return _cut_sources(find_sources(config), config, unit_bytes)


def _cut_sources(
    sources: Sequence[Source], config: CorpusConfig, unit_bytes: int
) -> list[CorpusUnit]:
    """Return the units of files, of which those on servers are looked into several at a time."""
    cut = partial(_cut_source, config=config, unit_bytes=unit_bytes)
    remote = [s for s in sources if s.uri and (s.bytes > unit_bytes or s.format in _LOOKED_INTO)]
    parts: Iterator[list[CorpusUnit]] = iter(())
    if remote:
        from tokkit.corpus.remote_files import read_several  # imports pyarrow.fs

        parts = read_several(cut, remote)
    is_remote = {id(source) for source in remote}
    cuts = (next(parts) if id(source) in is_remote else cut(source) for source in sources)
    return [unit for units in cuts for unit in units]


def _cut_source(source: Source, config: CorpusConfig, unit_bytes: int) -> list[CorpusUnit]:
    """Return the units of one file."""
    if source.format in ("csv", "tsv") and not source.is_stdin:
        from tokkit.corpus.csv_rows import check_header  # which reads units

        check_header(source, config)
    if source.is_stdin or source.compression:
        return [CorpusUnit(source, 0, TO_THE_END, source.bytes)]
    if source.is_table:
        from tokkit.corpus.table_files import plan_arrow, plan_parquet

        plan = plan_parquet if source.format == "parquet" else plan_arrow
        return _weigh(source, *plan(source, config.text_field, unit_bytes))
    boundary = find_boundary_pattern(source, config)
    bounds = [0, source.bytes] if boundary is None else find_bounds(source, unit_bytes, boundary)
    return [CorpusUnit(source, start, stop, stop - start) for start, stop in pairwise(bounds)]


def find_boundary_pattern(source: Source, config: CorpusConfig) -> re.Pattern[bytes] | None:
    """Return what a text can be cut after; None if it can only be read as a whole."""
    if FORMATS[source.format].parts is None or (
        source.format == "text" and config.documents == "file"
    ):
        return None
    blank_line = source.format == "text" and config.documents == "blank-line"
    return BLANK_LINE if blank_line else LINE_END


def _weigh(source: Source, bounds: list[int], weights: list[int]) -> list[CorpusUnit]:
    """Return units between bounds, each with a share of the file's bytes by its weight."""
    weights = weights if any(weights) else [1] * len(weights)
    total = sum(weights)
    units = []
    weight = share = 0
    for (start, stop), more in zip(pairwise(bounds), weights, strict=True):
        weight += more
        size = source.bytes * weight // total - share
        units.append(CorpusUnit(source, start, stop, size))
        share += size
    return units


def find_bounds(source: Source, unit_bytes: int, boundary: re.Pattern[bytes]) -> list[int]:
    """Return where the units of a file begin and end: 0, the cuts, and its size.

    Args:
        source: an uncompressed file.
        unit_bytes: about how many bytes a unit has at most.
        boundary: ``LINE_END`` or ``BLANK_LINE``.

    Raises:
        TokkitError: if the file cannot be read, or has another size than before.
    """
    bounds = [0]
    num_units = count_units(source.bytes, unit_bytes)
    if num_units > 1:
        with wrap_os_errors(source.name), open_files(source.uri).open(source.path) as file:
            for index in range(1, num_units):
                target = source.bytes * index // num_units
                if target > bounds[-1]:
                    bounds.append(_find_boundary(file, source, target, boundary))
    # A last document that is longer than a unit's share ends with the file.
    return [*(bound for bound in bounds if bound < source.bytes or not bound), source.bytes]


def _find_boundary(file: Any, source: Source, target: int, boundary: re.Pattern[bytes]) -> int:
    """Return the first boundary from ``target`` (above 0) on, or the end of the file."""
    # A line that begins at the target has its line end right before it.
    offset = target - 1
    data = b""
    read_bytes = _FIRST_READ_BYTES
    while True:
        at = offset + len(data)
        final = at + read_bytes >= source.bytes
        file.seek(at)
        data += file.read(read_bytes)
        if len(data) < min(source.bytes - offset, at + read_bytes - offset):
            raise changed_error(source.name)
        match = boundary.search(data)
        if match and (final or match.end() < len(data)):
            return offset + match.end()
        if final:
            return source.bytes
        # Keep what may begin a boundary: one that a "\n" may still extend, or the last line end
        # if only blanks follow it.
        kept = match.start() if match else trailing_line_end(data)
        data = data[kept:]
        offset += kept
        read_bytes = min(2 * read_bytes, _LARGEST_READ_BYTES)


def trailing_line_end(data: bytes) -> int:
    """Return the position of a line end that only blanks follow; the data's length without one."""
    last = max(data.rfind(b"\n"), data.rfind(b"\r"))
    return last if last >= 0 and _OPEN_LINE.match(data, last) else len(data)
