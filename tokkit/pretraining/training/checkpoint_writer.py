"""Writing checkpoints while training goes on.

Training waits for a copy, not for the disk:

    training   … step 1000 │copy│ step 1001   step 1002 …        step 2000 │wait│copy│ …
    thread                      │write, sync, rename, delete old│                     │write …

One write is in progress at a time, and there is memory for one copy: a checkpoint that is due before
the last one is on disk waits for it. For ``base``, 1.3 GB, on two busy cores, the first copy, which
allocates the memory, took 3 s, later ones 0.5 s, and the write 5 s. A write that fails, as on a full
disk, is logged and does not end the run.
"""

import copy
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from tokkit.engine.mirrors import push_folder
from tokkit.errors import TokkitError
from tokkit.pretraining.training.checkpoints import (
    Checkpoint,
    Snapshot,
    remove_incomplete_checkpoints,
    remove_old_checkpoints,
    write_checkpoint,
)
from tokkit.pretraining.training.run_record import BestCheckpoint, checkpoint_path

LONG_WAIT_SECONDS = 5.0

log = logging.getLogger(__name__)


class SnapshotBuffer:
    """Main memory for one snapshot, which the next one overwrites.

    For tensors on a GPU it is pinned, so that copies are asynchronous; torch rounds the size of what
    it pins up to a power of two, so ``base`` takes 2.1 GB, not 1.3.
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
        num_kept: number of recent checkpoints to keep.
        resumed: checkpoint from which the run resumed, if any.
        kept_step: step of a checkpoint to keep as well.

    Attributes:
        saved_step: step of the newest checkpoint on disk; 0 if there is none.
        fault: why the last write failed; None if it did not.
        best: best checkpoint on disk.
    """

    def __init__(
        self,
        folder: Path,
        num_kept: int,
        resumed: Checkpoint | None = None,
        kept_step: int | None = None,
    ) -> None:
        self.folder = folder
        self.kept_step = kept_step
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
            push_folder(self.folder.parent)
        except (OSError, TokkitError) as error:
            self.fault = str(getattr(error, "strerror", None) or error).lower()
            log.warning(
                "%s: not written (%s); training continues and %s; free some space before the next",
                checkpoint_path(self.folder, step),
                self.fault,
                self.describe_saved(),
            )
            return
        self.best, self.saved_step, self.fault = best, step, None
        remove_old_checkpoints(self.folder, step, self.num_kept, best, self.kept_step)
