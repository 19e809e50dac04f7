"""Checkpoints written beside training: a step waits for the copy, not for the disk.

    training   … step 1000 │copy│ step 1001   step 1002 …        step 2000 │wait│copy│ …
    thread                      │write, sync, rename, delete old│                     │write …

One write is under way at a time, and there is memory for one copy: a checkpoint that is due before
the last one is on disk waits for it. For ``base``, 1.3 GB, on two busy cores the copy took 0.5 s, the
first, which gets the memory, 3 s, and the write 5 s.

A write that fails, as on a full disk, is told in a line and does not end the run.
"""

import copy
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from tokkit.pretraining.training.checkpoints import (
    Best,
    Checkpoint,
    Snapshot,
    SnapshotMemory,
    checkpoint_path,
    remove_half_checkpoints,
    remove_old_checkpoints,
    write_checkpoint,
)

LONG_WAIT_SECONDS = 5.0

log = logging.getLogger(__name__)


class CheckpointWriter:
    """Writes a run's checkpoints in a thread of its own, and keeps the last few and the best.

    Args:
        folder: of the run's checkpoints.
        num_kept: how many of the last are kept.
        resumed: the checkpoint that the run goes on from.

    Attributes:
        saved_step: of the newest checkpoint that is safe on disk; 0 where there is none.
        fault: why the last write failed, in words; None where it did not.
        best: the best checkpoint on disk.
    """

    def __init__(self, folder: Path, num_kept: int, resumed: Checkpoint | None = None) -> None:
        self.folder = folder
        self.num_kept = num_kept
        self.saved_step: int = resumed.state["step"] if resumed else 0
        self.best = resumed.best if resumed else None
        self.fault: str | None = None
        self._memory = SnapshotMemory()
        self._writing: Future[None] | None = None
        self._has_told_wait = False

    def __enter__(self) -> Self:
        remove_half_checkpoints(self.folder)
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        return self

    def __exit__(self, *exception: object) -> None:
        self._executor.shutdown()
        self.wait()

    def save(
        self, tensors: Snapshot, state: Mapping[str, Any], *, loss: float | None = None
    ) -> None:
        """Copy a step's tensors and have them written; they may change when this returns.

        Args:
            tensors: on any device.
            state: JSON with the ``step``.
            loss: on what is held out, if these weights were evaluated.
        """
        started = time.perf_counter()
        self.wait()
        seconds = time.perf_counter() - started
        if seconds > LONG_WAIT_SECONDS and not self._has_told_wait:
            self._has_told_wait = True
            log.info(
                "%s: training waited %.0f s for the last checkpoint to be written; "
                "a larger --checkpoint-every avoids that",
                checkpoint_path(self.folder, state["step"]),
                seconds,
            )
        taken = self._memory.take(tensors)
        self._writing = self._executor.submit(self._write, taken, copy.deepcopy(state), loss)

    def wait(self) -> None:
        """Wait until nothing is being written; then ``saved_step`` and ``fault`` are final."""
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def describe_saved(self) -> str:
        """Which checkpoint a run would go on from, for a message to end with."""
        if self.saved_step == 0:
            return "there is no checkpoint yet"
        return f"the last checkpoint is {checkpoint_path(self.folder, self.saved_step)}"

    def _write(self, tensors: Snapshot, state: Mapping[str, Any], loss: float | None) -> None:
        step: int = state["step"]
        best = self._choose_best(step, loss)
        try:
            write_checkpoint(self.folder, tensors, state, best)
        except OSError as error:
            self.fault = (error.strerror or str(error)).lower()
            log.warning(
                "%s: not written (%s); training goes on and %s; see to the disk before the next one",
                checkpoint_path(self.folder, step),
                self.fault,
                self.describe_saved(),
            )
            return
        self.best, self.saved_step, self.fault = best, step, None
        remove_old_checkpoints(self.folder, step, self.num_kept, best)

    def _choose_best(self, step: int, loss: float | None) -> Best | None:
        if loss is None:
            return self.best
        if self.best is None or loss < self.best.loss:
            return Best(step, loss)
        return self.best
