"""Checkpoints: folders that are whole or not there, of files that hold numbers and nothing else.

    checkpoints/step-00001000/model.safetensors       the weights
                              optimizer.safetensors   AdamW's two moments, by the weights' names
                              state.json              step, and sums that have not been logged yet

There is no state of a random generator and no position in the data: both are functions of the
step. A checkpoint is written under a temporary name, synced and renamed, so a crash leaves either
none or a whole one. Nothing is unpickled.

A safetensors file is 8 bytes of length, a JSON header, and the tensors' bytes. It is written here
rather than by ``safetensors.torch``, which makes a second copy of all tensors in memory or, given
a path, bypasses the atomic writer and reports a full disk as an error that is no ``OSError``.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from tokkit.engine.files import read_json, sync_folder, write_atomically, write_json
from tokkit.errors import TokkitError, os_errors_about

NUM_KEPT = 2
MODEL = "model.safetensors"
OPTIMIZER = "optimizer.safetensors"
STATE = "state.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


@contextmanager
def write_folder_atomically(folder: Path) -> Iterator[Path]:
    """Fill a temporary folder and give it its name when the block ends well.

    Args:
        folder: the final name; what stands there is replaced.

    Yields:
        The folder to write into.

    Raises:
        TokkitError: where the operating system refuses, as on a full disk.
    """
    temporary = folder.with_name(f"{folder.name}.tmp")
    with os_errors_about(folder):
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file of fp32 tensors, atomically, one tensor in memory at a time."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    spelled = json.dumps(header, separators=(",", ":")).encode()
    spelled += b" " * (-len(spelled) % 8)  # the format aligns the data to 8 bytes
    with write_atomically(path) as file:
        file.write(len(spelled).to_bytes(8, "little"))
        file.write(spelled)
        for tensor in tensors.values():
            file.write(tensor.detach().float().contiguous().cpu().numpy().reshape(-1))


def read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a safetensors file.

    Args:
        path: of the file.
        expected: tensors of the names and shapes that must be in it.

    Raises:
        TokkitError: where it is missing or damaged, or does not hold what is expected.
    """
    try:
        with os_errors_about(path):
            tensors: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise TokkitError(
            f"{path}: damaged ({error}); remove its folder and run the same command again"
        ) from error
    for name, like in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else "none"
        if found != tuple(like.shape):
            raise TokkitError(
                f"{path}: for {name} {tuple(like.shape)} is needed, the file has {found}; "
                f"it belongs to another model"
            )
    return tensors


def save_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> None:
    """Write the checkpoint of ``state["step"]``; remove all but the last two, and what is half.

    Args:
        folder: of the run's checkpoints.
        model: the weights.
        optimizer: which has taken at least one step.
        state: JSON, from which the loop goes on.
    """
    moments = {
        f"{name}.{moment}": optimizer.state[parameter][moment]
        for name, parameter in model.named_parameters()
        for moment in MOMENTS
    }
    with write_folder_atomically(folder / f"step-{state['step']:08d}") as written:
        write_tensors(written / MODEL, model.state_dict())
        write_tensors(written / OPTIMIZER, moments)
        write_json(written / STATE, state)
    for path in [*folder.glob("step-*.tmp"), *list_checkpoints(folder)[:-NUM_KEPT]]:
        with os_errors_about(path):
            shutil.rmtree(path)


def list_checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints of a run, the oldest first."""
    return sorted(
        (path for path in folder.glob("step-*") if path.suffix != ".tmp"),
        key=lambda path: int(path.name.removeprefix("step-")),
    )


def load_checkpoint(
    folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """Fill model and optimizer from a checkpoint.

    Returns:
        The state that was saved.

    Raises:
        TokkitError: where a file is damaged, or holds other tensors than the model has.
    """
    parameters = dict(model.named_parameters())
    moments = read_tensors(
        folder / OPTIMIZER,
        {f"{name}.{moment}": p for name, p in parameters.items() for moment in MOMENTS},
    )
    model.load_state_dict(read_tensors(folder / MODEL, model.state_dict()))
    state: dict[str, Any] = read_json(folder / STATE)
    for name, parameter in parameters.items():
        optimizer.state[parameter] = {
            "step": torch.tensor(float(state["step"]), device=parameter.device),
            **{m: moments[f"{name}.{m}"].to(parameter.device) for m in MOMENTS},
        }
    return state
