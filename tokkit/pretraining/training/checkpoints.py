"""Checkpoints: folders that are whole or not there, of files that hold numbers and nothing else.

    checkpoints/step-00001000/model.safetensors       the weights
                              optimizer.safetensors   its two moments, by the weights' names
                              state.json              {"state": {"step": 1000, …},
                                                       "best": {"step": 800, "loss": 2.31},
                                                       "files": [{"name": …, "bytes": …, "sha256": …}, …]}

There is no state of a random generator and no position in the data: both are functions of the
step. A checkpoint is written under a temporary name, synced and renamed, and an old one takes a
temporary name before it is deleted, so what has its name is whole, whenever the process dies. What
the disk itself loses is told by the hashes, and then the checkpoint before is the newest: training
repeats the steps from there, to the same bits. Nothing is unpickled.

The last few are kept, and the best: the one with the lowest loss on what is held out. Each says
which that is, so that a run that resumes knows it.

Where a run stands.

What a run's model and optimizer hold at one step, as tensors with names.

    model      embeddings.words.weight                         each tensor once, however many share it
    optimizer  embeddings.words.weight.exp_avg, ….exp_avg_sq   the moments of AdamW and of LAMB alike

The number of updates, which an optimizer keeps for each parameter, is the run's step.

While a snapshot is written training goes on and changes the tensors, so they are copied first:
into main memory, and into the same memory each time.
"""

import itertools
import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tokkit.engine.files import hash_file, sync_folder
from tokkit.errors import TokkitError
from tokkit.pretraining.training.metrics import Tally
from tokkit.pretraining.training.tensor_files import (
    DamagedError,
    damage_is_told,
    read_tensors,
    write_tensors,
)


@dataclass
class State:
    """All that a run goes on from, beside its tensors; JSON, kept in each checkpoint.

    There is no state of a random generator in it: order, masks and dropout are functions of the
    seed and the step, which is also the position in the data.

    Attributes:
        step: updates taken.
        tokens: seen in all of them, without padding.
        elapsed: seconds since the run began, without those in which it was stopped.
        phase_starts: the step at which each phase began, as far as the run has got.
        evaluated_step: the last step that was evaluated.
        best_loss: the lowest held-out loss.
        interval: sums since the last log line.
    """

    step: int = 0
    tokens: int = 0
    elapsed: float = 0.0
    phase_starts: list[int] = field(default_factory=lambda: [0])
    evaluated_step: int | None = None
    best_loss: float | None = None
    interval: Tally = field(default_factory=Tally)

    @classmethod
    def from_dict(cls, form: dict[str, Any]) -> "State":
        """Read back what ``as_dict`` gave."""
        return cls(**{**form, "interval": Tally(**form["interval"])})

    def as_dict(self) -> dict[str, Any]:
        """The state as JSON."""
        return asdict(self)

    def take_evaluation(self, loss: float) -> bool:
        """Note the held-out loss of the weights after ``step``; whether it is the lowest yet."""
        self.evaluated_step = self.step
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_loss = loss
        return is_best


MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Snapshot:
    """Tensors of one step, by name; in a checkpoint each mapping is a file.

    The mappings may make their tensors as their items are asked for, which happens once, in order.
    """

    model: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]


def name_tensors(model: nn.Module, optimizer: Optimizer) -> Snapshot:
    """The tensors themselves, of an optimizer that has taken at least one step."""
    moments = {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in MOMENTS
    }
    return Snapshot(_weights(model), moments)


def expect_tensors(model: nn.Module) -> Snapshot:
    """Tensors of the names and shapes that a checkpoint of the model must hold."""
    moments = {
        f"{name}.{moment}": parameter
        for name, parameter in model.named_parameters()
        for moment in MOMENTS
    }
    return Snapshot(_weights(model), moments)


def _weights(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers; of several names that share one, the first."""
    names: dict[Tensor, str] = {}
    for name, tensor in model.state_dict(keep_vars=True).items():
        names.setdefault(tensor, name)
    return {name: tensor.detach() for tensor, name in names.items()}


def restore(snapshot: Snapshot, step: int, model: nn.Module, optimizer: Optimizer) -> None:
    """Put a snapshot back.

    Args:
        snapshot: of these names and shapes, in main memory.
        step: updates taken.
        model: filled in place, so that what shares tensors goes on sharing them.
        optimizer: of the model's parameters; what it has is replaced.
    """
    with torch.no_grad():
        for name, tensor in _weights(model).items():
            tensor.copy_(snapshot.model[name])
    names = {parameter: name for name, parameter in model.named_parameters()}
    parameters = itertools.chain(*(group["params"] for group in optimizer.param_groups))
    state = {
        number: {
            # In the optimizer's own hands it goes to the device that its kernels want it on.
            "step": torch.tensor(float(step)),
            **{moment: snapshot.optimizer[f"{names[parameter]}.{moment}"] for moment in MOMENTS},
        }
        for number, parameter in enumerate(parameters)
    }
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": state, "param_groups": groups})


class SnapshotMemory:
    """Room in main memory for one snapshot, which the next one overwrites.

    For tensors of a GPU it is pinned, so that all copies are under way at once; torch rounds what it
    pins up to a power of two, which makes 2.1 GB of the 1.3 of ``base``.
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, str], Tensor] = {}
        self._devices: set[torch.device] = set()

    def take(self, tensors: Snapshot) -> Snapshot:
        """Copy tensors, as fp32; when this returns they may change."""
        copied = Snapshot(
            self._copy("model", tensors.model), self._copy("optimizer", tensors.optimizer)
        )
        for device in self._devices:
            torch.cuda.synchronize(device)
        return copied

    def _copy(self, part: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        copies = {}
        for name, tensor in tensors.items():
            room = self._rooms.get((part, name))
            if room is None:
                room = torch.empty(tensor.shape, dtype=torch.float32, pin_memory=tensor.is_cuda)
                self._rooms[part, name] = room
            if tensor.is_cuda:
                self._devices.add(tensor.device)
            copies[name] = room.copy_(tensor.detach(), non_blocking=tensor.is_cuda)
        return copies


MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Best:
    """The checkpoint with the lowest loss so far on what is held out."""

    step: int
    loss: float


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        tensors: of model and optimizer, in main memory.
        state: JSON as it was given; ``state["step"]`` counts the updates.
        best: None where no checkpoint was evaluated.
    """

    tensors: Snapshot
    state: dict[str, Any]
    best: Best | None


def write_checkpoint(
    folder: Path, tensors: Snapshot, state: Mapping[str, Any], best: Best | None
) -> None:
    """Write the checkpoint of ``state["step"]`` into the folder of a run's checkpoints.

    Raises:
        OSError: where the operating system refuses, as on a full disk; all is as it was.
    """
    with write_folder_atomically(checkpoint_path(folder, state["step"])) as written:
        files = [
            write_tensors(written / MODEL, tensors.model),
            write_tensors(written / OPTIMIZER, tensors.optimizer),
        ]
        form = {"state": state, "best": best and asdict(best), "files": files}
        (written / STATE).write_text(json.dumps(form, indent=2) + "\n", encoding="utf-8")


@contextmanager
def write_folder_atomically(folder: Path) -> Iterator[Path]:
    """Fill a temporary folder and give it its name when the block ends well.

    Args:
        folder: the final name; what stands there is replaced.

    Yields:
        The folder to write into; its files need not be synced.

    Raises:
        OSError: where the operating system refuses, as on a full disk; nothing is left then.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    try:
        _remove(temporary)
        temporary.mkdir(parents=True)
        yield temporary
        for path in temporary.iterdir():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(temporary)
        _remove(folder)
        temporary.rename(folder)
        sync_folder(folder.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is."""
    return folder / f"step-{step:08d}"


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints of a run, the oldest first."""
    return sorted(
        (path for path in folder.glob("step-*") if re.fullmatch(r"step-\d+", path.name)),
        key=_step_of,
    )


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def remove_old_checkpoints(folder: Path, step: int, num_kept: int, best: Best | None) -> None:
    """Keep the last few checkpoints up to ``step``, and the best.

    One of a later step is damaged: the run fell back behind it. What cannot be removed now is
    tried again after the next checkpoint.
    """
    there = list_checkpoints(folder)
    kept = [path for path in there if _step_of(path) <= step][-num_kept:]
    if best is not None:
        kept.append(checkpoint_path(folder, best.step))
    for path in there:
        if path not in kept:
            with suppress(OSError):
                path.rename(path.with_name(f"{path.name}.tmp"))
    remove_half_checkpoints(folder)


def remove_half_checkpoints(folder: Path) -> None:
    """Remove what a process left that died while it wrote or deleted a checkpoint."""
    for path in folder.glob("step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def load_newest_checkpoint(folder: Path, expected: Snapshot) -> Checkpoint | None:
    """Load a run's newest checkpoint that is whole, and warn of newer ones that are not.

    Returns:
        None where there are no checkpoints.

    Raises:
        TokkitError: where none of them is whole, or the newest belongs to another model.
    """
    there = list_checkpoints(folder)
    faults = []
    for path in reversed(there):
        try:
            checkpoint = load_checkpoint(path, expected)
        except DamagedError as error:
            faults.append(error)
            continue
        for fault in faults:
            log.warning("%s, so the run goes on from %s", fault, path)
        return checkpoint
    if faults:
        raise TokkitError(
            f"{faults[0]}, and no checkpoint of {folder} is whole; pass --overwrite to begin anew"
        )
    return None


def load_checkpoint(path: Path, expected: Snapshot) -> Checkpoint:
    """Load one checkpoint.

    Args:
        path: of its folder.
        expected: tensors of the names and shapes that must be in it.

    Raises:
        DamagedError: where a file is not what was written.
        TokkitError: where it may not be read, or belongs to another model.
    """
    with damage_is_told(path / STATE):
        form = json.loads((path / STATE).read_bytes())
        state, best, files = form["state"], form["best"], form["files"]
        best = None if best is None else Best(**best)
    for row in files:
        with damage_is_told(path / row["name"]):
            if (size := (path / row["name"]).stat().st_size) != row["bytes"]:
                raise ValueError(f"it has {size} of {row['bytes']} bytes")
            if hash_file(path / row["name"]) != row["sha256"]:
                raise ValueError("its bytes have changed")
    tensors = Snapshot(
        read_tensors(path / MODEL, expected.model),
        read_tensors(path / OPTIMIZER, expected.optimizer),
    )
    if best is not None and not checkpoint_path(path.parent, best.step).is_dir():
        best = None  # it was removed for a better one, behind which the run has fallen back
    return Checkpoint(tensors, state, best)
