"""A stage's plan: its work units, the file that keeps them, and which of them are done.

    .tokkit/plan.json    {"version": …, "options": {…}, "checksum": 41…, "units": [{"name": …}, …]}

``--plan`` writes the file, and each part of an array job reads it in place of the inputs' folders
and first bytes, so a thousand parts ask the file system no more than one does. The plain command
writes it where there are many inputs: when it runs again, it lists the inputs, but does not look
into those that are as they were.
"""

import logging
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

import msgspec

from tokkit import __version__
from tokkit.engine.files import measure_file, read_file, write_atomically
from tokkit.engine.json_files import Count, FileRow, canonical_json, parse_json
from tokkit.engine.mirrors import STATE_FOLDER
from tokkit.engine.receipts import Receipt, read_receipts, write_receipt
from tokkit.engine.spec import StageSpec, other_run_error
from tokkit.engine.unit import Unit, content_key
from tokkit.errors import TokkitError, UsageError, escape_controls

log = logging.getLogger(__name__)

PLAN = "plan.json"
MANY_INPUTS = 1000
_REMEDY = "run the same command with --plan first"

P = TypeVar("P")


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

    @property
    def shared_options(self) -> dict[str, Any]:
        """The options that all units depend on."""
        return dict(self.options if self.unit_options is None else self.unit_options)

    @cached_property
    def digest(self) -> str:
        """Content key of what the units have in common."""
        return content_key({**self.metadata, "options": self.shared_options})

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


def find_done(
    stage: StagePlan, units: Sequence[Unit], found: Mapping[str, Receipt]
) -> dict[str, Receipt]:
    """Return the receipts of those units that are done, by the names of their files.

    Their files are complete, and their inputs unchanged.

    Args:
        stage: the stage.
        units: some of its units.
        found: receipts in the output folder.
    """
    return {
        unit.shard: receipt
        for unit in units
        if (receipt := found.get(stage.unit_key(unit))) is not None
        and not unit.in_parent  # standard input is never done
        and measure_file(f"{stage.output}/{unit.shard}") == receipt["bytes"]
        and _has_same_content(stage, unit, receipt, receipt["input_sha256"])
    }


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


@dataclass(frozen=True)
class _PlanFile:
    """The content of the plan's file.

    Attributes:
        version: release that wrote it.
        options: those that all units depend on.
        checksum: CRC-32 of the units' JSON.
        units: see ``_PlannedUnit``.
    """

    version: str
    options: dict[str, Any]
    checksum: int
    units: msgspec.Raw


class _PlannedUnit(TypedDict, Generic[P]):
    """What the plan says of a unit; see ``Unit``."""

    name: str
    shard: str
    identity: dict[str, Any]
    stamp: int | list[int]
    size: Count
    payload: P
    inputs: list[tuple[str, int]]


class _PlannedPayload(TypedDict, Generic[P]):
    payload: P


def write_plan(stage: StagePlan) -> None:
    """Write the units of a stage into its folder.

    Raises:
        UsageError: if standard input is among them.
        TokkitError: if a name among them is not UTF-8, or the disk is full.
    """
    if _has_stdin(stage):
        raise UsageError("--plan: standard input cannot be read in parts; name files instead")
    try:
        content = _encode_plan(stage)
    except UnicodeEncodeError as error:
        name = escape_controls(str(error.object))
        raise TokkitError(f"{name}: is not valid UTF-8; give it another name") from error
    _write(stage, content)


def keep_plan(stage: StagePlan) -> None:
    """Write the units of a stage for ``read_planned_payloads``, if it has many inputs."""
    if sum(len(unit.inputs) for unit in stage.units) < MANY_INPUTS or _has_stdin(stage):
        return
    with suppress(UnicodeEncodeError):  # a path that is not UTF-8
        content = _encode_plan(stage)
        if read_file(stage.output / STATE_FOLDER / PLAN) != content:
            _write(stage, content)


def _write(stage: StagePlan, content: bytes) -> None:
    with write_atomically(stage.output / STATE_FOLDER / PLAN) as file:
        file.write(content)


def _has_stdin(stage: StagePlan) -> bool:
    return any(unit.in_parent or unit.open_stream for unit in stage.units)


def _encode_plan(stage: StagePlan) -> bytes:
    fields = _PlannedUnit.__annotations__
    units = msgspec.json.encode(
        [{name: getattr(unit, name) for name in fields} for unit in stage.units]
    )
    plan = _PlanFile(
        version=__version__,
        options=stage.shared_options,
        checksum=zlib.crc32(units),
        units=msgspec.Raw(units),
    )
    return msgspec.json.encode(plan)


def read_plan(folder: Path, payload: type[P]) -> list[Unit]:
    """Return the units that ``write_plan`` wrote.

    Args:
        folder: output folder of the stage.
        payload: type of the units' payloads.

    Raises:
        TokkitError: if there is no plan, or it is damaged.
    """
    planned = _read(folder, None, _PlannedUnit[payload])  # type: ignore[valid-type]
    return [Unit(**fields) for fields in planned]


def read_planned_payloads(folder: Path, options: Mapping[str, Any], payload: type[P]) -> list[P]:
    """Return the payloads of an earlier plan by this release; none if there is no such plan.

    Args:
        folder: output folder of the stage.
        options: that all units depend on, as they must be in the plan.
        payload: their type; what it leaves out is not read.
    """
    try:
        planned = _read(folder, options, _PlannedPayload[payload])  # type: ignore[valid-type]
    except TokkitError:
        return []
    return [unit["payload"] for unit in planned]


def _read(folder: Path, options: Mapping[str, Any] | None, unit: type[P]) -> list[P]:
    """Return the units of a plan, which must be of this release if it must have the options."""
    path = folder / STATE_FOLDER / PLAN
    content = read_file(path)
    if content is None:
        raise TokkitError(f"{folder}: has no plan; {_REMEDY}")
    plan = parse_json(content, _PlanFile, path, _REMEDY)
    if options is not None and (plan.version, canonical_json(plan.options)) != (
        __version__,
        canonical_json(dict(options)),
    ):
        raise TokkitError(f"{path}: of other options")
    units = parse_json(plan.units, list[unit], path, _REMEDY)  # type: ignore[valid-type]
    if zlib.crc32(plan.units) != plan.checksum:
        raise TokkitError(f"{path}: damaged (its checksum is another); {_REMEDY}")
    return units
