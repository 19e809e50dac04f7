"""The identity of a run, from its options and the manifests of its instances, without torch.

So "up to date", "another run" and "more steps" are answered at once. The folder records the identity
when the run starts, the manifest when it has finished. Of the options that are part of it, only
``max_steps`` may change in a folder that holds a run: the run continues to the new end. Any other
change makes it another run.

A run with ``--continue-from`` or ``--decay-from`` takes over a checkpoint: model, moments and step. It
copies it into its own folder when it starts, and never reads the other run again. Its position in the
data continues if the instances are the same, and is 0 if not.
"""

import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec

from tokkit import __version__
from tokkit.engine.folder import refuse_overlap
from tokkit.engine.json_files import RECREATE, FileRow, canonical_json, input_row, read_json
from tokkit.engine.manifest import Manifest
from tokkit.engine.mirrors import pull
from tokkit.engine.spec import StageSpec, read_previous_run
from tokkit.engine.stage_config import OutputConfig, count_processors
from tokkit.engine.unit import content_key
from tokkit.errors import TokkitError, require
from tokkit.pretraining.data.loader_config import order_by_length, require_objective
from tokkit.pretraining.families import FAMILY_OF, MODERNBERT_WINDOW
from tokkit.pretraining.models.model_files import fingerprint_folder, read_family
from tokkit.pretraining.pretrain_config import DEFAULT_MAX_STEPS, PretrainConfig
from tokkit.pretraining.training.run_record import (
    CHECKPOINTS,
    KIND,
    RUN,
    STATE,
    CheckpointRecord,
    RunRecord,
    checkpoint_step,
    find_origin,
    find_run,
    format_options,
    list_checkpoints,
    read_run,
)
from tokkit.pretraining.training.schedule import Origin, Schedule
from tokkit.shards.objectives import MASKED

# Options that do not change the weights, or only through rounding and dropout's choice of activations.
# All others are part of the content key.
OPTIONS_OUTSIDE_KEY = frozenset(
    {
        "instances",  # their content is in the key, their paths are not
        "init_from",  # same
        "continue_from",  # same
        "decay_from",  # same
        "output",
        "micro_batch_tokens",
        "checkpoint_every",
        "keep_checkpoints",
        "eval_every",
        "tracker",
        "push_to_hub",
        "model_license",
        "device",
        "compile",
        "kernels",
        "nproc_per_node",
        "fsdp",
        "threads",
        *OutputConfig.options,
        "seed",  # a stage's key has it anyway
    }
)


NEW_RUN = Origin(planned_steps=DEFAULT_MAX_STEPS)


@dataclass(frozen=True)
class RunPlan:
    """A run as its options and the manifests of its instances define it.

    Attributes:
        config: options of the run.
        precision: ``--precision``; ``auto`` until the device is known. In a folder that holds a run,
            ``auto`` is the precision of that run, which may have been started with either.
        sources: manifests of the instance folders.
        initial: fingerprint of the model in ``init_from``; None without it.
        origin: where the run begins.
        model: shape of the model taken over from another run; None without one.
    """

    config: PretrainConfig
    precision: str
    sources: tuple[Manifest, ...]
    initial: str | None
    origin: Origin = NEW_RUN
    model: Mapping[str, Any] | None = None

    @classmethod
    def from_config(cls, config: PretrainConfig) -> "RunPlan":
        """Read the manifests that the options name.

        Raises:
            UsageError: if the run folder is an input, or an option has no effect.
            TokkitError: if an instance folder is unfinished or has an unknown objective, the run to
                continue has another model, or more steps are done than the run is to have.
        """
        canonical_json(format_options(asdict(config)))  # refuses names that run.json cannot hold
        models = [path for path in (config.init_from, config.origin_path) if path is not None]
        refuse_overlap(config.output, config.folders, models)
        config.pull_folders()
        for folder in {*config.folders} - {*config.instances}:  # of phases
            pull(folder)
        sources = tuple(Manifest.read(folder, "instances") for folder in config.folders)
        for folder, source in zip(config.folders, sources, strict=True):
            require_objective(source.options, str(folder))
        objective = sources[0].options["objective"]
        built = [source.options.get("max_seq_length", 0) for source in sources]
        if config.lengths:
            order_by_length(config.lengths, list(zip(config.folders, built, strict=True)))
        require_model(config, objective, max(built))
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
        origin, model = _find_origin(config, sources)
        last_step = config.num_steps if config.decay_from is None else origin.planned_steps
        done = max(map(checkpoint_step, list_checkpoints(config.output / CHECKPOINTS)), default=0)
        if config.max_time is None and not config.overwrite and done > last_step:
            raise TokkitError(
                f"{config.output}: {done:,} steps are done, more than --max-steps {last_step:,}; "
                f"pass --max-steps {done} or more, or --overwrite to start again"
            )
        Schedule.from_config(config, origin)  # refuses fewer steps than warm-up, decay and phases
        return cls(config, precision, sources, initial, origin, model)

    def choose_family(self) -> str:
        """Return the ``--architecture`` of the model."""
        if self.model is not None:
            return family_of(self.model)
        if self.config.init_from is not None:
            return read_family(self.config.init_from)
        return self.config.choose_family(self.sources[0].options["objective"])

    @property
    def inputs(self) -> list[FileRow]:
        """Name, bytes and SHA-256 of the instances' shards."""
        return [input_row(row) for source in self.sources for row in source.shards]

    @property
    def spec(self) -> StageSpec:
        """Everything that the weights depend on."""
        config = self.config
        options = {
            name: value
            for name, value in format_options(asdict(config)).items()
            if name not in OPTIONS_OUTSIDE_KEY
        }
        if config.own_phases:
            keys = dict(zip(config.folders, (source.key for source in self.sources), strict=True))
            for phase, data in zip(config.own_phases, options["phases"], strict=True):
                data["instances"] = [keys[folder] for folder in phase.instances]
        # An option that is given with its default value does not make it another run.
        family = self.choose_family()
        options |= {"architecture": family, "dropout": config.choose_dropout(family)}
        if not (config.init_from or config.origin_path):
            options["preset"] = config.choose_preset(family)
        by_steps = config.max_time is None and config.decay_from is None
        if by_steps:
            options["max_steps"] = config.num_steps
        options |= {"init_from": self.initial, "precision": self.precision}
        if config.origin_path is not None:
            name = "decay_from" if config.continue_from is None else "continue_from"
            options[name] = self.origin.fingerprint
        return StageSpec(
            kind=KIND,
            output=config.output,
            options=options,
            tokenizer_fingerprint=self.sources[0].tokenizer_fingerprint or "",
            seed=config.seed,
            inputs=self.inputs,
            fingerprints=frozenset({"init_from", "continue_from", "decay_from"}),
            adjustable=frozenset({"max_steps"} if by_steps else ()),
        )


def require_model(config: PretrainConfig, objective: str, longest: int) -> None:
    """Refuse a model that cannot learn from the instances.

    Args:
        config: options of the run.
        objective: objective of the instances.
        longest: ``--max-seq-length`` of the instances.

    Raises:
        UsageError: if an option does not fit them.
    """
    if not (config.init_from or config.origin_path):
        family = config.choose_family(objective)
        window = MODERNBERT_WINDOW // (2 if objective == "clm" else 1)
        require(
            family != "modernbert" or longest >= window,
            f"--architecture modernbert has windows of {window} tokens, but the instances have at "
            f"most {longest}; build again with --max-seq-length {window} or more, or use another "
            "architecture",
        )
    require(
        not config.share_layers or objective in MASKED,
        f"--share-layers has no effect on instances of {objective}; leave it out",
    )


def _find_origin(
    config: PretrainConfig, sources: Sequence[Manifest]
) -> tuple[Origin, Mapping[str, Any] | None]:
    """Return where a run begins, and the shape of the model that it takes over, if any."""
    started = None
    if (config.output / RUN).is_file() and not config.overwrite:
        record, past = read_run(config.output)
        started = find_origin(record)
        if (past.continue_from, past.decay_from) == (config.continue_from, config.decay_from):
            return started, record["model"] if config.origin_path else None
    if config.origin_path is None:
        return Origin(planned_steps=config.num_steps), None
    is_decay = config.decay_from is not None
    run, checkpoint = find_run(config.origin_path, undecayed=is_decay)
    record, past = read_run(run)
    _require_same_model(config, record, past, sources)
    saved = read_json(checkpoint / STATE, CheckpointRecord)
    state, step = saved["state"], checkpoint_step(checkpoint)
    last_step = step + (config.decay_steps or 0) if is_decay else config.num_steps
    if step >= last_step:
        raise TokkitError(
            f"{checkpoint}: {step:,} steps are done, and --max-steps is {last_step:,}; it includes "
            f"them, so pass more"
        )
    position = 0
    has_same_data = record["instances_keys"] == [source.key for source in sources]
    if has_same_data and not past.phases and not config.phases:
        origin = find_origin(record)
        position, _ = Schedule.from_config(past, origin).batch_sizes(0).at(step - origin.step)
    found = Origin(
        planned_steps=last_step,
        step=step,
        position=position,
        rate=_read_rate(checkpoint, state) if is_decay else None,
        checkpoint=str(checkpoint),
        fingerprint=content_key({"step": step, "files": saved["files"]}),
    )
    if started is not None and started.fingerprint == found.fingerprint:
        found = started  # under another path
    return found, record["model"]


def _read_rate(checkpoint: Path, state: Mapping[str, Any]) -> float:
    """Return the learning rate of a checkpoint's last update."""
    try:
        return msgspec.convert(state.get("learning_rate", 0.0), float)
    except msgspec.ValidationError as error:
        raise TokkitError(f"{checkpoint / STATE}: damaged ({error}); {RECREATE}") from error


def family_of(model: Mapping[str, Any]) -> str:
    """Return the ``--architecture`` of a model's shape, as ``run.json`` has it."""
    return FAMILY_OF[model["model_type"]]


def _require_same_model(
    config: PretrainConfig, record: RunRecord, past: PretrainConfig, sources: Sequence[Manifest]
) -> None:
    """Refuse to continue a run whose model does not fit the instances or the optimizer."""
    path, model = config.origin_path, record["model"]
    if config.optimizer != past.optimizer:
        raise TokkitError(
            f"{path}: was trained with --optimizer {past.optimizer}, whose moments "
            f"{config.optimizer} cannot use; pass --optimizer {past.optimizer}"
        )
    for folder, source in zip(config.folders, sources, strict=True):
        objective, length = source.options["objective"], source.options.get("max_seq_length", 0)
        if source.tokenizer_fingerprint != record["tokenizer_fingerprint"]:
            raise TokkitError(
                f"{folder}: was made with another tokenizer than that of {path}; encode its text "
                f"with the tokenizer of the run"
            )
        if objective != model.get("objective"):
            raise TokkitError(
                f"{folder}: was built with --objective {objective}, but the model of {path} learns "
                f"{model.get('objective')}; build it again"
            )
        # These have no position embeddings, so sequences may be longer.
        if family_of(model) not in {"modernbert", "t5", "xlnet", "marian"} and length > int(
            model.get("max_position_embeddings") or 0
        ):
            raise TokkitError(
                f"{folder}: was built with --max-seq-length {length}, but the model of {path} has "
                f"{model.get('max_position_embeddings')} positions; build it again"
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
        plan: the run; its folder may hold the ``run.json`` of an earlier start.
        model: shape of the model, with the names of a Hugging Face ``config.json``.
        num_parameters: number of parameters; shared ones count once.
        device: description of the device.
        num_processes: number of processes that share each batch.
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
        "origin": asdict(plan.origin),
        "versions": _find_versions(),
    }


def _format_command(arguments: Sequence[str]) -> str:
    """Return a command line as a user would type it."""
    name = Path(arguments[0]).name
    program = ["python", "-m", "tokkit"] if name == "__main__.py" else [name]
    return shlex.join([*program, *arguments[1:]])


def _find_versions() -> dict[str, str]:
    """Return the versions of everything that weights or speed may depend on."""
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
