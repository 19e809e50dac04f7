"""The run folder: which files it has, what run they belong to, and what they say.

``run.json`` describes the run:

    {"started": "2026-03-01T09:12:44+00:00", "resumed": null, "command": "tokkit pretrain …",
     "options": {"preset": "base", "batch_size": 256, …}, "model": {"hidden_size": 768, …},
     "num_parameters": 109514298, "device": "cuda, NVIDIA H200", "num_processes": 8, "cores": 96,
     "instances_keys": ["9f…"], "tokenizer_fingerprint": "3c…", "init_from_fingerprint": null,
     "versions": {"tokkit": "0.1.0", "torch": "2.11.0", …}}

A resumed run rewrites it, since it may resume on another machine, and keeps only the time at which
it started. ``tokkit inspect`` shows it, and replays any batch of the run from it.

Which run a folder belongs to follows from the options and the manifests of the instances, so that
"up to date" and "another run" are answered before torch is imported. The statement in ``.tokkit`` records it when
the run starts, the manifest when it has finished.
"""

import json
import os
import platform
import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import msgspec

from tokkit import __version__
from tokkit.engine.folder import refuse_overlap
from tokkit.engine.json_files import (
    RECREATE,
    Count,
    FileRow,
    canonical_json,
    check_options,
    input_row,
    read_json,
)
from tokkit.engine.manifest import Manifest
from tokkit.engine.spec import StageSpec, read_previous_run
from tokkit.errors import TokkitError, UsageError, require, wrap_os_errors
from tokkit.pretraining.models.model_folder import fingerprint_folder, read_family
from tokkit.pretraining.pretrain_config import DEFAULT_PRESET, PretrainConfig, require_objective

KIND = "run"
RUN = "run.json"
METRICS = "metrics.jsonl"
CHECKPOINTS = "checkpoints"
STATE = "state.json"  # in each checkpoint
EXPORT = "export"

# Options on which the weights do not depend, or only through rounding and through which activations
# dropout leaves out. All others are part of the content key.
OPTIONS_OUTSIDE_KEY = frozenset(
    {
        "instances",  # their content is in the key, their paths are not
        "init_from",  # the same
        "output",
        "micro_batch_tokens",
        "checkpoint_every",
        "keep_checkpoints",
        "eval_every",
        "tensorboard",
        "device",
        "compile",
        "nproc_per_node",
        "fsdp",
        "threads",
        "overwrite",
        "progress",
        "seed",  # a stage's key has it anyway
    }
)


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
    versions: dict[str, str]


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


@dataclass(frozen=True)
class RunPlan:
    """A run as its options and the manifests of its instances define it.

    Attributes:
        config: options of the run.
        precision: ``fp32`` or ``bf16``; ``auto`` until the device is known. In a folder that holds a
            run, ``auto`` is that run's precision, so a run that started with one of the two resumes
            with the other.
        sources: manifests of the instance folders.
        initial: fingerprint of the model in ``init_from``; None without it.
    """

    config: PretrainConfig
    precision: str
    sources: tuple[Manifest, ...]
    initial: str | None

    @classmethod
    def from_config(cls, config: PretrainConfig) -> "RunPlan":
        """Read the manifests that the options name.

        Raises:
            UsageError: if the run folder is an input, or an option has no effect.
            TokkitError: if an instance folder is unfinished or has an unknown objective.
        """
        canonical_json(format_options(asdict(config)))  # refuses names that run.json cannot hold
        models = [] if config.init_from is None else [config.init_from]
        refuse_overlap(config.output, config.instances, models)
        sources = tuple(Manifest.read(folder, "instances") for folder in config.instances)
        for folder, source in zip(config.instances, sources, strict=True):
            require_objective(source.options, str(folder))
        if config.init_from is None:
            config.choose_family(sources[0].options["objective"])
        require(
            not config.share_layers or sources[0].options["objective"] != "clm",
            "--share-layers has no effect on a GPT-2, which instances of clm train; leave it out",
        )
        held_out = (r for s in sources for r in s.shards if r["name"].startswith("eval-"))
        require(
            config.eval_every is None or any(row.get("rows") for row in held_out),
            "--eval-every has no effect, because no instances are held out; leave it out, or build "
            "with a larger --eval-fraction",
        )
        initial = None if config.init_from is None else fingerprint_folder(config.init_from)
        precision = config.precision
        if precision == "auto" and not config.overwrite:
            past = read_previous_run(config.output)
            precision = past["options"].get("precision", "auto") if past else "auto"
        return cls(config, precision, sources, initial)

    @property
    def inputs(self) -> list[FileRow]:
        """Name, bytes and SHA-256 of the instances' shards."""
        return [input_row(row) for source in self.sources for row in source.shards]

    @property
    def spec(self) -> StageSpec:
        """Everything on which the weights depend."""
        config = self.config
        options = {
            name: value
            for name, value in format_options(asdict(config)).items()
            if name not in OPTIONS_OUTSIDE_KEY
        }
        # An option that is given with its default value makes no other run.
        if config.init_from is None:
            options["preset"] = config.preset or DEFAULT_PRESET
            family = config.choose_family(self.sources[0].options["objective"])
        else:
            family = read_family(config.init_from)
        options |= {"architecture": family, "dropout": config.choose_dropout(family)}
        if config.max_time is None:
            options["max_steps"] = config.num_steps
        options |= {"init_from": self.initial, "precision": self.precision}
        return StageSpec(
            kind=KIND,
            output=config.output,
            options=options,
            tokenizer_fingerprint=self.sources[0].tokenizer_fingerprint or "",
            seed=config.seed,
            inputs=self.inputs,
            fingerprints=frozenset({"init_from"}),
        )


def describe_run(
    plan: RunPlan,
    *,
    model: Mapping[str, Any],
    num_parameters: int,
    device: str,
    num_processes: int = 1,
) -> RunRecord:
    """Return the content of ``run.json``.

    Args:
        plan: its output may hold the ``run.json`` of an earlier start.
        model: shape of the model, under the names of a Hugging Face ``config.json``.
        num_parameters: parameters of the model; shared ones count once.
        device: description of the device.
        num_processes: processes that share each batch.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    earlier = plan.config.output / RUN
    started = read_json(earlier, RunRecord)["started"] if earlier.is_file() else now
    return {
        "started": started,
        "resumed": now if earlier.is_file() else None,
        "command": _format_command(sys.argv),
        "options": format_options(asdict(plan.config)),
        "model": dict(model),
        "num_parameters": num_parameters,
        "device": device,
        "num_processes": num_processes,
        "cores": count_processors(),
        "instances_keys": [manifest.key for manifest in plan.sources],
        "tokenizer_fingerprint": plan.sources[0].tokenizer_fingerprint,
        "init_from_fingerprint": plan.initial,
        "versions": _find_versions(),
    }


def read_run(folder: Path) -> tuple[RunRecord, PretrainConfig]:
    """Return the content of a run's ``run.json``, and its options as a config.

    Raises:
        TokkitError: it is damaged.
    """
    path = folder / RUN
    record = read_json(path, RunRecord)
    try:
        check_options(record["options"])
        config = msgspec.convert(record["options"], PretrainConfig, dec_hook=_make_path)
    except (ValueError, UsageError) as error:
        raise TokkitError(f"{path}: damaged options ({error}); {RECREATE}") from error
    return record, config


def _make_path(schema: type, value: Any) -> Any:
    return schema(value)


def _format_command(arguments: Sequence[str]) -> str:
    """Return a command line as a user would type it."""
    name = Path(arguments[0]).name
    program = ["python", "-m", "tokkit"] if name == "__main__.py" else [name]
    return shlex.join([*program, *arguments[1:]])


def format_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON values: paths become strings, tuples become lists."""
    formatted: dict[str, Any] = json.loads(json.dumps(options, default=str))
    return formatted


def count_processors() -> int:
    """Return the number of processors that this process may use, or that the machine has."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _find_versions() -> dict[str, str]:
    """Return the versions of everything on which weights or speed may depend."""
    import torch

    versions = {
        "tokkit": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": version("numpy"),
        "numba": version("numba"),
    }
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    return versions


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the lines of ``metrics.jsonl``, up to one that a crash cut short; none without a file."""
    if not path.is_file():
        return []
    with wrap_os_errors(path):
        data = path.read_bytes()
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
    """Return the folder of a step's checkpoint within the folder of checkpoints."""
    return folder / f"step-{step:08d}"


def checkpoint_step(path: Path) -> int:
    """Return the step of a checkpoint, from its name."""
    return int(path.name.removeprefix("step-"))


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the paths of all checkpoints in a folder, the oldest first."""
    names = (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name))
    return sorted(names, key=checkpoint_step)
