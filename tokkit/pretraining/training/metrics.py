"""Metrics: the sums that they are computed from, and the file that they are logged to.

What is minimized is the mean cross-entropy over the batch's predicted tokens plus the mean over its
labelled pairs. Log lines and evaluations keep sums and counts and divide at the end, so metrics over
several batches, or over the parts of one that several processes had, weigh each token alike.

``metrics.jsonl`` has a line every few steps and a line for each evaluation:

    {"kind": "eval", "step": 0, "loss": 9.73, "mlm_loss": 9.04, "perplexity": 8411.2, …}
    {"kind": "train", "step": 10, "epoch": 0.02, "loss": 9.41, …, "learning_rate": 0.0001, …}

    tokens_per_second   tokens without padding, of all processes
    data_wait           share of the time in which a step waited for its batch
    mfu                 see tokkit.pretraining.training.estimate; absent if the device's peak is unknown
    elapsed             seconds of training, without those in which the run was stopped

An evaluation of step n is of the weights after n updates, and comes before the training that
continues from them. So a run that resumes at step n keeps the training lines up to n and the
evaluations before n, or up to it if the checkpoint was written after one, and writes the rest again:
no line is duplicated, none is missing.

Lines that cannot be written, as on a full disk, are kept in memory until they can be, and the file
never ends in an incomplete line: the run continues, and its log has no gap once there is space.
"""

import json
import logging
import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from tokkit.engine.files import write_atomically
from tokkit.errors import wrap_os_errors
from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.models.transformer import Sums
from tokkit.pretraining.training.run_record import read_metrics
from tokkit.shards.objectives import OBJECTIVES

log = logging.getLogger(__name__)


def total_loss(sums: Sums, num_predicted: float, num_pairs: float) -> Tensor:
    """Return the loss that is minimized, or the part of it that one micro-batch has.

    Args:
        sums: what the model returned.
        num_predicted: predicted tokens of the whole step.
        num_pairs: labelled pairs of the whole step; other instances have no second term.
    """
    return sums.token_loss / max(1.0, num_predicted) + sums.pair_loss / max(1.0, num_pairs)


@dataclass
class MetricSums:
    """Sums over the steps since the last log line, or over an evaluation.

    They are Python numbers, so they pass through a checkpoint's JSON unchanged.

    Attributes:
        tokens: tokens without padding.
        seconds: duration of the steps.
        waited: seconds of them spent waiting for data.
        num_predicted: tokens with a label.
        num_pairs: pairs with a label.
        token_loss: cross-entropy of the predicted tokens.
        token_correct: tokens predicted correctly.
        pair_loss: cross-entropy of the labelled pairs.
        pair_correct: pairs predicted correctly.
    """

    tokens: float = 0
    seconds: float = 0.0
    waited: float = 0.0
    num_predicted: float = 0
    num_pairs: float = 0
    token_loss: float = 0.0
    token_correct: float = 0
    pair_loss: float = 0.0
    pair_correct: float = 0

    def add(self, batch: Batch, sums: Sequence[float]) -> None:
        """Add a batch and what the model returned for it, the four numbers of a ``Sums``."""
        self.tokens += batch.num_tokens
        self.num_predicted += batch.num_predicted
        self.num_pairs += batch.num_pairs
        self.token_loss += sums[0]
        self.token_correct += sums[1]
        self.pair_loss += sums[2]
        self.pair_correct += sums[3]

    def all_reduce(self, add_up: Callable[[Sequence[float]], Sequence[float]]) -> "MetricSums":
        """Return the sums of all processes; durations remain those of this one.

        Args:
            add_up: adds up numbers over processes.
        """
        sums = MetricSums(*add_up(astuple(self)))
        sums.seconds, sums.waited = self.seconds, self.waited
        return sums

    def means(self, objective: str) -> dict[str, float]:
        """Return losses and accuracies: means over predicted tokens, and over pairs if any."""
        tokens = "clm" if OBJECTIVES[objective].is_causal else "mlm"
        loss = self.token_loss / max(1, self.num_predicted)
        means = {
            "loss": loss,
            f"{tokens}_loss": loss,
            f"{tokens}_accuracy": self.token_correct / max(1, self.num_predicted),
        }
        if self.num_pairs and OBJECTIVES[objective].has_pairs:
            means[f"{objective}_loss"] = self.pair_loss / self.num_pairs
            means[f"{objective}_accuracy"] = self.pair_correct / self.num_pairs
            means["loss"] += means[f"{objective}_loss"]
        return means

    @property
    def perplexity(self) -> float:
        """Exponential of the mean loss of predicted tokens, which is cut off before it overflows."""
        return math.exp(min(self.token_loss / max(1, self.num_predicted), 700.0))

    def speed(
        self, elapsed: float, flops_per_token: float = 0.0, peak_flops: float | None = None
    ) -> dict[str, float]:
        """Return ``tokens_per_second`` and the other metrics of speed.

        Args:
            elapsed: seconds of training.
            flops_per_token: operations of a token, forward and backward.
            peak_flops: operations a second of all devices together; None if unknown.
        """
        seconds = max(self.seconds, 1e-9)  # the clock may not have advanced
        speed = {
            "tokens_per_second": round(self.tokens / seconds),
            "data_wait": min(self.waited / seconds, 1.0),
            "elapsed": elapsed,
        }
        if peak_flops is not None:
            speed["mfu"] = self.tokens * flops_per_token / seconds / peak_flops
        return speed


class StepMetrics:
    """Losses and gradient norm of a step, which may still be on their way from the device.

    On a GPU they are copied without waiting. If they are read one step later, the next step is
    already running by then.

    Args:
        sums: what the model returned for each micro-batch.
        gradient_norm: norm before clipping, of the whole step.
    """

    def __init__(self, sums: Sequence[Sums], gradient_norm: Tensor) -> None:
        scalars = [scalar.detach().float() for part in sums for scalar in part]
        values = torch.stack([*scalars, gradient_norm.detach().float()])
        self._copied: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def read(self) -> tuple[list[list[float]], float]:
        """Wait for the values; returns the four sums of each micro-batch, and the norm."""
        if self._copied is not None:
            self._copied.synchronize()
        *sums, gradient_norm = self._values.tolist()
        return [sums[i : i + 4] for i in range(0, len(sums), 4)], gradient_norm


class MetricsLog:
    """Appends lines to ``metrics.jsonl``.

    Args:
        path: path of the file.
        step: where the run resumes; later lines are dropped. 0 starts a new file.
        evaluated: whether the checkpoint of that step was written after its evaluation.

    Raises:
        TokkitError: if the file cannot be created; later errors are logged.
    """

    def __init__(self, path: Path, step: int, *, evaluated: bool = False) -> None:
        self.path = path
        kept = [
            line
            for line in read_metrics(path)
            if line["step"] + (line["kind"] == "eval" and not evaluated) <= step
        ]
        with write_atomically(path) as file:
            file.write(b"".join(map(_format_line, kept)))
        with wrap_os_errors(path):
            self._file = path.open("ab", buffering=0)
        self._size = file.size  # end of the last complete line
        self._pending: list[bytes] = []
        self._has_failed = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line, which readers of the file see at once."""
        self._pending.append(_format_line(line))
        self._flush()

    def sync(self) -> None:
        """Sync the lines to disk before a checkpoint that relies on them."""
        self._flush()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._warn(error, "a crash may lose lines; check the disk")

    def _flush(self) -> None:
        """Write the pending lines; if that fails, they remain pending and the file is unchanged."""
        data = b"".join(self._pending)
        try:
            if self._has_failed:
                self._file.truncate(self._size)
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            with suppress(OSError):
                self._file.truncate(self._size)
            if not self._has_failed:
                self._warn(error, "its lines are kept in memory; free some space")
            self._has_failed = True
            return
        self._size += len(data)
        self._pending.clear()
        self._has_failed = False

    def _warn(self, error: OSError, consequence: str) -> None:
        fault = (error.strerror or str(error)).lower()
        log.warning("%s: not written (%s); training continues, %s", self.path, fault, consequence)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._flush()
        if self._pending:
            log.warning("%s: its last %d lines are lost", self.path, len(self._pending))
        self._file.close()


def _format_line(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"
