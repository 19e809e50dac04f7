"""``metrics.jsonl``: how a run went, a line every few steps and a line an evaluation.

    {"kind": "eval", "step": 0, "loss": 9.73, "mlm_loss": 9.04, "perplexity": 8411.2, …}
    {"kind": "train", "step": 10, "epoch": 0.02, "loss": 9.41, …, "learning_rate": 0.0001, …}

An evaluation of step n is of the weights after n updates, and stands before the training that
goes on from them. So a run that resumes at step n keeps the training lines up to n and the
evaluations before n, or up to it if the checkpoint was written after one, and writes the rest anew:
no line is there twice, none is missing.

Lines that cannot be written, as on a full disk, wait in memory until they can, and the file never
ends in half a line: so a run goes on, and its log has no gap when there is room again.

The sums from which every figure is made.

What is minimized is the mean cross-entropy over the batch's predicted tokens plus the mean over its
labelled pairs. Logs and evaluations keep sums and counts, and divide at the end, so that figures
over several batches, or over the parts of one that several processes had, weigh each token alike.
"""

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from tokkit.engine.files import write_atomically
from tokkit.errors import wrap_os_errors
from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.models.bert import Sums
from tokkit.shards.objectives import PAIRED

TOKEN_NAMES = {"clm": "clm"}  # every other objective predicts masked tokens


def total_loss(sums: Sums, num_predicted: float, num_pairs: float) -> Tensor:
    """What is minimized, or a part of it; the counts are those of the whole step.

    Instances without a label have no part in the second term.
    """
    return sums.token_loss / max(1.0, num_predicted) + sums.pair_loss / max(1.0, num_pairs)


@dataclass
class Tally:
    """Sums over batches: of the steps since the last log line, or of an evaluation.

    They are numbers of Python, so they pass through a checkpoint's JSON unchanged.

    Attributes:
        tokens: without padding.
        seconds: that the steps took.
        waited: of them, waiting for data.
        num_predicted: tokens that have a label.
        num_pairs: that have a label.
        token_loss: sums, as of ``Sums``.
        token_correct: likewise.
        pair_loss: likewise.
        pair_correct: likewise.
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
        """Add one batch and what a model made of it: the numbers of a ``Sums``."""
        self.tokens += batch.num_tokens
        self.num_predicted += batch.num_predicted
        self.num_pairs += batch.num_pairs
        self.token_loss += sums[0]
        self.token_correct += sums[1]
        self.pair_loss += sums[2]
        self.pair_correct += sums[3]

    def over(self, total: Callable[[Sequence[float]], Sequence[float]]) -> "Tally":
        """The tally of all processes together; seconds are this one's."""
        sums = Tally(*total(astuple(self)))
        sums.seconds, sums.waited = self.seconds, self.waited
        return sums

    def figures(self, objective: str) -> dict[str, float]:
        """Means over predicted tokens and over labelled pairs; of the latter where there are any."""
        tokens = TOKEN_NAMES.get(objective, "mlm")
        loss = self.token_loss / max(1, self.num_predicted)
        figures = {
            "loss": loss,
            f"{tokens}_loss": loss,
            f"{tokens}_accuracy": self.token_correct / max(1, self.num_predicted),
        }
        if self.num_pairs and objective in PAIRED:
            figures[f"{objective}_loss"] = self.pair_loss / self.num_pairs
            figures[f"{objective}_accuracy"] = self.pair_correct / self.num_pairs
            figures["loss"] += figures[f"{objective}_loss"]
        return figures


METRICS = "metrics.jsonl"

log = logging.getLogger(__name__)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the lines of a run; none where there is no file. A line cut short by a crash ends them."""
    if not path.is_file():
        return []
    with wrap_os_errors(path):
        data = path.read_bytes()
    lines = []
    for line in data.split(b"\n")[:-1]:
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
    return lines


class MetricsLog:
    """Appends lines to a run's metrics.

    Args:
        path: of the file.
        step: where the run goes on; what lies behind it is dropped. 0 begins a new file.
        evaluated: the checkpoint of that step was written after its evaluation.

    Raises:
        TokkitError: where the file cannot be begun; later faults are warned of.
    """

    def __init__(self, path: Path, step: int, *, evaluated: bool = False) -> None:
        self.path = path
        kept = [
            line
            for line in read_metrics(path)
            if line["step"] + (line["kind"] == "eval" and not evaluated) <= step
        ]
        with write_atomically(path) as file:
            file.write(b"".join(map(_spell, kept)))
        with wrap_os_errors(path):
            self._file = path.open("ab", buffering=0)
        self._size = file.size  # up to the end of the last whole line
        self._waiting: list[bytes] = []
        self._has_failed = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Append a line that others can read at once."""
        self._waiting.append(_spell(line))
        self._append_waiting()

    def sync(self) -> None:
        """Make the lines safe from a power cut: a checkpoint that relies on them comes next."""
        self._append_waiting()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._warn(error, "a crash may lose lines; see to the disk")

    def _append_waiting(self) -> None:
        """Write what waits; if that fails, it waits on and the file is as it was."""
        data = b"".join(self._waiting)
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
                self._warn(error, "its lines wait in memory; see to the disk")
            self._has_failed = True
            return
        self._size += len(data)
        self._waiting.clear()
        self._has_failed = False

    def _warn(self, error: OSError, consequence: str) -> None:
        fault = (error.strerror or str(error)).lower()
        log.warning("%s: not written (%s); training goes on, %s", self.path, fault, consequence)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._append_waiting()
        if self._waiting:
            log.warning("%s: its last lines are lost, %d in all", self.path, len(self._waiting))
        self._file.close()


def _spell(line: Mapping[str, Any]) -> bytes:
    return json.dumps(line, allow_nan=False).encode() + b"\n"
