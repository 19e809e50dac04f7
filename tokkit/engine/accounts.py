"""Accounts of a stage: how many documents, sentences and tokens came in, were kept, or were dropped.

    >>> accounts = Accounts()
    >>> accounts.add("documents", 10)
    >>> accounts.drop("documents", "empty", 2)
    >>> accounts.keep("documents", 8)
    >>> accounts.check(folder, is_resumed=False)

What came in minus what was dropped is what was kept, always: ``check`` makes sure of it when a
stage ends, and ``tokkit verify`` later. Other counts, of all sources or of one, obey no such rule:

    >>> accounts.count("words", 9)
    >>> accounts.count_source("corpora/", "words", 7)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from tokkit.engine.json_files import Count
from tokkit.errors import TokkitError

_Entry = TypedDict("_Entry", {"in": Count, "kept": Count, "dropped": dict[str, Count]})
_PARTS = {"figures": dict[str, Count], "sources": dict[str, dict[str, Count]]}


class Accounts:
    """Counts by unit of account (documents, sentences, tokens), summed over work units."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[str, Any]] = {}
        self.figures: dict[str, int] = {}
        self.sources: dict[str, dict[str, int]] = {}

    def _entry(self, what: str) -> dict[str, Any]:
        return self.entries.setdefault(what, {"in": 0, "kept": 0, "dropped": {}})

    def add(self, what: str, number: int) -> None:
        """Count ``number`` of ``what`` as having come in."""
        self._entry(what)["in"] += int(number)

    def keep(self, what: str, number: int) -> None:
        """Count ``number`` of ``what`` as kept."""
        self._entry(what)["kept"] += int(number)

    def drop(self, what: str, reason: str, number: int = 1) -> None:
        """Count ``number`` of ``what`` as dropped for ``reason``."""
        if number:
            dropped = self._entry(what)["dropped"]
            dropped[reason] = dropped.get(reason, 0) + int(number)

    def count(self, figure: str, number: int) -> None:
        """Add ``number`` to another count."""
        self.figures[figure] = self.figures.get(figure, 0) + int(number)

    def count_source(self, source: str, figure: str, number: int) -> None:
        """Add ``number`` to a count of one source, an INPUT as it was named."""
        figures = self.sources.setdefault(source, {})
        figures[figure] = figures.get(figure, 0) + int(number)

    def kept(self, what: str) -> int:
        """Return how many of ``what`` were kept."""
        return int(self.entries.get(what, {}).get("kept", 0))

    def merge(self, other: "Accounts") -> None:
        """Add the accounts of another unit."""
        for what, entry in other.entries.items():
            self.add(what, entry["in"])
            self.keep(what, entry["kept"])
            for reason, number in entry["dropped"].items():
                self.drop(what, reason, number)
        for figure, number in other.figures.items():
            self.count(figure, number)
        for source, figures in other.sources.items():
            for figure, number in figures.items():
                self.count_source(source, figure, number)

    def imbalances(self) -> list[str]:
        """Return a message for each entry in which ``in`` minus ``dropped`` is not ``kept``."""
        return [
            f"{what}: {entry['in']} in, {sum(entry['dropped'].values())} dropped, "
            f"but {entry['kept']} kept"
            for what, entry in self.entries.items()
            if entry["in"] - sum(entry["dropped"].values()) != entry["kept"]
        ]

    def check(self, folder: Path, *, is_resumed: bool) -> None:
        """Check that the accounts of a folder's units add up.

        Args:
            folder: output of the stage.
            is_resumed: whether receipts of an earlier run are among them, which may have been changed.

        Raises:
            TokkitError: if they do not, and some are of an earlier run.
            AssertionError: if they do not, and all are of this run, which is a bug in tokkit.
        """
        if wrong := self.imbalances():
            if not is_resumed:
                raise AssertionError("; ".join(wrong))
            raise TokkitError(
                f"{folder}: the receipts of finished units do not add up ({'; '.join(wrong)}); pass "
                f"--overwrite to do the work again"
            )

    def as_dict(self) -> dict[str, Any]:
        """Return the accounts as a manifest keeps them, the same in any order of the units."""
        entries = {
            what: {**entry, "dropped": dict(sorted(entry["dropped"].items()))}
            for what, entry in sorted(self.entries.items())
        }
        data = {**entries, "figures": dict(sorted(self.figures.items()))}
        if self.sources:
            data["sources"] = {name: dict(sorted(f.items())) for name, f in self.sources.items()}
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Accounts":
        """Return the accounts of which ``as_dict`` returned ``data``.

        Raises:
            msgspec.ValidationError: they are of other types.
        """
        accounts = cls()
        parts: dict[str, Any] = {
            what: msgspec.convert(part, _PARTS.get(what, _Entry)) for what, part in data.items()
        }
        accounts.figures = parts.pop("figures", {})
        accounts.sources = parts.pop("sources", {})
        accounts.entries = parts
        return accounts
