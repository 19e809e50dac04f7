"""Plan, map, commit: how every stage works.

A stage plans work units from its inputs and options alone, maps a pure function over them, one
unit in and one file out, and commits by writing its record last. A finished unit is recognized by
its content key, so running the same command again resumes:

    plan:     unit 0, unit 1, unit 2          keys k0, k1, k2
    receipts: of k0 and k2                    (the process was killed during unit 1)
    map:      unit 1                          the others are skipped
    commit:   manifest.json                   three rows

``run_stage`` does all of it for stages whose files are shards. The stage ``train`` is different: its
files are counts, from which it learns a vocabulary, and it commits another record. So
``tokkit.vocab.train`` plans and calls ``require_same_inputs``, and ``tokkit.vocab.counting`` calls
``complete_units``.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, cast

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile, measure_file, remove_file
from tokkit.engine.json_files import FileRow
from tokkit.engine.local import run_units
from tokkit.engine.manifest import Manifest
from tokkit.engine.progress import open_bar
from tokkit.engine.receipts import Receipt, read_receipts, write_receipt
from tokkit.engine.spec import StageSpec, find_finished, other_run_error, shared_folder
from tokkit.engine.unit import Task, Unit, UnitResult, content_key, require_statement
from tokkit.errors import TokkitError

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

    @cached_property
    def key(self) -> str:
        """Content key of the stage."""
        if self.inputs is not None:
            return super().key
        return content_key(
            {**self.metadata, "inputs": [dict(unit.identity) for unit in self.units]}
        )

    @cached_property
    def digest(self) -> str:
        """Content key of what the units have in common."""
        options = self.options if self.unit_options is None else self.unit_options
        return content_key({**self.metadata, "options": dict(options)})

    def unit_key(self, unit: Unit) -> str:
        """Return the content key of a unit."""
        return unit.key(self.digest)

    def work_keys(self) -> set[str]:
        """Return the content keys of the units."""
        return {*map(self.unit_key, self.units)}

    def done_keys(self) -> set[str]:
        """Return the content keys of the units that have receipts, except those without rows.

        A unit of a stream counts as the stream. Units without rows contain nothing to lose. If a
        wrong option dropped every document, the command can be run with the right one without
        ``--overwrite``.
        """
        receipts = read_receipts(self.output)
        return {receipt.get("stream", key) for key, receipt in receipts.items() if receipt["rows"]}


@dataclass(frozen=True, kw_only=True)
class Stage(StagePlan):
    """A stage with its plan and its function.

    Attributes:
        function: ``function(context, payload, sink, report)`` writes one unit's file into the
            binary file ``sink``, calls ``report(n)`` as it progresses through the unit's size, and
            returns a ``UnitResult``. It is pure, and importable by name in another process.
        context: its first argument, the same for all units; picklable.
        load: loads what all units need into the context, once, before the first unit, and before
            this process is copied to start workers.
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


def run_stage(
    stage: Stage, *, workers: int, overwrite: bool, progress: bool, commit: bool = False
) -> Manifest:
    """Complete a stage's folder, doing only the units that are not done yet.

    Args:
        stage: stage to run.
        workers: number of processes; 0 works in this one. The output is the same for any number.
        overwrite: delete what another run left in the folder.
        progress: show a progress bar if standard error is a terminal.
        commit: all units were done in parts; see ``tokkit.engine.parts``.

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
    with shared_folder(stage, overwrite=overwrite, planned=commit):
        receipts, is_resumed = complete_units(
            stage, workers=workers, progress=progress, commit=commit
        )
        accounts = sum_accounts(receipts)
        accounts.check(stage.output, is_resumed=is_resumed)
        if stage.check_accounts is not None:
            stage.check_accounts(accounts)
        warnings = []
        if stage.find_warnings is not None:
            notes = [receipt.get("notes", {}) for receipt in receipts]
            warnings = stage.find_warnings(accounts, notes)
        manifest = stage.make_manifest(
            inputs=list_inputs(stage, receipts) if stage.inputs is None else stage.inputs,
            shards=[_describe_shard(receipt) for receipt in receipts],
            accounts=accounts,
            warnings=warnings,
        )
        manifest.log_warnings(stage.output)
        require_statement(stage.output, stage.key)
        manifest.write(stage.output)
        return manifest


def _describe_shard(receipt: Receipt) -> FileRow:
    """Return the manifest's row of a unit's file."""
    known: Mapping[str, object] = receipt
    return cast("FileRow", {name: known[name] for name in FileRow.__annotations__ if name in known})


def require_same_inputs(stage: StagePlan, inputs: Sequence[FileRow]) -> None:
    """Refuse a finished folder whose inputs have changed since, by time stamps and then content.

    Args:
        stage: the stage, whose content key is that of the folder.
        inputs: the manifest's input rows.

    Raises:
        TokkitError: if an input has changed, or cannot be compared, as standard input cannot.
    """
    receipts = read_receipts(stage.output)
    rows = iter(inputs)
    for unit in stage.units:
        # If the folder was copied without its receipts, the record still has the hashes.
        hashes = [row["sha256"] for _, row in zip(unit.inputs, rows, strict=False)]
        key = stage.unit_key(unit)
        receipt = receipts.get(key)
        if unit.in_parent:
            raise other_run_error(
                stage, "standard input cannot be compared with that of the earlier run"
            )
        if not _has_same_content(stage, unit, receipt, hashes):
            raise other_run_error(stage, f"{unit.name} has changed since")
        if receipt is not None and receipt["stamp"] != unit.stamp:
            # The next run need not hash it.
            write_receipt(stage.output, key, {**receipt, "stamp": unit.stamp})
    log.info("%s: up to date", stage.output)


def _has_same_content(
    stage: StagePlan, unit: Unit, receipt: Receipt | None, hashes: Sequence[str]
) -> bool:
    """Return whether a unit's inputs are what they were when its file was written."""
    if stage.hash_inputs is None or (receipt is not None and receipt["stamp"] == unit.stamp):
        return True
    log.info("%s: its modification time changed; comparing its content", unit.name)
    return list(stage.hash_inputs(unit.payload)) == list(hashes)


def find_done(
    stage: StagePlan, units: Sequence[Unit], found: Mapping[str, Receipt]
) -> dict[str, Receipt]:
    """Return the receipts of those units that are done, by the names of their files.

    Args:
        stage: the stage.
        units: some of its units.
        found: receipts in the output folder.
    """
    return {
        unit.shard: receipt
        for unit in units
        if (receipt := found.get(stage.unit_key(unit))) and _is_done(stage, unit, receipt)
    }


def complete_units(
    stage: Stage,
    *,
    workers: int,
    progress: bool,
    part: tuple[int, int] | None = None,
    commit: bool = False,
) -> tuple[list[Receipt], bool]:
    """Do the units of a stage that are not done yet, in its prepared folder.

    Args:
        stage: the stage.
        workers: number of processes; 0 works in this one.
        progress: show a progress bar if standard error is a terminal.
        part: do units I, I+N, … alone; None for all.
        commit: refuse to do a unit.

    Returns:
        The receipt of each unit, in the order of the units, and whether some are of an earlier run.
    """
    if part is None and not commit and stage.prepare is not None:
        stage.prepare(stage.output)
    first, step = part or (0, 1)
    units = [unit for unit in stage.units if unit.open_stream is None][first::step]
    found = read_receipts(stage.output, None if part is None else map(stage.unit_key, units))
    receipts = find_done(stage, units, found)
    missing = [unit for unit in units if unit.shard not in receipts]
    if missing and commit:
        raise TokkitError(
            f"{stage.output}: {len(missing):,} of {len(units):,} units are not done; run the parts "
            f"that --missing prints, or the command without --commit"
        )
    stream = None
    if any(unit.open_stream for unit in stage.units):
        stream = _RemainingStream(stage, found, receipts)
    if receipts and missing:
        log.info(
            "%s: continuing; %d of %d units are done", *(stage.output, len(receipts), len(units))
        )
    bar = open_bar(
        stage.kind,
        stage.progress_unit,
        total=sum(unit.size for unit in units),
        initial=sum(unit.size for unit in units if unit.shard in receipts),
        show=progress,
    )
    task = Task(stage.function, stage.context, stage.output, stage.load, stage.key, stage.digest)
    outcomes = run_units(task, missing, workers, bar.update, stream, cluster=stage.cluster)
    num_made = 0
    with bar, closing(outcomes):
        for unit, outcome in outcomes:
            num_made += 1
            if stage.on_result is not None:
                stage.on_result(outcome.result)
            receipts[unit.shard] = outcome.receipt
    shards = [unit.shard for unit in units]
    if stream is not None:
        shards += stream.shards
        stream.remove_others()
    return [receipts[shard] for shard in shards], num_made < len(shards)


class _RemainingStream:
    """The units of a stage's stream that an earlier run did not finish.

    Args:
        stage: its last unit opens the stream.
        found: receipts of the output folder.
        receipts: gets the receipts of the finished units.

    Attributes:
        shards: the files of all units that were read.
    """

    def __init__(
        self, stage: Stage, found: Mapping[str, Receipt], receipts: dict[str, Receipt]
    ) -> None:
        unit = stage.units[-1]
        assert unit.open_stream is not None  # noqa: S101  the caller looked
        self.shards: list[str] = []
        self._key = stage.unit_key(unit)
        self._stream = unit.open_stream()
        self._stage = stage
        self._found = found
        self._receipts = receipts

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
            receipt = self._found.get(self._stage.unit_key(unit))
            if receipt is not None and _is_done(self._stage, unit, receipt):
                self._receipts[unit.shard] = receipt
            else:
                missing.append(replace(unit, stream=self._key))
        return missing

    def remove_others(self) -> None:
        """Delete the files of a longer stream that was stopped."""
        for receipt in self._found.values():
            path = self._stage.output / receipt["name"]
            is_other = receipt.get("stream") == self._key and receipt["name"] not in self._receipts
            if is_other and path.parent == (self._stage.output / self.shards[0]).parent:
                remove_file(path)


def _is_done(stage: StagePlan, unit: Unit, receipt: Receipt) -> bool:
    """Return whether a unit's file is complete, and its inputs are unchanged.

    A unit of standard input is never done.
    """
    return (
        not unit.in_parent
        and measure_file(stage.output / unit.shard) == receipt["bytes"]
        and _has_same_content(stage, unit, receipt, receipt["input_sha256"])
    )


def sum_accounts(receipts: Sequence[Receipt]) -> Accounts:
    """Return the accounts of all units."""
    accounts = Accounts()
    for receipt in receipts:
        accounts.merge(Accounts.from_dict(receipt["accounts"]))
    return accounts


def list_inputs(stage: StagePlan, receipts: Sequence[Receipt]) -> list[FileRow]:
    """Return the manifest's input rows."""
    # The last unit of a stream has the hash of all of it.
    receipts = [*receipts[: len(stage.units) - 1], receipts[-1]]
    return [
        {"name": name, "bytes": size, "sha256": sha256}
        for unit, receipt in zip(stage.units, receipts, strict=True)
        for (name, size), sha256 in zip(unit.inputs, receipt["input_sha256"], strict=True)
    ]
