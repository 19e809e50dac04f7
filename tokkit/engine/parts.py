"""Array jobs: units are planned once, done in parts by jobs that share the folder, and committed.

    --plan           .tokkit/plan.json: units 0, 1, 2, 3, 4
    --part 0/2       units 0, 2, 4      each leaves its file and its receipt
    --part 1/2       units 1, 3
    --missing 2      prints the parts with units that have no receipt
    --commit         manifest.json

A part reads the plan in place of the inputs' folders and heads, so a thousand of them ask the file
system no more than one does. What a unit is does not depend on the number of parts: units that are
done are skipped whichever part they were done in, and the plain command does what is left.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypedDict, TypeVar

import msgspec

from tokkit.engine.files import read_file, write_atomically
from tokkit.engine.json_files import Count, parse_json
from tokkit.engine.manifest import RECORDS
from tokkit.engine.mirrors import STATE_FOLDER
from tokkit.engine.receipts import read_receipts
from tokkit.engine.spec import locked_folder, shared_folder
from tokkit.engine.stage import Stage, StagePlan, complete_units, find_done
from tokkit.engine.stage_config import StageConfig
from tokkit.engine.unit import Unit
from tokkit.errors import TokkitError, UsageError, escape_controls

PLAN = "plan.json"
_REMEDY = "run the same command with --plan first"

P = TypeVar("P")


class PlannedUnit(TypedDict, Generic[P]):
    """What the plan says of a unit; see ``Unit``."""

    name: str
    shard: str
    identity: dict[str, Any]
    stamp: int | list[int]
    size: Count
    payload: P
    inputs: list[tuple[str, int]]


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


def write_plan(stage: StagePlan) -> None:
    """Write the units of a stage into its folder.

    Raises:
        UsageError: if standard input is among them.
        TokkitError: if a name among them is not UTF-8, or the disk is full.
    """
    if any(unit.in_parent or unit.open_stream for unit in stage.units):
        raise UsageError("--plan: standard input cannot be read in parts; name files instead")
    fields = PlannedUnit.__annotations__
    units = [{name: getattr(unit, name) for name in fields} for unit in stage.units]
    path = stage.output / STATE_FOLDER / PLAN
    try:
        content = msgspec.json.encode(units)
    except UnicodeEncodeError as error:
        name = escape_controls(str(error.object))
        raise TokkitError(f"{name}: is not valid UTF-8; give it another name") from error
    with write_atomically(path) as file:
        file.write(content)


def read_plan(folder: Path, payload: type[P]) -> list[Unit]:
    """Return the units that ``write_plan`` wrote.

    Args:
        folder: output folder of the stage.
        payload: type of the units' payloads.

    Raises:
        TokkitError: if there is no plan, or it is damaged.
    """
    path = folder / STATE_FOLDER / PLAN
    content = read_file(path)
    if content is None:
        raise TokkitError(f"{folder}: has no plan; {_REMEDY}")
    planned = parse_json(content, list[PlannedUnit[payload]], path, _REMEDY)  # type: ignore[valid-type]
    return [Unit(**fields) for fields in planned]


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
