"""What a run reports while it trains: metrics to files, and a progress bar with the latest ones.

    12%|██▍               | 12010/100000 2:31:07 left, loss 2.13 mlm 58.1% nsp 97.2% 802k tokens/s mfu 55.3% wait 0.2%

A run that ends by the clock has a bar of seconds. Of several processes only the first reports.

With ``--tensorboard`` the lines of ``metrics.jsonl`` also go to event files:

    tensorboard/train/events.out.tfevents.1764000000.host.4711    a scalar for each metric of a line
                eval/events.out.tfevents.1764000000.host.4711

Training and evaluation have a folder each and the same names of metrics, so TensorBoard draws
both losses into one chart. A resumed run starts new files, whose first record makes TensorBoard drop
what older ones have of steps that are done again: training lines after the checkpoint, and
evaluations from it on, just as ``metrics.jsonl`` drops them.

A record is a protocol buffer, framed by its length and two checksums. Records are written by
TensorBoard's own ``RecordWriter``, in the training thread. ``torch.utils.tensorboard.SummaryWriter``
writes them in another thread: if the disk is full, that thread dies with a traceback and leaves half
a record, after which nothing can be read.
"""

import importlib.util
import io
import logging
import math
import os
import socket
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tqdm import tqdm

from tokkit.errors import TokkitError, describe_os_error, wrap_os_errors
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.checkpoints import TrainingState
from tokkit.pretraining.training.metrics import MetricsLog, MetricSums
from tokkit.pretraining.training.run_record import METRICS

EVENTS = "tensorboard"
BAR_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} {remaining} left{postfix}"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MetricScale:
    """What metrics are relative to.

    Attributes:
        num_instances: instances in an epoch of each phase.
        flops_per_token: operations of a token in each phase; empty if the peak is unknown.
        peak_flops: operations a second of all devices together; None if unknown.
    """

    num_instances: Sequence[int]
    flops_per_token: Sequence[float] = ()
    peak_flops: float | None = None


class Reporter:
    """Writes metrics to files and shows the progress bar.

    Args:
        config: options of the run.
        objective: objective of the instances, which names the metrics.
        state: state from which the run starts or resumes.
        scale: what metrics are relative to.
        enabled: whether this process reports; if not, all methods do nothing.
    """

    def __init__(
        self,
        config: PretrainConfig,
        objective: str,
        state: TrainingState,
        scale: MetricScale,
        *,
        enabled: bool,
    ) -> None:
        self.config = config
        self.objective = objective
        self.scale = scale
        self._enabled = enabled
        self._state = state

    def __enter__(self) -> Self:
        self._stack = ExitStack()
        if not self._enabled:
            return self
        state, config = self._state, self.config
        is_evaluated = state.evaluated_step == state.step
        self._metrics = self._stack.enter_context(
            MetricsLog(config.output / METRICS, state.step, evaluated=is_evaluated)
        )
        self._events = None
        if config.tensorboard:
            self._events = self._stack.enter_context(
                EventLog(config.output, state.step, evaluated=is_evaluated)
            )
        self._bar = self._stack.enter_context(
            ProgressBar(
                step=state.step,
                num_steps=config.num_steps,
                max_time=config.max_time,
                elapsed=state.elapsed,
                enabled=config.progress,
            )
        )
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def advance(self, state: TrainingState) -> None:
        """Move the bar by a step."""
        if self._enabled:
            self._bar.advance(state.step, state.elapsed)

    def report_training(
        self, state: TrainingState, interval: MetricSums, *, rate: float, gradient_norm: float
    ) -> None:
        """Write the line of the steps since the last one.

        Args:
            state: state after these steps.
            interval: their sums, of all processes.
            rate: learning rate of the last of them.
            gradient_norm: norm of its gradients.
        """
        if not self._enabled:
            return
        phase, scale = state.phase, self.scale
        phase_step = state.step - state.phase_starts[phase]
        flops = scale.flops_per_token[phase] if scale.flops_per_token else 0.0
        line = {
            "kind": "train",
            "step": state.step,
            **({"phase": phase} if self.config.phases else {}),
            "epoch": phase_step * self.config.batch_size / scale.num_instances[phase],
            **interval.means(self.objective),
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "tokens": state.tokens,
            **interval.speed(state.elapsed, flops, scale.peak_flops),
        }
        self._write(line)
        self._bar.show(state.step, line)

    def report_evaluation(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write and log the line of an evaluation."""
        if not self._enabled:
            return
        self._write({"kind": "eval", "step": step, **metrics})
        words = (f"{name.replace('_', ' ')} {value:.4g}" for name, value in metrics.items())
        log.info("step %d, held out: %s", step, ", ".join(words))

    def _write(self, line: Mapping[str, Any]) -> None:
        self._metrics.write(line)
        if self._events is not None:
            self._events.write(line)

    def sync(self) -> None:
        """Sync the metrics to disk before a checkpoint that relies on them."""
        if self._enabled:
            self._metrics.sync()


class ProgressBar:
    """A bar on standard error if that is a terminal.

    Args:
        step: step at which the run starts or resumes.
        num_steps: steps of the run; ignored with ``max_time``.
        max_time: seconds after which the run ends; None if it ends by its steps.
        elapsed: seconds of training so far.
        enabled: whether the user wants a bar.
    """

    def __init__(
        self,
        *,
        step: int,
        num_steps: int,
        max_time: float | None = None,
        elapsed: float = 0.0,
        enabled: bool = True,
    ) -> None:
        self._by_clock = max_time is not None
        self._bar = tqdm(
            total=num_steps if max_time is None else math.ceil(max_time),
            initial=step if max_time is None else int(elapsed),
            unit="" if max_time is None else " s",
            bar_format=BAR_FORMAT,
            dynamic_ncols=True,
            smoothing=0.05,  # averages about 20 redraws, so an evaluation in between soon fades
            disable=not (enabled and sys.stderr.isatty()),
        )

    def advance(self, step: int, elapsed: float) -> None:
        """Move the bar after a step."""
        reached = min(int(elapsed), self._bar.total) if self._by_clock else step
        self._bar.update(reached - self._bar.n)

    def show(self, step: int, line: Mapping[str, Any]) -> None:
        """Show the metrics of a training line, and move the bar to it."""
        words = summarize_line(line)
        self._bar.set_postfix_str(
            f"step {step} {words}" if self._by_clock else words, refresh=False
        )
        self.advance(step, line["elapsed"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()


def summarize_line(line: Mapping[str, Any]) -> str:
    """Return a training line in a few words, the most important first: a narrow terminal cuts off."""
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


def require_tensorboard() -> None:
    """Refuse ``--tensorboard`` if the library that writes its files is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise TokkitError(
            "tensorboard: is not installed; --tensorboard needs it: "
            "pip install 'tokkit[tensorboard]'"
        )


class EventLog:
    """Writes a run's event files.

    Args:
        folder: run folder.
        step: where the run resumes; 0 drops everything that is there.
        evaluated: whether the evaluation of that step is kept.
    """

    def __init__(self, folder: Path, step: int, *, evaluated: bool = False) -> None:
        self.folder = folder / EVENTS
        self._files = {
            "train": _EventFile(self.folder / "train", first_step=step + 1),
            "eval": _EventFile(self.folder / "eval", first_step=step + evaluated),
        }
        self._has_warned = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line; if there is no space for it, it is left out, which is logged once."""
        metrics = {name: line[name] for name in line.keys() - {"kind", "step"}}
        try:
            self._files[line["kind"]].write(line["step"], metrics)
        except OSError as error:
            if not self._has_warned:
                log.warning(
                    "%s: %s; training continues without the lines that do not fit",
                    self.folder,
                    describe_os_error(error),
                )
            self._has_warned = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for file in self._files.values():
            file.close()


class _EventFile:
    """One event file, which never ends in an incomplete record."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        with wrap_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Readers sort files by name, and two may start in one second.
            number = sum(1 for _ in folder.iterdir())
            self._file = (folder / f"{name}.{number}").open("wb", buffering=0)
            start = SessionLog(status=SessionLog.START)
            self._append(
                Event(wall_time=time.time(), file_version="brain.Event:2"),
                Event(wall_time=time.time(), step=first_step, session_log=start),
            )

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=metrics[name]) for name in sorted(metrics)]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, *events: Any) -> None:
        """Append complete records, or raise ``OSError`` and leave the file as it was."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            writer.write(event.SerializeToString())
        records, end = buffer.getvalue(), self._file.tell()
        try:
            written = 0
            while written < len(records):  # a full disk takes a part of them
                written += self._file.write(records[written:])
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            raise

    def close(self) -> None:
        self._file.close()
