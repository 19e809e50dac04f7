"""Checkpoints: folders that are complete or absent, and that hold numbers and no code.

    checkpoints/step-00001000/model.safetensors       the weights
                              optimizer.safetensors   the optimizer's moments, by the weights' names
                              state.json              {"state": {"step": 1000, …},
                                                       "best": {"step": 800, "loss": 2.31},
                                                       "files": [{"name": …, "bytes": …, "sha256": …}, …],
                                                       "sha256": …}

There is no RNG state and no position in the data: both are functions of the step. A tensor that
several modules share is stored once. The number of updates, which optimizers keep for each parameter,
is the step.

A checkpoint is written under a temporary name, synced and renamed, and an old one is renamed before it
is deleted, so a folder with its final name is complete whenever the process dies. The hashes detect
damage by the disk itself; then the run resumes from the previous checkpoint, and repeats the steps
since then, bit for bit. Nothing is unpickled.

The last few checkpoints are kept, and the best one, with the lowest held-out loss. Each records which
one that is, so that a resumed run knows it. The one before the decay of ``--schedule wsd`` is also
kept: a run that gets more steps continues from it. ``Schedule.is_checkpoint_due`` decides when one is
written.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tokkit.engine.files import hash_file, write_folder_atomically
from tokkit.engine.json_files import canonical_json, read_json
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.pretraining.models.architectures import build_meta_model
from tokkit.pretraining.models.model_files import (
    MODEL,
    DamagedError,
    read_tensors,
    wrap_damage_errors,
    write_tensors,
)
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.training.metrics import MetricSums, TrainingState
from tokkit.pretraining.training.optimizers import name_moments
from tokkit.pretraining.training.run_record import (
    STATE,
    BestCheckpoint,
    CheckpointRecord,
    checkpoint_path,
    checkpoint_step,
    list_checkpoints,
)

OPTIMIZER = "optimizer.safetensors"

# The tensors of one step: for each file of a checkpoint, its tensors by name.
Snapshot = Mapping[str, Mapping[str, Tensor]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a run resumes from.

    Attributes:
        tensors: tensors of model and optimizer, in main memory.
        state: the saved JSON; ``state["step"]`` is the number of updates.
        best: best checkpoint; None if none was evaluated.
    """

    tensors: Snapshot
    state: dict[str, Any]
    best: BestCheckpoint | None


def name_tensors(model: nn.Module, optimizer: Optimizer) -> Snapshot:
    """Return the tensors of a model and of its optimizer, which a checkpoint holds.

    Before the first step there are no moments: parameters are returned in their place, which have the
    same shape and device.

    Raises:
        KeyError: if the optimizer does not keep the moments that its parameter groups name.
    """
    kept = name_moments(optimizer)
    moments = {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        if optimizer.state.get(parameter)
        else parameter
        for name, parameter in model.named_parameters()
        for moment in kept[parameter]
    }
    weights = {name: tensor.detach() for tensor, name in _name_weights(model).items()}
    return {MODEL: weights, OPTIMIZER: moments}


def _name_weights(model: nn.Module) -> dict[Tensor, str]:
    """Return the names of parameters and buffers; for a shared one the first name."""
    names: dict[Tensor, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(tensor, name)
    return names


def restore_tensors(snapshot: Snapshot, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Copy a snapshot into a model and its optimizer.

    Args:
        snapshot: tensors with the names and shapes of ``name_tensors``.
        step: number of updates before the snapshot.
        model: overwritten in place, so shared tensors remain shared.
        optimizer: optimizer of the model; its state is replaced.
    """
    with torch.no_grad():
        for tensor, name in _name_weights(model).items():
            tensor.copy_(snapshot[MODEL][name])
    names: dict[Tensor, str] = {p: name for name, p in model.named_parameters()}
    state = {
        number: {
            "step": torch.tensor(float(step)),  # load_state_dict moves it to the right device
            **{moment: snapshot[OPTIMIZER][f"{names[parameter]}.{moment}"] for moment in moments},
        }
        for number, (parameter, moments) in enumerate(name_moments(optimizer).items())
    }
    if step == 0:  # all updates were skipped, so there may be no moments yet
        state = {}
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def read_model(path: Path, config: ModelConfig) -> Transformer:
    """Return the model of a checkpoint, on the CPU in evaluation mode.

    Args:
        path: folder of the checkpoint.
        config: shape of the model.

    Raises:
        TokkitError: if the file is damaged or belongs to another model.
    """
    model = build_meta_model(config)
    names = _name_weights(model)
    tensors = read_tensors(path / MODEL, {name: tensor for tensor, name in names.items()})
    weights = model.state_dict(keep_vars=True).items()
    model.load_state_dict({name: tensors[names[own]] for name, own in weights}, assign=True)
    return model.eval()


def write_checkpoint(
    folder: Path, tensors: Snapshot, state: Mapping[str, Any], best: BestCheckpoint | None
) -> None:
    """Write the checkpoint of ``state["step"]`` into the folder of a run's checkpoints.

    Raises:
        OSError: if writing fails, as on a full disk; the folder is then unchanged.
    """
    with write_folder_atomically(checkpoint_path(folder, state["step"])) as temporary:
        files = [write_tensors(temporary / name, tensors[name]) for name in tensors]
        data: dict[str, Any] = {"state": state, "best": best and asdict(best), "files": files}
        data["sha256"] = hashlib.sha256(canonical_json(data)).hexdigest()
        (temporary / STATE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")


def remove_old_checkpoints(
    folder: Path,
    step: int,
    num_kept: int,
    best: BestCheckpoint | None,
    kept_step: int | None = None,
) -> None:
    """Keep the last ``num_kept`` checkpoints up to ``step``, the best, and that of ``kept_step``.

    A checkpoint of a later step is damaged, or the run would have resumed from it. If one cannot be
    removed, that is tried again after the next checkpoint.
    """
    paths = list_checkpoints(folder)
    kept = [path for path in paths if checkpoint_step(path) <= step][-num_kept:]
    if best is not None:
        kept.append(checkpoint_path(folder, best.step))
    if kept_step is not None:
        kept.append(checkpoint_path(folder, kept_step))
    for path in paths:
        if path not in kept:
            with suppress(OSError):
                path.rename(path.with_name(f"{path.name}.tmp"))
    remove_incomplete_checkpoints(folder)


def remove_incomplete_checkpoints(folder: Path) -> None:
    """Remove what a process left behind that died while it wrote or deleted a checkpoint."""
    for path in folder.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def load_newest_checkpoint(
    folder: Path, expected: Snapshot, decay_start: int | None = None
) -> Checkpoint | None:
    """Load the newest undamaged checkpoint of a run, and warn of newer ones that are damaged.

    Args:
        folder: folder of the run's checkpoints.
        expected: see ``name_tensors``.
        decay_start: step at which the decay of the learning rate starts. Checkpoints within another
            decay, with which the run ended before it got more steps, are tried last.

    Returns:
        None if there is no checkpoint.

    Raises:
        TokkitError: if all of them are damaged, or the newest belongs to another model.
    """
    paths, faults = list_checkpoints(folder), []
    decayed = [path for path in paths if _find_decay(path) not in (None, decay_start)]
    for path in (*reversed([path for path in paths if path not in decayed]), *reversed(decayed)):
        try:
            checkpoint = load_checkpoint(path, expected)
        except DamagedError as error:
            faults.append(error)
            continue
        for fault in faults:
            log.warning("%s; the run resumes from %s", fault, path)
        return checkpoint
    if faults:
        raise TokkitError(
            f"{faults[0]}; all checkpoints in {folder} are damaged, pass --overwrite to start again"
        )
    return None


def _find_decay(path: Path) -> int | None:
    """Return ``decay_start`` of a checkpoint's state; None if it is damaged."""
    with suppress(TokkitError):
        decay_start: int | None = read_json(path / STATE, CheckpointRecord)["state"].get(
            "decay_start"
        )
        return decay_start
    return None


def copy_checkpoint(path: Path, folder: Path, expected: Snapshot) -> None:
    """Copy the checkpoint of another run, as the start of a new one, into a folder of checkpoints.

    Raises:
        TokkitError: if it is damaged or belongs to another model, or cannot be written.
    """
    checkpoint = load_checkpoint(path, expected)
    past = TrainingState.from_dict(checkpoint.state)
    state = replace(past, phase_starts=[past.step], interval=MetricSums(), decay_start=None)
    state.evaluated_step = state.best_loss = None
    with wrap_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_checkpoint(folder, checkpoint.tensors, asdict(state), None)


def load_checkpoint(path: Path, expected: Snapshot) -> Checkpoint:
    """Load one checkpoint.

    Args:
        path: folder of the checkpoint.
        expected: see ``name_tensors``.

    Raises:
        DamagedError: if a file is not as it was written.
        TokkitError: if a file cannot be read, or belongs to another model.
    """
    with wrap_damage_errors(path / STATE):
        if (path / STATE).exists() and not (path / STATE).is_file():
            raise ValueError("it is not a regular file")
        content = (path / STATE).read_bytes()
        data = msgspec.json.decode(content, type=CheckpointRecord)
        state, best = data["state"], data["best"]
        written = msgspec.json.decode(content, type=dict[str, Any])
        digest = written.pop("sha256", None)
        if digest not in (None, hashlib.sha256(canonical_json(written)).hexdigest()):
            raise ValueError("its SHA-256 has changed")
        is_complete = expected.keys() <= {row["name"] for row in data["files"]}
        if msgspec.convert(state, TrainingState).step != checkpoint_step(path) or not is_complete:
            raise ValueError("it is of another step, or lacks files")
    for row in data["files"]:
        with wrap_damage_errors(path / row["name"]):
            if (size := (path / row["name"]).stat().st_size) != row["bytes"]:
                raise ValueError(f"it has {size} of {row['bytes']} bytes")
            if hash_file(path / row["name"]) != row["sha256"]:
                raise ValueError("its SHA-256 has changed")
    tensors = {name: read_tensors(path / name, expected[name]) for name in expected}
    if best is not None and not checkpoint_path(path.parent, best.step).is_dir():
        best = None  # removed for a better one, which is damaged
    return Checkpoint(tensors, state, best)
