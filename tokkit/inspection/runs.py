"""A run folder, at whatever time: what the run is, how far it is, and how well it goes.

What is there says how far it is. All but the first are written by the run as it goes:

    .tokkit/journal.jsonl    it was given its options                          not begun
    run.json                 torch, device and instances were found good       stopped at step n
    .tokkit/lock, held       a process is at work on it                        training, at step n
    manifest.json            all is done                                       finished

The step of a run that was stopped is that of its last line of metrics, or of its newest checkpoint. It goes on from its newest
checkpoint, which may lie before.
"""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from tokkit.engine.files import is_being_written, read_json
from tokkit.engine.journal import Journal
from tokkit.engine.manifest import MANIFEST, Manifest
from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.facts import RUN, spell_options
from tokkit.pretraining.metrics import METRICS, read_metrics

CHECKPOINTS = "checkpoints"
STATE = "state.json"


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, finished or not."""
    if (folder / MANIFEST).is_file():
        return Manifest.read(folder).kind == "run"
    if (folder / RUN).is_file():
        return True
    return (Journal.read(folder).stage or {}).get("kind") == "run"


def inspect_run(folder: Path) -> dict[str, Any]:
    """The facts of a run.

    Returns:
        ``state`` and ``step``; ``run``, the content of ``run.json``; ``changed``, the options that
        differ from their default; ``training`` and ``evaluation``, the last lines of metrics;
        ``checkpoints`` with ``step``, ``bytes`` and ``is_best``; ``losses`` with the points of
        both curves; of a finished run also its ``accounts``. What is not there yet is left out.

    Raises:
        TokkitError: where a file is damaged.
    """
    lines = read_metrics(folder / METRICS)
    last = {line["kind"]: line for line in lines}
    checkpoints = list_checkpoints(folder / CHECKPOINTS)
    facts: dict[str, Any] = {
        "state": find_state(folder),
        "step": max((row["step"] for row in [*lines, *checkpoints]), default=0),
    }
    if (folder / RUN).is_file():
        run = read_json(folder / RUN)
        facts |= {"run": run, "changed": find_changed(run["options"])}
    facts |= {
        name: last[kind]
        for kind, name in (("train", "training"), ("eval", "evaluation"))
        if kind in last
    }
    facts["checkpoints"] = checkpoints
    facts["losses"] = {
        name: [(line["step"], line["loss"]) for line in lines if line["kind"] == kind]
        for kind, name in (("train", "training"), ("eval", "evaluation"))
    }
    if facts["state"] == "finished":
        facts["accounts"] = Manifest.read(folder, "run").accounts
    return facts


def find_state(folder: Path) -> str:
    """``finished``, ``training``, ``stopped``, or ``not begun``."""
    if (folder / MANIFEST).is_file():
        return "finished"
    if is_being_written(folder):
        return "training"
    return "stopped" if (folder / RUN).is_file() else "not begun"


def find_changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that are not what they are when nobody says otherwise."""
    defaults = spell_options({entry.name: entry.default for entry in fields(PretrainConfig)})
    return {name: value for name, value in options.items() if value != defaults.get(name, MISSING)}


def list_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """The whole checkpoints, the oldest first; which is best says the newest."""
    paths = sorted(
        (path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdecimal()),
        key=lambda path: int(path.name.removeprefix("step-")),
    )
    newest = read_json(paths[-1] / STATE) if paths else {}
    best = newest.get("best") or {"step": None}
    rows = []
    for path in paths:
        step = int(path.name.removeprefix("step-"))
        with suppress(FileNotFoundError):  # a run that trains removes old ones
            size = sum(file.stat().st_size for file in path.iterdir())
            rows.append({"step": step, "bytes": size, "is_best": step == best["step"]})
    return rows
