"""Plan, map, commit: how every stage works.

A stage plans work units from its inputs and options alone, maps a pure function over them, one
unit in and one file out, and commits by writing its record last. A finished unit is recognized by
its content key, so running the same command again resumes:

    plan:     unit 0, unit 1, unit 2          keys k0, k1, k2
    receipts: of k0 and k2                    (the process was killed during unit 1)
    map:      unit 1                          the others are skipped
    commit:   manifest.json                   three rows

In an array job, units are planned once, done in parts by jobs that share the folder, and committed:

    --plan           .tokkit/plan.json: units 0, 1, 2, 3, 4
    --part 0/2       units 0, 2, 4      each leaves its file and its receipt
    --part 1/2       units 1, 3
    --missing 2      prints the parts with units that have no receipt
    --commit         manifest.json

What a unit is does not depend on the number of parts: units that are done are skipped whichever part
they were done in, and the plain command does what is left.

``run_stage`` does all of it for stages whose files are shards. The stage ``train`` is different: its
files are counts, from which it learns a vocabulary, and it commits another record. So
``tokkit.vocab.train`` plans and calls ``require_same_inputs``, and ``tokkit.vocab.counting`` calls
``complete_units``.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile, remove_file
from tokkit.engine.json_files import FileRow
from tokkit.engine.local import run_units
from tokkit.engine.manifest import RECORDS, Manifest
from tokkit.engine.progress import open_bar
from tokkit.engine.receipts import Receipt, read_receipts
from tokkit.engine.spec import find_finished, locked_folder, shared_folder
from tokkit.engine.stage_config import StageConfig
from tokkit.engine.stage_plan import (
    StagePlan,
    find_done,
    keep_plan,
    require_same_inputs,
    write_plan,
)
from tokkit.engine.unit import Task, Unit, UnitResult, require_statement
from tokkit.errors import TokkitError

log = logging.getLogger(__name__)


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
        commit: all units were done in parts; refuse to do one.

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
    if part is None and not commit:
        if stage.prepare is not None:
            stage.prepare(stage.output)
        keep_plan(stage)
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
            done = find_done(self._stage, [unit], self._found)
            self._receipts |= done
            if not done:
                missing.append(replace(unit, stream=self._key))
        return missing

    def remove_others(self) -> None:
        """Delete the files of a longer stream that was stopped."""
        for receipt in self._found.values():
            path = self._stage.output / receipt["name"]
            is_other = receipt.get("stream") == self._key and receipt["name"] not in self._receipts
            if is_other and path.parent == (self._stage.output / self.shards[0]).parent:
                remove_file(path)


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


@dataclass(frozen=True)
class StepResult:
    """What a step of an array job did or found.

    Attributes:
        step: ``plan``, ``part``, ``missing``, or ``finished`` where nothing is left to do.
        units: number of units of the step: of the plan, or of the part.
        missing: for ``missing``: which parts have units that are not done.
    """

    step: str
    units: int
    missing: tuple[int, ...] = ()


def run_step(stage: Stage, config: StageConfig) -> StepResult:
    """Plan a stage, do a part of its units, or find out which parts are missing.

    Args:
        stage: its units are from ``read_plan``, unless they are to be planned.
        config: says which of the three.

    Raises:
        TokkitError: if the folder's plan is of another command; also of the units.
    """
    output = stage.output
    if not config.overwrite and any((output / name).is_file() for name in RECORDS):
        with locked_folder(stage, overwrite=False, shared=True):  # refuses another run
            return StepResult("finished", len(stage.units))
    with shared_folder(stage, overwrite=config.overwrite, planned=not config.plan):
        if config.missing is not None:
            done = find_done(stage, stage.units, read_receipts(output))
            shards = enumerate(unit.shard for unit in stage.units)
            missing = {number % config.missing for number, shard in shards if shard not in done}
            return StepResult("missing", len(stage.units), tuple(sorted(missing)))
        if config.part is None:
            if stage.prepare is not None:
                stage.prepare(output)
            write_plan(stage)
            return StepResult("plan", len(stage.units))
        receipts, _ = complete_units(
            stage, workers=config.workers, progress=config.progress, part=config.part
        )
        return StepResult("part", len(receipts))
