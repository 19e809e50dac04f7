"""The facts of a run folder at any time: its options, its progress and its losses.

The state of a run follows from the files in its folder, which the run writes as it proceeds:

    .tokkit/stage.json       the options are known                             not started
    run.json                 torch, device and instances were checked          stopped at step n
    .tokkit/lock, held       a process is training                             training, at step n
    manifest.json            the run is complete                               finished

The step of a run that was stopped is that of its last line of metrics or of its newest checkpoint,
whichever is later. The run resumes from its newest checkpoint, which may be earlier.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from tokkit.engine.folder import is_being_written
from tokkit.engine.json_files import read_json
from tokkit.engine.manifest import MANIFEST, Manifest
from tokkit.engine.receipts import read_statement
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.run_record import (
    CHECKPOINTS,
    METRICS,
    RUN,
    STATE,
    CheckpointRecord,
    checkpoint_step,
    format_options,
    list_checkpoints,
    read_metrics,
    read_run,
)

KINDS = {"train": "training", "eval": "evaluation"}


def is_run(folder: Path) -> bool:
    """Return whether a folder is that of a run, finished or not."""
    if (folder / MANIFEST).is_file():
        return Manifest.read(folder).kind == "run"
    if (folder / RUN).is_file():
        return True
    stage = read_statement(folder)
    return stage is not None and stage["kind"] == "run"


def inspect_run(folder: Path) -> dict[str, Any]:
    """Return the facts of a run.

    Returns:
        ``state`` and ``step``; ``run``, the content of ``run.json``; ``changed``, the options that
        differ from their defaults; ``training`` and ``evaluation``, the last lines of metrics;
        ``checkpoints`` with ``step``, ``bytes`` and ``is_best``; ``losses``, the points of both
        curves; ``accounts`` of a finished run. Facts that are not known yet are left out.

    Raises:
        TokkitError: if a file is damaged.
    """
    lines = read_metrics(folder / METRICS)
    checkpoints = describe_checkpoints(folder / CHECKPOINTS)
    facts: dict[str, Any] = {
        "state": find_state(folder),
        "step": max((row["step"] for row in [*lines, *checkpoints]), default=0),
    }
    if (folder / RUN).is_file():
        run, _ = read_run(folder)
        facts |= {"run": run, "changed": find_changed(run["options"])}
    facts |= {KINDS[line["kind"]]: line for line in lines}  # the last of each kind
    facts["checkpoints"] = checkpoints
    facts["losses"] = {
        name: [(line["step"], line["loss"]) for line in lines if line["kind"] == kind]
        for kind, name in KINDS.items()
    }
    if facts["state"] == "finished":
        facts["accounts"] = Manifest.read(folder, "run").accounts
    return facts


def find_state(folder: Path) -> str:
    """Return ``finished``, ``training``, ``stopped``, or ``not started``."""
    if (folder / MANIFEST).is_file():
        return "finished"
    if is_being_written(folder):
        return "training"
    return "stopped" if (folder / RUN).is_file() else "not started"


def find_changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults."""
    defaults = format_options({entry.name: entry.default for entry in fields(PretrainConfig)})
    return {name: value for name, value in options.items() if value != defaults.get(name, MISSING)}


def describe_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """Return step and size of each checkpoint, the oldest first; the newest says which is best."""
    paths = list_checkpoints(folder)
    best = read_json(paths[-1] / STATE, CheckpointRecord)["best"] if paths else None
    rows = []
    for path in paths:
        step = checkpoint_step(path)
        with suppress(FileNotFoundError):  # a run that is training removes old ones
            size = sum(file.stat().st_size for file in path.iterdir())
            rows.append(
                {"step": step, "bytes": size, "is_best": best is not None and step == best.step}
            )
    return rows
