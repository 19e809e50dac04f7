"""The journal of a folder in the making: one line for each unit that is done.

``.tokkit/journal.jsonl`` begins with a line on the stage and then gains a line for each finished
unit, synced before the next is taken up:

    {"key": "9f…", "kind": "tokens", "options": {…}, …}
    {"unit": "3c…", "stamp": 17…, "name": "shard-00000.arrow", "bytes": 812, "sha256": "…", …}

A line that a crash cut short is not there: its unit is done again. It stays after the manifest is
written, since it remembers the inputs' time stamps, which a manifest does not, so that it does
not differ between two machines.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokkit.engine.files import STATE_FOLDER, sync_folder
from tokkit.errors import wrap_os_errors


@dataclass(frozen=True)
class Journal:
    """What a journal says: its first line, and the last line on each unit by the unit's key."""

    path: Path
    stage: dict[str, Any] | None
    units: dict[str, dict[str, Any]]

    @property
    def has_rows(self) -> bool:
        """Whether any unit that is done came to something."""
        return any(line.get("rows", 1) for line in self.units.values())

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """Read a folder's journal; one that is missing or empty knows of no stage and no unit."""
        path = folder / STATE_FOLDER / "journal.jsonl"
        lines: list[dict[str, Any]] = []
        if path.is_file():
            with wrap_os_errors(path):
                data = path.read_bytes()
            for line in data.split(b"\n")[:-1]:
                try:
                    lines.append(json.loads(line))
                except ValueError:
                    continue
        stage = lines[0] if lines and "kind" in lines[0] else None
        units = {line["unit"]: line for line in lines if "unit" in line} if stage else {}
        return cls(path, stage, units)

    def begin(self, stage: dict[str, Any]) -> None:
        """Start a new journal with the line on its stage."""
        with wrap_os_errors(self.path):
            self.path.unlink(missing_ok=True)
            self._append(stage)
            sync_folder(self.path.parent)

    def append(self, line: dict[str, Any]) -> None:
        """Add the line on a finished unit, safe from a crash when this returns."""
        with wrap_os_errors(self.path):
            self._append(line)

    def _append(self, line: dict[str, Any]) -> None:
        with self.path.open("a+b") as file:
            # A line that a crash cut short is ended first, so that it spoils no other.
            if size := file.seek(0, os.SEEK_END):
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
