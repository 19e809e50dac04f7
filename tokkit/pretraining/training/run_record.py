"""The run folder: its files, and what they record about the run.

``run.json`` describes the run:

    {"started": "2026-03-01T09:12:44+00:00", "resumed": null, "command": "tokkit pretrain …",
     "options": {"preset": "base", "batch_size": 256, …}, "model": {"hidden_size": 768, …},
     "num_parameters": 109514298, "device": "cuda, NVIDIA H200", "num_processes": 8, "cores": 96,
     "instances_keys": ["9f…"], "tokenizer_fingerprint": "3c…", "init_from_fingerprint": null,
     "origin": {"planned_steps": 100000, "step": 0, "position": 0, …},
     "versions": {"tokkit": "0.1.0", "torch": "2.11.0", …}}

A resumed run rewrites it, since it may resume on another machine, and keeps only its start time and
where it begins (``Origin``). ``tokkit inspect`` shows it, and uses it to replay any batch of the run.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from tokkit.engine.files import read_whole
from tokkit.engine.json_files import RECREATE, Count, FileRow, check_options, read_json
from tokkit.errors import TokkitError, UsageError, refuse_loop
from tokkit.options import uri_of
from tokkit.pretraining.families import FAMILY_OF
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.schedule import Origin, Schedule

KIND = "run"
RUN = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
STATE = "state.json"  # in each checkpoint
EXPORT = "export"


_Shape = dict[str, str | int | float | bool | None]


class RunRecord(TypedDict):
    """The content of ``run.json``; see the module."""

    started: str
    resumed: str | None
    command: str
    options: dict[str, Any]
    model: _Shape
    num_parameters: Count
    device: str
    num_processes: Count
    cores: Count
    instances_keys: list[str]
    tokenizer_fingerprint: str | None
    init_from_fingerprint: str | None
    origin: _Shape
    versions: dict[str, str]


class _ModelHead(TypedDict):
    """The fields of a model's shape that are read without torch."""

    model_type: NotRequired[str]
    objective: NotRequired[str]
    max_position_embeddings: NotRequired[Count | None]


@dataclass(frozen=True)
class BestCheckpoint:
    """The checkpoint with the lowest held-out loss so far."""

    step: int
    loss: float


class CheckpointRecord(TypedDict):
    """The content of a checkpoint's ``state.json``."""

    state: dict[str, Any]
    best: BestCheckpoint | None
    files: list[FileRow]
    sha256: NotRequired[str]  # of the rest


class _MetricsHead(TypedDict):
    kind: Literal["train", "eval"]
    step: Count
    loss: float


def find_run(path: Path, *, undecayed: bool = False) -> tuple[Path, Path]:
    """Return the run folder and the checkpoint that a path names.

    Args:
        path: a checkpoint in a run folder, or a run folder, for its newest checkpoint.
        undecayed: whether to prefer the run's newest checkpoint without decay.

    Raises:
        TokkitError: if there is no checkpoint.
    """
    run, checkpoint = path, None
    if path.parent.name == CHECKPOINTS and (path.parent.parent / RUN).is_file():
        run, checkpoint = path.parent.parent, path
    if not (run / RUN).is_file():
        refuse_loop(path)
        raise TokkitError(
            f"{path}: is neither a run folder nor a checkpoint of one; name run, or "
            f"run/{CHECKPOINTS}/{checkpoint_path(Path(), 1000)}"
        )
    found = list_checkpoints(run / CHECKPOINTS)
    if not found or checkpoint not in (None, *found):
        names = ", ".join(path.name for path in found) or "none"
        raise TokkitError(f"{path}: no such checkpoint; {run} has {names}")
    if checkpoint is None and undecayed:
        states = {path: read_json(path / STATE, CheckpointRecord)["state"] for path in found}
        found = [p for p in found if states[p].get("decay_start") is None] or found
    return run, checkpoint or found[-1]


def read_run(folder: Path) -> tuple[RunRecord, PretrainConfig]:
    """Return the content of a run's ``run.json``, and its options as a config.

    Raises:
        TokkitError: if it is damaged.
    """
    path = folder / RUN
    record = read_json(path, RunRecord)
    try:
        check_options(record["options"])
        config = msgspec.convert(
            record["options"], PretrainConfig, dec_hook=lambda kind, value: kind(value)
        )
        Schedule.from_config(config, find_origin(record))
        head = msgspec.convert(record["model"], _ModelHead)
    except (ValueError, UsageError) as error:
        raise TokkitError(f"{path}: damaged options ({error}); {RECREATE}") from error
    if (kind := head.get("model_type", "bert")) not in FAMILY_OF:
        raise TokkitError(f"{path}: no model has the type {kind!r}; {RECREATE}")
    return record, config


def find_origin(record: RunRecord) -> Origin:
    """Return where a run begins.

    Raises:
        msgspec.ValidationError: if it is damaged, which a record from ``read_run`` is not.
    """
    return msgspec.convert(record["origin"], Origin)


def format_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON values: paths become strings or URIs, tuples become lists."""
    formatted: dict[str, Any] = json.loads(json.dumps(options, default=uri_of))
    return formatted


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, up to one that a crash cut short, if the file exists."""
    if not path.is_file():
        return []
    data = read_whole(path)
    lines = []
    for line in data.split(b"\n")[:-1]:
        try:
            found = msgspec.json.decode(line, type=dict[str, Any])
            msgspec.convert(found, _MetricsHead)
            msgspec.convert({**found, "kind": 0}, dict[str, float])
            lines.append(found)
        except (ValueError, RecursionError):
            break
    return lines


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return the path of a step's checkpoint in the folder of checkpoints."""
    return folder / f"step-{step:08d}"


def checkpoint_step(path: Path) -> int:
    """Return the step of a checkpoint, from its name."""
    return int(path.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the paths of all checkpoints in a folder, the oldest first."""
    names = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
    return sorted(names, key=checkpoint_step)
