"""The journal of an output folder: a line for each unit that is done.

``.tokkit/journal.jsonl`` begins with a line about the stage and gains a line for each finished
unit, which is synced before the next unit is recorded:

    {"key": "9f…", "kind": "tokens", "options": {…}, …, "checksum": 29…}
    {"unit": "3c…", "stamp": 17…, "name": "shard-00000.arrow", "bytes": 812, …, "checksum": 41…}

A line that a crash cut short, or that has changed, is ignored, so its unit is done again. A stage
with other options that can use the same units adds a line about itself, and the last such line
counts. The journal remains after the manifest is written: it has the time stamps of the inputs,
which the manifest leaves out so that it is the same on every machine.
"""

import json
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict, cast

import msgspec

from tokkit.engine.files import STATE_FOLDER, sync_folder
from tokkit.engine.json_files import canonical_json
from tokkit.errors import wrap_os_errors


class StageMetadata(TypedDict):
    """What the content keys of a stage and its units have in common."""

    format_version: int
    kind: str
    options: dict[str, Any]
    seed: int | None
    tokenizer_fingerprint: str | None


class StageLine(StageMetadata):
    """A line about a stage: what determines the content of its folder."""

    key: str


class UnitLine(TypedDict):
    """A line about a finished unit; see ``UnitResult``."""

    unit: str
    input: str
    input_sha256: list[str]
    stamp: int | list[int]
    name: str
    bytes: int
    sha256: str
    rows: int
    tokens: int
    accounts: dict[str, Any]
    notes: NotRequired[dict[str, Any]]
    stream: NotRequired[str]  # the content key of the unit that it is a part of


@dataclass(frozen=True)
class Journal:
    """The content of a journal.

    Attributes:
        path: the journal file.
        stage: line about the stage; None if the journal is missing or empty.
        units: last line about each unit, by the unit's content key.
    """

    path: Path
    stage: StageLine | None
    units: dict[str, UnitLine]

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """Read the journal of an output folder."""
        path = folder / STATE_FOLDER / "journal.jsonl"
        data = b""
        if path.is_file():
            with wrap_os_errors(path):
                data = path.read_bytes()
        stage: StageLine | None = None
        units: dict[str, UnitLine] = {}
        for line in data.split(b"\n")[:-1]:
            found = _read_line(line)
            if "unit" in found:
                units[found["unit"]] = cast("UnitLine", found)
            elif "kind" in found:
                stage = cast("StageLine", found)
        return cls(path, stage, units if stage else {})

    def append(self, line: StageLine | UnitLine) -> None:
        """Add a line to the file; it survives a crash from when this returns."""
        with wrap_os_errors(self.path), self.path.open("a+b") as file:
            size = file.seek(0, os.SEEK_END)
            if size:  # end a line that a crash cut short, so that it does not spoil this one
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            whole = {**line, "checksum": _checksum(line)}
            file.write(json.dumps(whole, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
            if not size:
                sync_folder(self.path.parent)


def _checksum(line: Mapping[str, Any]) -> int:
    return zlib.crc32(canonical_json(line))


def _read_line(text: bytes) -> dict[str, Any]:
    """Return a line without its checksum; an empty one if it is damaged."""
    with suppress(ValueError, RecursionError):
        line = msgspec.json.decode(text, type=dict[str, Any])
        if line.pop("checksum", None) == _checksum(line):
            return line
    return {}
