"""Small files together: a folder of a million of them must not become a million shards.

Whole files that follow one another make one work unit, up to the size of a unit. With units of
64 MB:

    a.txt 1 kB, b.txt 2 MB, c.txt 50 MB, d.txt 20 MB, e.txt 200 MB, f.txt 1 kB

    (a.txt, b.txt, c.txt)  (d.txt,)  (e.txt, first part)  (e.txt, second part) …  (f.txt,)

Like the units themselves, groups follow from the files and ``unit_bytes`` alone.
"""

from collections.abc import Sequence
from typing import Any

from tokkit.corpus.config import CorpusConfig
from tokkit.corpus.units import CorpusUnit

Group = tuple[CorpusUnit, ...]


def group_units(units: Sequence[CorpusUnit], unit_bytes: int) -> list[Group]:
    """Put whole files that follow one another together, up to ``unit_bytes``."""
    groups: list[list[CorpusUnit]] = []
    room = -1  # in the last group; less than nothing where it takes no more
    for unit in units:
        alone = unit.is_stdin or not unit.is_whole
        if alone or unit.size > room:
            groups.append([])
            room = unit_bytes
        groups[-1].append(unit)
        room = -1 if alone else room - unit.size
    return [tuple(group) for group in groups]


def name_group(group: Group) -> str:
    """What an error calls it: ``a.txt``, or ``a.txt to c.txt (3 files)``."""
    if len(group) == 1:
        return group[0].name
    return f"{group[0].name} to {group[-1].name} ({len(group)} files)"


def identify_group(group: Group) -> dict[str, Any]:
    """What a content key is made of."""
    return {"files": [unit.identity for unit in group]}


def stamp_group(group: Group) -> list[int]:
    """The time stamps of its files."""
    return [unit.source.mtime_ns for unit in group]


def digest_group(
    group: Group, config: CorpusConfig, language_field: str | None = None
) -> list[str]:
    """SHA-256 of what is read of each of its files, without keeping any of it.

    Raises:
        TokkitError: where an input is damaged or has changed since the planning.
    """
    from tokkit.corpus.readers import digest_unit  # kernels: only when they are needed

    return [digest_unit(unit, config, language_field=language_field) for unit in group]
