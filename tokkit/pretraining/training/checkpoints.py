"""Checkpoints: folders that are complete or absent, of files that hold numbers and nothing else.

    checkpoints/step-00001000/model.safetensors       the weights
                              optimizer.safetensors   the optimizer's moments, by the weights' names
                              state.json              {"state": {"step": 1000, …},
                                                       "best": {"step": 800, "loss": 2.31},
                                                       "files": [{"name": …, "bytes": …, "sha256": …}, …],
                                                       "sha256": …}

There is no state of a random generator and no position in the data: both are functions of the
step. A tensor that several modules share is stored once. The number of updates, which an optimizer
keeps for each parameter, is the step.

A checkpoint is written under a temporary name, synced and renamed, and an old one is renamed before
it is deleted, so a folder with its final name is complete whenever the process dies. Damage by the
disk itself is detected by the hashes; then the run resumes from the checkpoint before, and repeats
the steps since to the same bits. Nothing is unpickled.

The last few checkpoints are kept, and the best one: that with the lowest held-out loss. Each records
which one that is, so that a resumed run knows it. When one is written is up to
``Schedule.is_checkpoint_due``. Training waits for a copy, not for the disk:

    training   … step 1000 │copy│ step 1001   step 1002 …        step 2000 │wait│copy│ …
    thread                      │write, sync, rename, delete old│                     │write …

One write is in progress at a time, and there is memory for one copy: a checkpoint that is due before
the last one is on disk waits for it. For ``base``, 1.3 GB, on two busy cores the copy took 0.5 s, the
first, which allocates the memory, 3 s, and the write 5 s. A write that fails, as on a full disk, is
logged and does not end the run.
"""

import copy
import hashlib
import itertools
import json
import logging
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import msgspec
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tokkit.engine.files import hash_file, write_folder_atomically
from tokkit.engine.json_files import canonical_json
from tokkit.errors import TokkitError
from tokkit.pretraining.models.architectures import outline_model
from tokkit.pretraining.models.tensor_files import (
    DamagedError,
    read_tensors,
    wrap_damage_errors,
    write_tensors,
)
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.training.metrics import TrainingState
from tokkit.pretraining.training.optimizers import MOMENTS
from tokkit.pretraining.training.run_record import (
    STATE,
    BestCheckpoint,
    CheckpointRecord,
    checkpoint_path,
    checkpoint_step,
    list_checkpoints,
)

MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
LONG_WAIT_SECONDS = 5.0

# The tensors of one step: for each file of a checkpoint, its tensors by name.
Snapshot = Mapping[str, Mapping[str, Tensor]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoint:
    """What a run resumes from.

    Attributes:
        tensors: tensors of model and optimizer, in main memory.
        state: the JSON that was saved; ``state["step"]`` is the number of updates.
        best: None if no checkpoint was evaluated.
    """

    tensors: Snapshot
    state: dict[str, Any]
    best: BestCheckpoint | None


def name_tensors(model: nn.Module, optimizer: Optimizer) -> Snapshot:
    """Return the tensors of a model and of its optimizer.

    Before the first step, parameters stand for their moments, which have the same shape and device:
    these are the tensors that a checkpoint must hold.
    """
    moments = {
        f"{name}.{moment}": optimizer.state.get(parameter, {}).get(moment, parameter)
        for name, parameter in model.named_parameters()
        for moment in MOMENTS[type(optimizer)]
    }
    return {MODEL: _name_weights(model), OPTIMIZER: moments}


def _name_weights(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers; a shared one under the first of its names."""
    names: dict[Tensor, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(tensor, name)
    return {name: tensor.detach() for tensor, name in names.items()}


def restore_tensors(snapshot: Snapshot, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Copy a snapshot into a model and its optimizer.

    Args:
        snapshot: tensors with the names and shapes of ``name_tensors``.
        step: updates before the snapshot.
        model: filled in place, so shared tensors remain shared.
        optimizer: the model's; its state is replaced.
    """
    with torch.no_grad():
        for name, tensor in _name_weights(model).items():
            tensor.copy_(snapshot[MODEL][name])
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = itertools.chain(*(group["params"] for group in optimizer.param_groups))
    state = {
        number: {
            "step": torch.tensor(float(step)),  # load_state_dict moves it to where kernels want it
            **{
                moment: snapshot[OPTIMIZER][f"{names[parameter]}.{moment}"]
                for moment in MOMENTS[type(optimizer)]
            },
        }
        for number, parameter in enumerate(parameters)
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


def read_model(path: Path, config: ModelConfig) -> Transformer:
    """Return the model of a checkpoint, on the CPU in evaluation mode.

    Args:
        path: folder of the checkpoint.
        config: of the model.

    Raises:
        TokkitError: if the file is damaged or of another model.
    """
    model = outline_model(config)
    names = _name_weights(model)
    tensors = read_tensors(path / MODEL, names)
    weights = model.state_dict(keep_vars=True)
    first: dict[Tensor, str] = {}
    for name, tensor in weights.items():
        first.setdefault(tensor, name)
    model.load_state_dict({name: tensors[first[weights[name]]] for name in weights}, assign=True)
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
    folder: Path, step: int, num_kept: int, best: BestCheckpoint | None
) -> None:
    """Keep the last ``num_kept`` checkpoints up to ``step``, and the best.

    A checkpoint of a later step is damaged, or the run would have resumed from it. One that cannot
    be removed now is tried again after the next checkpoint.
    """
    paths = list_checkpoints(folder)
    kept = [path for path in paths if checkpoint_step(path) <= step][-num_kept:]
    if best is not None:
        kept.append(checkpoint_path(folder, best.step))
    for path in paths:
        if path not in kept:
            with suppress(OSError):
                path.rename(path.with_name(f"{path.name}.tmp"))
    remove_incomplete_checkpoints(folder)


def remove_incomplete_checkpoints(folder: Path) -> None:
    """Remove what a process that died while it wrote or deleted a checkpoint left behind."""
    for path in folder.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def load_newest_checkpoint(folder: Path, expected: Snapshot) -> Checkpoint | None:
    """Load the newest undamaged checkpoint of a run, and warn of newer ones that are damaged.

    Returns:
        None if there is no checkpoint.

    Raises:
        TokkitError: if all of them are damaged, or the newest is of another model.
    """
    faults = []
    for path in reversed(list_checkpoints(folder)):
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
            f"{faults[0]}; no checkpoint in {folder} is undamaged, pass --overwrite to start again"
        )
    return None


def load_checkpoint(path: Path, expected: Snapshot) -> Checkpoint:
    """Load one checkpoint.

    Args:
        path: folder of the checkpoint.
        expected: see ``name_tensors``.

    Raises:
        DamagedError: if a file is not what was written.
        TokkitError: if a file cannot be read, or is of another model.
    """
    with wrap_damage_errors(path / STATE):
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


class SnapshotBuffer:
    """Main memory for one snapshot, which the next one overwrites.

    For tensors of a GPU it is pinned, so that all copies run at once; torch rounds what it pins up
    to a power of two, which makes 2.1 GB of the 1.3 of ``base``.
    """

    def __init__(self) -> None:
        self._buffers: dict[str, dict[str, Tensor]] = {}

    def copy(self, tensors: Snapshot) -> Snapshot:
        """Copy tensors as fp32; they may change once this returns."""
        devices = set()
        for file, named in tensors.items():
            buffers = self._buffers.setdefault(file, {})
            for name, tensor in named.items():
                pinned = tensor.is_cuda
                if name not in buffers:
                    buffers[name] = torch.empty(
                        tensor.shape, dtype=torch.float32, pin_memory=pinned
                    )
                buffers[name].copy_(tensor.detach(), non_blocking=pinned)
                if pinned:
                    devices.add(tensor.device)
        for device in devices:
            torch.cuda.synchronize(device)
        return self._buffers


class CheckpointWriter:
    """Writes a run's checkpoints in a thread, and keeps the last few and the best.

    Args:
        folder: folder of the run's checkpoints.
        num_kept: how many of the last ones are kept.
        resumed: checkpoint from which the run resumed.

    Attributes:
        saved_step: step of the newest checkpoint that is on disk; 0 if there is none.
        fault: why the last write failed; None if it did not.
        best: best checkpoint on disk.
    """

    def __init__(self, folder: Path, num_kept: int, resumed: Checkpoint | None = None) -> None:
        self.folder = folder
        self.num_kept = num_kept
        self.saved_step: int = resumed.state["step"] if resumed else 0
        self.best = resumed.best if resumed else None
        self.fault: str | None = None
        self._buffer = SnapshotBuffer()
        self._write_in_progress: Future[None] | None = None
        self._has_logged_wait = False

    def __enter__(self) -> Self:
        remove_incomplete_checkpoints(self.folder)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown()
        self.wait()

    def save(
        self, tensors: Snapshot, state: Mapping[str, Any], *, loss: float | None = None
    ) -> None:
        """Copy the tensors of a step and start writing them; they may change once this returns.

        Args:
            tensors: tensors on any device.
            state: JSON with the ``step``.
            loss: held-out loss of these weights, if they were evaluated.
        """
        started = time.perf_counter()
        self.wait()
        seconds = time.perf_counter() - started
        if seconds > LONG_WAIT_SECONDS and not self._has_logged_wait:
            self._has_logged_wait = True
            log.info(
                "%s: training waited %.0f s until the last checkpoint was written; "
                "a larger --checkpoint-every avoids that",
                checkpoint_path(self.folder, state["step"]),
                seconds,
            )
        copied = self._buffer.copy(tensors)
        self._write_in_progress = self._executor.submit(
            self._write, copied, copy.deepcopy(state), loss
        )

    def wait(self) -> None:
        """Wait until nothing is being written; ``saved_step`` and ``fault`` are final then."""
        writing, self._write_in_progress = self._write_in_progress, None
        if writing is not None:
            writing.result()

    def describe_saved(self) -> str:
        """Return which checkpoint a run would resume from, as the end of a message."""
        if self.saved_step == 0:
            return "there is no checkpoint yet"
        return f"the last checkpoint is {checkpoint_path(self.folder, self.saved_step)}"

    def _write(self, tensors: Snapshot, state: Mapping[str, Any], loss: float | None) -> None:
        step: int = state["step"]
        best = self.best
        if loss is not None and (best is None or loss < best.loss):
            best = BestCheckpoint(step, loss)
        try:
            write_checkpoint(self.folder, tensors, state, best)
        except OSError as error:
            self.fault = (error.strerror or str(error)).lower()
            log.warning(
                "%s: not written (%s); training continues and %s; free some space before the next",
                checkpoint_path(self.folder, step),
                self.fault,
                self.describe_saved(),
            )
            return
        self.best, self.saved_step, self.fault = best, step, None
        remove_old_checkpoints(self.folder, step, self.num_kept, best)
