"""Plan, map, commit: how every stage works.

A stage plans work units from its inputs and options alone, maps a pure function over them, one
unit in and one shard out, and commits by writing ``manifest.json`` last. What a unit wrote is
found again by its content key, so running the same command again is how one resumes:

    plan:    unit 0, unit 1, unit 2          keys k0, k1, k2
    journal: k0, k2 are done                 (the process was killed during unit 1)
    map:     unit 1                          the others are skipped
    commit:  manifest.json                   three rows
"""

import hashlib
import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import FolderLock, HashedFile, canonical_json
from tokkit.engine.folder import clear_folder, refuse_foreign, remove_leftovers
from tokkit.engine.journal import Journal
from tokkit.engine.local import run_units
from tokkit.engine.manifest import FORMAT_VERSION, MANIFEST, Manifest
from tokkit.engine.signals import interruptible
from tokkit.engine.unit import Outcome, Task, Unit, UnitResult
from tokkit.errors import TokkitError, wrap_os_errors

log = logging.getLogger(__name__)


class Bar(tqdm):  # type: ignore[misc]  # tqdm has no annotations
    """A bar without the thread that looks after slow bars: a process of one thread can be copied."""

    monitor_interval = 0


@dataclass(frozen=True, kw_only=True)
class StageSpec:
    """What a folder is made of: enough to tell whether it is there already.

    Attributes:
        kind: of folder that is made.
        output: that folder.
        options: every option that the bytes depend on, as JSON; never the number of workers.
        tokenizer_fingerprint: of the tokenizer in use.
        seed: of every draw; None where nothing is drawn.
        inputs: the manifest's rows on what is read, with its SHA-256; None where that is known only
            when the units have read it. Their identities stand for it then.
    """

    kind: str
    output: Path
    options: Mapping[str, Any]
    tokenizer_fingerprint: str
    seed: int | None
    inputs: Sequence[Mapping[str, Any]] | None = None

    @property
    def metadata(self) -> dict[str, Any]:
        """What the content keys of stage and units have in common."""
        return {
            "format_version": FORMAT_VERSION,
            "kind": self.kind,
            "options": dict(self.options),
            "seed": self.seed,
            "tokenizer_fingerprint": self.tokenizer_fingerprint,
        }

    @property
    def key(self) -> str:
        """Content key of the whole stage."""
        return _hash({**self.metadata, "inputs": self.inputs})

    def describe(self) -> dict[str, Any]:
        """What a journal says of the stage in its first line."""
        return {"key": self.key, **self.metadata}


@dataclass(frozen=True, kw_only=True)
class Plan(StageSpec):
    """An outline with its work units.

    Attributes:
        units: in the order in which they are read later.
    """

    units: Sequence[Unit]

    @property
    def key(self) -> str:
        """Content key of the whole stage."""
        if self.inputs is not None:
            return super().key
        return _hash({**self.metadata, "inputs": [dict(unit.identity) for unit in self.units]})

    def unit_keys(self) -> list[str]:
        """Content key of each unit, in order."""
        metadata = self.metadata
        return [
            _hash({**metadata, "unit": dict(unit.identity), "shard": unit.shard})
            for unit in self.units
        ]


@dataclass(frozen=True, kw_only=True)
class Stage(Plan):
    """All that the engine must know of a stage, beside its plan.

    Attributes:
        function: ``function(context, payload, sink, report)`` writes one shard into the binary
            file ``sink``, calls ``report(n)`` as it gets through the unit's size, and returns a
            ``UnitResult``. It is pure, and importable by name in another process.
        context: its first argument, the same for all units; picklable.
        load: makes of the context what all units need: once, before this process is copied into
            those of its workers.
        progress_unit: what the units' sizes count, for the bar.
        prepare: writes side files, such as the tokenizer, before the first unit.
        digest: SHA-256 of each input that a payload's unit would read; asked when a time stamp has
            changed.
        finish: looks at the whole ledger before the manifest is written, and may refuse it.
        on_result: is told the result of each unit that is done now, as it comes.
    """

    function: Callable[[Any, Any, HashedFile, Callable[[int], None]], UnitResult]
    context: Any
    load: Callable[[Any], None] | None = None
    progress_unit: str = "B"
    prepare: Callable[[Path], None] | None = None
    digest: Callable[[Any], Sequence[str]] | None = None
    finish: Callable[[Accounts], None] | None = None
    on_result: Callable[[UnitResult], None] | None = None


def _hash(form: Any) -> str:
    return hashlib.sha256(canonical_json(form)).hexdigest()


def find_finished(outline: StageSpec) -> Manifest | None:
    """The manifest of a folder that holds all that the outline says, by content key and sizes."""
    if not (outline.output / MANIFEST).is_file():
        return None
    manifest = Manifest.read(outline.output)
    files = [(outline.output / row["name"], row["bytes"]) for row in manifest.shards]
    whole = all(path.is_file() and path.stat().st_size == size for path, size in files)
    return manifest if whole and manifest.key == outline.key else None


def is_up_to_date(stage: Stage) -> bool:
    """Whether the folder holds just what the stage would make, by content keys and time stamps."""
    manifest = find_finished(stage)
    if manifest is None:
        return False
    journal = Journal.read(stage.output)
    rows = iter(manifest.inputs)
    for unit, key in zip(stage.units, stage.unit_keys(), strict=True):
        # Who copied the folder may have left the journal behind: the manifest has the hashes too.
        hashes = [row["sha256"] for _, row in zip(unit.inputs, rows, strict=False)]
        if not _is_unchanged(stage, unit, journal.units.get(key), hashes):
            return False
    return True


def _is_unchanged(
    stage: Stage, unit: Unit, line: Mapping[str, Any] | None, hashes: Sequence[str]
) -> bool:
    """Whether a unit's inputs are what they were when its shard was made."""
    if stage.digest is None or (line is not None and line["stamp"] == unit.stamp):
        return True
    log.info("%s: its time stamp has changed; comparing its content", unit.name)
    return list(stage.digest(unit.payload)) == list(hashes)


def run_stage(stage: Stage, *, workers: int, overwrite: bool, progress: bool) -> Manifest:
    """Bring a stage's folder to completion, doing only what is not done yet.

    Args:
        stage: what is to be made.
        workers: processes; 0 does the work in this one. The bytes do not depend on it.
        overwrite: clear the folder of what another run left there.
        progress: show a bar on standard error, if that is a terminal.

    Returns:
        The folder's manifest.

    Raises:
        TokkitError: a fault in data or environment; what was finished stays and is not redone.
        Interrupted: after SIGINT or SIGTERM; likewise.
    """
    if not overwrite and is_up_to_date(stage):
        log.info("%s: up to date", stage.output)
        _remember_stamps(stage)
        return Manifest.read(stage.output)
    refuse_foreign(stage.output)
    with ExitStack() as stack:
        stack.enter_context(FolderLock(stage.output))
        stack.enter_context(interruptible(stage.output))
        stack.callback(remove_leftovers, stage.output)
        if overwrite:
            clear_folder(stage.output)
        lines = _take_up(stage)
        if stage.prepare is not None:
            stage.prepare(stage.output)
        _map(stage, lines, workers=workers, progress=progress)
        return _commit(stage, lines)


def _remember_stamps(stage: Stage) -> None:
    """Note the time stamps of inputs whose content was compared, so that it is not done again."""
    journal = Journal.read(stage.output)
    for unit, key in zip(stage.units, stage.unit_keys(), strict=True):
        line = journal.units.get(key)
        if line is not None and line["stamp"] != unit.stamp:
            with FolderLock(stage.output):
                journal.append({**line, "stamp": unit.stamp})


def _take_up(stage: Stage) -> dict[str, dict[str, Any]]:
    """Begin or go on with a folder: the journal's lines on units that need not be done again."""
    refuse_other_run(stage)
    journal = Journal.read(stage.output)
    if not journal.has_rows:
        clear_folder(stage.output)
        journal.begin(stage.describe())
    with wrap_os_errors(stage.output):
        (stage.output / MANIFEST).unlink(missing_ok=True)  # of a folder that lost a shard
    remove_leftovers(stage.output)  # of a run that was killed
    lines = {}
    for unit, key in zip(stage.units, stage.unit_keys(), strict=True):
        line = journal.units.get(key)
        shard = stage.output / unit.shard
        whole = line and shard.is_file() and shard.stat().st_size == line["bytes"]
        if line and whole and _is_unchanged(stage, unit, line, line["input_sha256"]):
            lines[key] = line
    return lines


def refuse_other_run(stage: StageSpec) -> None:
    """Refuse a folder that holds, finished or not, what other inputs or options gave.

    Raises:
        TokkitError: naming the first thing that differs.
    """
    manifest = None
    if (stage.output / MANIFEST).is_file():
        manifest = Manifest.read(stage.output)
    journal = Journal.read(stage.output)
    past = journal.stage if manifest is None else vars(manifest)
    if past is None:
        return
    difference = describe_difference(past, stage.describe())
    if manifest is None and past["kind"] == stage.kind and not journal.has_rows:
        return  # nothing is lost where nothing was done
    if difference is None and manifest is not None and find_finished(stage) is not None:
        difference = "an input has changed since"
    if difference is not None:
        raise TokkitError(
            f"{stage.output}: holds another run ({difference}); "
            f"choose another folder, or pass --overwrite to make it anew"
        )


def describe_difference(past: Mapping[str, Any], present: Mapping[str, Any]) -> str | None:
    """Say what differs between two stages' facts; None where nothing does."""
    if past["kind"] != present["kind"]:
        return f"its kind is {past['kind']}, not {present['kind']}"
    for name in sorted({*past["options"], *present["options"]}):
        old, new = past["options"].get(name), present["options"].get(name)
        if old != new:
            return f"--{name.replace('_', '-')} was {_spell(old)}, not {_spell(new)}"
    if past["seed"] != present["seed"]:
        return f"--seed was {past['seed']}, not {present['seed']}"
    if past["tokenizer_fingerprint"] != present["tokenizer_fingerprint"]:
        return "it was made with another tokenizer"
    return None if past["key"] == present["key"] else "its inputs were others"


def _spell(value: Any, mark: str = ",") -> str:
    """An option's value much as it stands on a command line."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        value = mark.join(_spell(part, ":") for part in value)
    return "left out" if value in {None, ""} else str(value)


def _map(stage: Stage, lines: dict[str, dict[str, Any]], *, workers: int, progress: bool) -> None:
    """Do the units that are not in ``lines``, and add their lines."""
    keys = dict(zip((unit.shard for unit in stage.units), stage.unit_keys(), strict=True))
    missing = [unit for unit in stage.units if keys[unit.shard] not in lines]
    if 0 < len(missing) < len(stage.units):
        log.info(
            "%s: going on; %d of %d units are done",
            stage.output,
            len(stage.units) - len(missing),
            len(stage.units),
        )
    task = Task(stage.function, stage.context, stage.output, stage.load)
    journal = Journal.read(stage.output)
    bar = Bar(
        desc=stage.kind,
        total=sum(unit.size for unit in stage.units),
        initial=sum(unit.size for unit in stage.units if keys[unit.shard] in lines),
        unit=stage.progress_unit,
        unit_scale=True,
        miniters=1,
        disable=not (progress and sys.stderr.isatty()),
    )
    with bar, closing(run_units(task, missing, workers, bar.update)) as outcomes:
        for unit, outcome in outcomes:
            if stage.on_result is not None:
                stage.on_result(outcome.result)
            key = keys[unit.shard]
            lines[key] = _journal_line(key, unit, outcome)
            journal.append(lines[key])


def _journal_line(key: str, unit: Unit, outcome: Outcome) -> dict[str, Any]:
    return {
        "unit": key,
        "input": unit.name,
        "input_sha256": list(outcome.result.input_sha256),
        "stamp": unit.stamp,
        "name": unit.shard,
        "bytes": outcome.bytes,
        "sha256": outcome.sha256,
        "rows": outcome.result.rows,
        "tokens": outcome.result.tokens,
        "accounts": outcome.result.accounts.as_dict(),
    }


def _commit(stage: Stage, lines: Mapping[str, Mapping[str, Any]]) -> Manifest:
    """Add up the ledger and write the manifest."""
    ordered = [lines[key] for key in stage.unit_keys()]
    accounts = Accounts()
    for line in ordered:
        accounts.merge(Accounts.from_dict(line["accounts"]))
    accounts.check()
    if stage.finish is not None:
        stage.finish(accounts)
    inputs = stage.inputs
    if inputs is None:
        inputs = [
            {"name": name, "bytes": size, "sha256": sha256}
            for unit, line in zip(stage.units, ordered, strict=True)
            for (name, size), sha256 in zip(unit.inputs, line["input_sha256"], strict=True)
        ]
    manifest = Manifest(
        kind=stage.kind,
        key=stage.key,
        options=dict(stage.options),
        seed=stage.seed,
        tokenizer_fingerprint=stage.tokenizer_fingerprint,
        inputs=[dict(row) for row in inputs],
        shards=[
            {name: line[name] for name in ("name", "bytes", "sha256", "rows", "tokens")}
            for line in ordered
        ],
        accounts=accounts.as_dict(),
    )
    manifest.write(stage.output)
    return manifest
