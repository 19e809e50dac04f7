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
"""

import json
import logging
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tokkit.engine.files import hash_file, sync_folder
from tokkit.errors import TokkitError
from tokkit.pretraining.snapshot import Snapshot
from tokkit.pretraining.tensors import DamagedError, damage_is_told, read_tensors, write_tensors

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
