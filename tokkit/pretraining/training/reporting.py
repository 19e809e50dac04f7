"""What a run reports while it trains: metrics in files, and a progress bar with the latest ones.

    12%|██▍               | 12010/100000 2:31:07 left, loss 2.13 mlm 58.1% nsp 97.2% 802k tokens/s mfu 55.3% wait 0.2%

The bar of a run with ``--max-time`` counts seconds. Of several processes only the first reports.

``metrics.jsonl`` has a line every few steps and a line for each evaluation:

    {"kind": "eval", "step": 0, "loss": 9.73, "mlm_loss": 9.04, "perplexity": 8411.2, …}
    {"kind": "train", "step": 10, "epoch": 0.02, "loss": 9.41, …, "learning_rate": 0.0001, …}

    tokens_per_second   tokens without padding, of all processes
    data_wait           share of the time in which a step waited for its batch
    mfu                 see tokkit.pretraining.training.metrics; absent if the device's peak is unknown
    elapsed             seconds of training, without those in which the run was stopped

The evaluation of step n is of the weights after n updates, before step n trains on. So a run that
resumes at step n keeps the training lines up to n and the evaluations before n, or up to n if the
checkpoint was written after that evaluation, and writes the rest again: no line is duplicated or
missing.

Lines that cannot be written, as on a full disk, stay in memory until they can be, and the file never
ends in an incomplete line: the run continues, and its log has no gap once there is space.
"""

import json
import logging
import math
import os
import sys
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from tokkit.engine.files import write_atomically
from tokkit.engine.progress import ProgressLog
from tokkit.errors import wrap_os_errors
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.metrics import TrainingState
from tokkit.pretraining.training.run_record import METRICS, read_metrics
from tokkit.pretraining.training.trackers import open_tracker

BAR_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} {remaining} left{postfix}"

log = logging.getLogger(__name__)


class Reporter:
    """Writes the lines of metrics and shows the progress bar, as a context manager.

    Args:
        config: options of the run.
        state: state from which the run starts or resumes.
        last_step: step at which a run by steps ends.
    """

    def __init__(self, config: PretrainConfig, state: TrainingState, last_step: int) -> None:
        self._max_time = config.max_time
        is_evaluated = state.evaluated_step == state.step
        with ExitStack() as stack:
            self._metrics = stack.enter_context(
                MetricsLog(config.output / METRICS, state.step, evaluated=is_evaluated)
            )
            self._tracker = None
            if config.tracker is not None:
                self._tracker = open_tracker(config, state.step, evaluated=is_evaluated)
                stack.enter_context(self._tracker)
            by_clock = config.max_time is not None
            self._bar = stack.enter_context(
                tqdm(
                    total=last_step if config.max_time is None else math.ceil(config.max_time),
                    initial=int(state.elapsed) if by_clock else state.step,
                    unit=" s" if by_clock else "",
                    bar_format=BAR_FORMAT,
                    dynamic_ncols=True,
                    smoothing=0.05,  # averages about 20 redraws, so an evaluation is soon forgotten
                    disable=not (config.progress and sys.stderr.isatty()),
                )
            )
            self._log = None
            if config.progress and not sys.stderr.isatty():
                self._log = ProgressLog(str(config.output), self._bar.total, self._bar.n)
            self._words = ""
            self._stack = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def advance(self, step: int, elapsed: float) -> None:
        """Move the bar after a step."""
        reached = step if self._max_time is None else min(int(elapsed), self._bar.total)
        self._bar.update(reached - self._bar.n)
        if self._log is not None:
            self._log.update(reached - self._log.done, self._words)

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line of metrics, and show those of training in the bar."""
        self._metrics.write(line)
        if self._tracker is not None:
            self._tracker.write(line)
        if line["kind"] == "eval":
            named = (item for item in line.items() if item[0] not in {"kind", "step"})
            words = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in named)
            log.info("step %d, held out: %s", line["step"], words)
            return
        words = summarize_line(line)
        if self._max_time is not None:
            words = f"step {line['step']} {words}"
        self._bar.set_postfix_str(words, refresh=False)
        self._words = words
        self.advance(line["step"], line["elapsed"])

    def sync(self) -> None:
        """Sync the metrics to disk before a checkpoint that relies on them."""
        self._metrics.sync()


def summarize_line(line: Mapping[str, Any]) -> str:
    """Return a training line in short, the most important first, as narrow terminals cut it off."""
    words = [f"loss {line['loss']:.4g}"]
    words += [
        f"{name.removesuffix('_accuracy')} {value:.1%}"
        for name, value in line.items()
        if name.endswith("_accuracy")
    ]
    words.append(f"{tqdm.format_sizeof(line['tokens_per_second'])} tokens/s")
    if "mfu" in line:
        words.append(f"mfu {line['mfu']:.1%}")
    words.append(f"wait {line['data_wait']:.1%}")
    return " ".join(words)


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
