"""Plan, map, commit: how every stage works.

A stage plans work units from its inputs and options alone, maps a pure function over them, one
unit in and one file out, and commits by writing its record last. A finished unit is recognized by
its content key, so running the same command again resumes:

    plan:    unit 0, unit 1, unit 2          keys k0, k1, k2
    journal: k0, k2 are done                 (the process was killed during unit 1)
    map:     unit 1                          the others are skipped
    commit:  manifest.json                   three rows

``run_stage`` does all of it for stages whose files are shards. The stage ``train`` is different: its
files are counts, from which it learns a vocabulary, and it commits another record. So
``tokkit.vocab.train`` plans and calls ``require_same_inputs``, and ``tokkit.vocab.counting`` calls
``complete_units``.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile
from tokkit.engine.folder import FolderLock
from tokkit.engine.journal import Journal, UnitLine
from tokkit.engine.json_files import FileRow
from tokkit.engine.local import run_units
from tokkit.engine.manifest import Manifest
from tokkit.engine.progress import open_bar
from tokkit.engine.spec import (
    StageSpec,
    content_key,
    find_finished,
    locked_folder,
    other_run_error,
    prepare_folder,
)
from tokkit.engine.unit import Outcome, Task, Unit, UnitResult
from tokkit.errors import escape_controls

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class StagePlan(StageSpec):
    """A stage with its work units: enough to tell whether the folder is up to date.

    Attributes:
        units: work units, in the order in which their files are read later.
        unit_options: the options that the units' files depend on; None for all of them.
        hash_inputs: returns the SHA-256 of each input that a payload's unit reads; called if a time
            stamp has changed.
    """

    units: Sequence[Unit]
    unit_options: Mapping[str, Any] | None = None
    hash_inputs: Callable[[Any], Sequence[str]] | None = None

    @property
    def key(self) -> str:
        """Content key of the stage."""
        if self.inputs is not None:
            return super().key
        return content_key(
            {**self.metadata, "inputs": [dict(unit.identity) for unit in self.units]}
        )

    def unit_keys(self) -> list[str]:
        """Return the content key of each unit, in order."""
        return [self.unit_key(unit) for unit in self.units]

    def unit_key(self, unit: Unit) -> str:
        """Return the content key of a unit."""
        metadata = self.metadata
        if self.unit_options is not None:
            metadata["options"] = dict(self.unit_options)
        return content_key({**metadata, "unit": dict(unit.identity), "shard": unit.shard})

    def work_keys(self) -> set[str]:
        """Return the content keys of the units."""
        return set(self.unit_keys())

    def done_keys(self) -> set[str]:
        """Return the content keys of the units that the journal has, except those without rows.

        A unit of a stream counts as the stream. Units without rows contain nothing to lose. If a wrong option dropped every document, the
        command can be run with the right one without ``--overwrite``.
        """
        units = Journal.read(self.output).units
        return {line.get("stream", key) for key, line in units.items() if line.get("rows", 1)}


@dataclass(frozen=True, kw_only=True)
class Stage(StagePlan):
    """A stage with its plan and its function.

    Attributes:
        function: ``function(context, payload, sink, report)`` writes one unit's file into the
            binary file ``sink``, calls ``report(n)`` as it progresses through the unit's size, and
            returns a ``UnitResult``. It is pure, and importable by name in another process.
        context: its first argument, the same for all units; picklable.
        load: loads what all units need into the context, once, before this process is copied to
            start workers.
        progress_unit: progress bar's unit, such as ``B``.
        prepare: writes other files, such as the tokenizer, before the first unit.
        check_accounts: called before the manifest is written; raises ``TokkitError`` if the accounts
            are invalid.
        find_warnings: returns lines about what looks wrong, from the accounts and the notes of each
            unit; they are logged, and kept in the manifest.
        on_result: called with the result of each unit that is done in this run.
        cluster: address of the Ray cluster that does the units; None works on this machine.
    """

    function: Callable[[Any, Any, HashedFile, Callable[[int], None]], UnitResult]
    context: Any
    load: Callable[[Any], None] | None = None
    progress_unit: str = "B"
    prepare: Callable[[Path], None] | None = None
    check_accounts: Callable[[Accounts], None] | None = None
    find_warnings: Callable[[Accounts, Sequence[Mapping[str, Any]]], list[str]] | None = None
    on_result: Callable[[UnitResult], None] | None = None
    cluster: str | None = None


def run_stage(stage: Stage, *, workers: int, overwrite: bool, progress: bool) -> Manifest:
    """Complete a stage's folder, doing only the units that are not done yet.

    Args:
        stage: stage to run.
        workers: number of processes; 0 works in this one. The output is the same for any number.
        overwrite: delete what another run left in the folder.
        progress: show a progress bar if standard error is a terminal.

    Returns:
        The folder's manifest.

    Raises:
        TokkitError: on invalid input or an environment error; finished units are kept.
        Interrupted: after SIGINT or SIGTERM; finished units are kept.
    """
    if not overwrite and (finished := find_finished(stage)) is not None:
        require_same_inputs(stage, finished.inputs)
        finished.log_warnings(stage.output)
        return finished
    with locked_folder(stage, overwrite=overwrite):
        lines = complete_units(stage, workers=workers, overwrite=overwrite, progress=progress)
        accounts = sum_accounts(lines)
        accounts.check()
        if stage.check_accounts is not None:
            stage.check_accounts(accounts)
        warnings = []
        if stage.find_warnings is not None:
            notes = [line.get("notes", {}) for line in lines]
            warnings = stage.find_warnings(accounts, notes)
        manifest = stage.make_manifest(
            inputs=list_inputs(stage, lines) if stage.inputs is None else stage.inputs,
            shards=[
                FileRow(
                    name=line["name"],
                    bytes=line["bytes"],
                    sha256=line["sha256"],
                    rows=line["rows"],
                    tokens=line["tokens"],
                )
                for line in lines
            ],
            accounts=accounts,
            warnings=warnings,
        )
        manifest.log_warnings(stage.output)
        manifest.write(stage.output)
        return manifest


def require_same_inputs(stage: StagePlan, inputs: Sequence[FileRow]) -> None:
    """Refuse a finished folder whose inputs have changed since, by time stamps and then content.

    Args:
        stage: the stage, whose content key is that of the folder.
        inputs: the manifest's input rows.

    Raises:
        TokkitError: if an input has changed, or cannot be compared, as standard input cannot.
    """
    journal = Journal.read(stage.output)
    rows = iter(inputs)
    for unit, key in zip(stage.units, stage.unit_keys(), strict=True):
        # If the folder was copied without its journal, the record still has the hashes.
        hashes = [row["sha256"] for _, row in zip(unit.inputs, rows, strict=False)]
        line = journal.units.get(key)
        if unit.in_parent:
            raise other_run_error(
                stage, "standard input cannot be compared with that of the earlier run"
            )
        if not _has_same_content(stage, unit, line, hashes):
            raise other_run_error(stage, f"{unit.name} has changed since")
        if line is not None and line["stamp"] != unit.stamp:
            with FolderLock(stage.output):
                journal.append({**line, "stamp": unit.stamp})  # the next run need not hash it
    log.info("%s: up to date", stage.output)


def _has_same_content(
    stage: StagePlan, unit: Unit, line: UnitLine | None, hashes: Sequence[str]
) -> bool:
    """Return whether a unit's inputs are what they were when its file was written."""
    if stage.hash_inputs is None or (line is not None and line["stamp"] == unit.stamp):
        return True
    log.info("%s: its modification time changed; comparing its content", unit.name)
    return list(stage.hash_inputs(unit.payload)) == list(hashes)


def complete_units(
    stage: Stage, *, workers: int, overwrite: bool, progress: bool
) -> list[UnitLine]:
    """Do the units of a stage that are not done yet, in its locked folder.

    Returns:
        The journal line of each unit, in the order of the units.
    """
    journal = prepare_folder(stage, overwrite=overwrite)
    if stage.prepare is not None:
        stage.prepare(stage.output)
    units = [unit for unit in stage.units if unit.open_stream is None]
    lines = {
        unit.shard: line
        for unit, key in zip(units, stage.unit_keys(), strict=False)
        if (line := journal.units.get(key)) and _is_done(stage, unit, line)
    }
    missing = [unit for unit in units if unit.shard not in lines]
    stream = None
    if len(units) < len(stage.units):
        stream = _RemainingStream(stage, journal, lines)
    if lines and missing:
        log.info(
            "%s: continuing; %d of %d units are done", stage.output, len(lines), len(stage.units)
        )
    bar = open_bar(
        stage.kind,
        stage.progress_unit,
        total=sum(unit.size for unit in stage.units),
        initial=sum(unit.size for unit in stage.units if unit.shard in lines),
        show=progress,
    )
    task = Task(stage.function, stage.context, stage.output, stage.load)
    outcomes = run_units(task, missing, workers, bar.update, stream, cluster=stage.cluster)
    with bar, closing(outcomes):
        for unit, outcome in outcomes:
            if stage.on_result is not None:
                stage.on_result(outcome.result)
            line = lines[unit.shard] = _make_line(stage.unit_key(unit), unit, outcome)
            if stream is not None and unit.shard in stream.shards:
                line["stream"] = stream.key
            journal.append(line)
    shards = [unit.shard for unit in units]
    if stream is not None:
        shards += stream.shards
        stream.remove_others()
    return [lines[shard] for shard in shards]


class _RemainingStream:
    """The units of a stage's stream that an earlier run did not finish.

    Args:
        stage: its last unit opens the stream.
        journal: of the output folder.
        lines: gets the journal lines of the finished units.

    Attributes:
        key: content key of the stream.
        shards: the files of all units that were read.
    """

    def __init__(self, stage: Stage, journal: Journal, lines: dict[str, UnitLine]) -> None:
        unit = stage.units[-1]
        assert unit.open_stream is not None  # noqa: S101  the caller looked
        self.key = stage.unit_key(unit)
        self.shards: list[str] = []
        self._stream = unit.open_stream()
        self._stage = stage
        self._journal = journal
        self._lines = lines

    @property
    def ended(self) -> bool:
        """Whether all units were returned."""
        return self._stream.ended

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._stream.fileno()

    def read(self) -> list[Unit]:
        """Read what is there, and return the units that end in it and are not done."""
        missing = []
        for unit in self._stream.read():
            self.shards.append(unit.shard)
            line = self._journal.units.get(self._stage.unit_key(unit))
            if line is not None and _is_done(self._stage, unit, line):
                self._lines[unit.shard] = line
            else:
                missing.append(unit)
        return missing

    def remove_others(self) -> None:
        """Delete the files of a longer stream that was stopped."""
        for line in self._journal.units.values():
            path = self._stage.output / line["name"]
            is_other = line.get("stream") == self.key and line["name"] not in self._lines
            if is_other and path.parent == (self._stage.output / self.shards[0]).parent:
                path.unlink(missing_ok=True)


def _is_done(stage: StagePlan, unit: Unit, line: UnitLine) -> bool:
    """Return whether a unit's file is complete, and its inputs are unchanged.

    A unit of standard input is never done.
    """
    path = stage.output / unit.shard
    return (
        not unit.in_parent
        and path.is_file()
        and path.stat().st_size == line["bytes"]
        and _has_same_content(stage, unit, line, line["input_sha256"])
    )


def _make_line(key: str, unit: Unit, outcome: Outcome) -> UnitLine:
    """Return the journal line of a finished unit."""
    result = outcome.result
    line: UnitLine = {
        "unit": key,
        "input": escape_controls(unit.name),  # JSON has no names that are not UTF-8
        "input_sha256": list(unit.input_sha256 or result.input_sha256),
        "stamp": unit.stamp,
        "name": unit.shard,
        "bytes": outcome.bytes,
        "sha256": outcome.sha256,
        "rows": result.rows,
        "tokens": result.tokens,
        "accounts": result.accounts.as_dict(),
    }
    if result.notes:
        line["notes"] = dict(result.notes)
    return line


def sum_accounts(lines: Sequence[UnitLine]) -> Accounts:
    """Return the accounts of all units."""
    accounts = Accounts()
    for line in lines:
        accounts.merge(Accounts.from_dict(line["accounts"]))
    return accounts


def list_inputs(stage: StagePlan, lines: Sequence[UnitLine]) -> list[FileRow]:
    """Return the manifest's input rows."""
    # The last unit of a stream has the hash of all of it.
    lines = [*lines[: len(stage.units) - 1], lines[-1]]
    return [
        {"name": name, "bytes": size, "sha256": sha256}
        for unit, line in zip(stage.units, lines, strict=True)
        for (name, size), sha256 in zip(unit.inputs, line["input_sha256"], strict=True)
    ]
