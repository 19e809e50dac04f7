"""What a run says of itself while it goes on: log lines, the bar, and event files, in one place.

Of several processes the first speaks; the others' reporters do nothing.

What is seen of a run while it goes on: the bar, and the figures of speed in its log lines.

    12%|██▍               | 12010/100000 2:31:07 left, loss 2.13 mlm 58.1% nsp 97.2% 802k tokens/s mfu 55.3% wait 0.2%

A run that ends by the clock has its bar in seconds of the limit. The same figures stand in
``metrics.jsonl``, by these names:

    tokens_per_second   tokens without padding, of all processes
    data_wait           share of the seconds in which the step waited for its batch
    mfu                 see tokkit.pretraining.training.estimate; left out where the device's peak is not known
    elapsed             seconds since the run began, without those in which it was stopped

The lines of ``metrics.jsonl`` as event files, which TensorBoard draws.

    tensorboard/train/events.out.tfevents.1764000000.host.4711    a scalar for each figure of a line
                eval/events.out.tfevents.1764000000.host.4711

Training and evaluation have a folder each and the same names of figures, so TensorBoard draws
both losses into one chart. A run that goes on begins new files, whose first record takes back what
older ones say of steps that are done again: training lines behind the checkpoint, and evaluations
from it on, just as ``tokkit.pretraining.training.metrics`` drops them.

A record is a protocol buffer, framed by its length and two checksums. They are written by
TensorBoard's own ``RecordWriter``, a line at a time and by the training thread. Not by
``torch.utils.tensorboard.SummaryWriter``, which does so from a thread of its own: where the disk is
full, that thread dies with a traceback, and half a record, behind which nothing can be read, stays.
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
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from tokkit.errors import TokkitError, describe_os_error, wrap_os_errors
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.checkpoints import State
from tokkit.pretraining.training.metrics import METRICS, MetricsLog, Tally

_FORMAT = "{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt}{unit} {remaining} left{postfix}"


def describe_speed(
    *,
    num_tokens: int,
    seconds: float,
    data_seconds: float,
    elapsed: float,
    flops: float = 0.0,
    peak_flops: float | None = None,
) -> dict[str, float]:
    """The figures of speed of the steps since the last log line.

    Args:
        num_tokens: without padding, of all processes.
        seconds: that the steps took.
        data_seconds: of them, those spent on waiting for a batch.
        elapsed: seconds since the run began.
        flops: operations of those tokens, see ``count_flops_per_token``.
        peak_flops: what the devices of all processes could do in a second; None where that is
            not known, or not known for the precision in use.
    """
    seconds = max(seconds, 1e-9)  # a clock may stand still
    figures = {
        "tokens_per_second": round(num_tokens / seconds),
        "data_wait": min(data_seconds / seconds, 1.0),
        "elapsed": elapsed,
    }
    if peak_flops is not None:
        figures["mfu"] = flops / seconds / peak_flops
    return figures


class Progress:
    """A bar on standard error, where that is a terminal.

    Args:
        step: where the run goes on.
        num_steps: of the run; with ``max_time`` it does not matter.
        max_time: seconds after which the run ends; None where it ends by its steps.
        elapsed: seconds since the run began.
        enabled: whether a bar is wanted at all: of several processes, by the first.
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
            bar_format=_FORMAT,
            dynamic_ncols=True,
            smoothing=0.05,  # over about 20 redraws: an evaluation in between is soon forgotten
            disable=not (enabled and sys.stderr.isatty()),
        )

    def advance(self, step: int, elapsed: float) -> None:
        """Move the bar: after each step."""
        reached = min(int(elapsed), self._bar.total) if self._by_clock else step
        self._bar.update(reached - self._bar.n)

    def show(self, step: int, line: Mapping[str, Any]) -> None:
        """Show the figures of a training line of ``metrics.jsonl``; move the bar to it."""
        words = describe_line(line)
        self._bar.set_postfix_str(
            f"step {step} {words}" if self._by_clock else words, refresh=False
        )
        self.advance(step, line["elapsed"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()


def describe_line(line: Mapping[str, Any]) -> str:
    """A training line in a few words, the most telling first: a narrow terminal cuts off the rest."""
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


EVENTS = "tensorboard"

log = logging.getLogger(__name__)


def require_tensorboard() -> None:
    """Refuse ``--tensorboard`` where the library that writes its files is missing."""
    if importlib.util.find_spec("tensorboard") is None:
        raise TokkitError(
            "tensorboard: is not installed; --tensorboard needs it: "
            "pip install 'tokkit[tensorboard]'"
        )


class EventLog:
    """Writes a run's event files.

    Args:
        folder: of the run.
        step: where the run goes on; 0 takes back whatever is there.
        evaluated: whether the evaluation of that step is done, so that it stands.
    """

    def __init__(self, folder: Path, step: int, *, evaluated: bool = False) -> None:
        self.folder = folder / EVENTS
        self._files = {
            "train": _EventFile(self.folder / "train", first_step=step + 1),
            "eval": _EventFile(self.folder / "eval", first_step=step + evaluated),
        }
        self._is_warned = False

    def write(self, line: Mapping[str, Any]) -> None:
        """Write a line; what does not fit on the disk is left out, and said once."""
        figures = {name: line[name] for name in line.keys() - {"kind", "step"}}
        try:
            self._files[line["kind"]].write(line["step"], figures)
        except OSError as error:
            if not self._is_warned:
                log.warning(
                    "%s: %s; training goes on without the lines that do not fit",
                    self.folder,
                    describe_os_error(error),
                )
            self._is_warned = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()


class _EventFile:
    """One event file, on the end of which there is never a part of a record."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}"
        with wrap_os_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            # Readers take files in the order of their names, and two may begin in one second.
            number = sum(1 for _ in folder.iterdir())
            self._file = (folder / f"{name}.{number}").open("wb", buffering=0)
            start = SessionLog(status=SessionLog.START)
            self._append(
                Event(wall_time=time.time(), file_version="brain.Event:2"),
                Event(wall_time=time.time(), step=first_step, session_log=start),
            )

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=figures[name]) for name in sorted(figures)]
        self._append(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))

    def _append(self, *events: Any) -> None:
        """Append records whole, or raise ``OSError`` and leave none."""
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        for event in events:
            writer.write(event.SerializeToString())
        records, end = buffer.getvalue(), self._file.tell()
        try:
            written = 0
            while written < len(records):  # a disk that fills up takes a part
                written += self._file.write(records[written:])
        except OSError:
            self._file.truncate(end)
            self._file.seek(end)
            raise

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class Scale:
    """What figures are measured by.

    Attributes:
        num_instances: that make an epoch, of each phase.
        flops_per_token: of each phase, see ``tokkit.pretraining.training.estimate``.
        peak_flops: of all devices together; None where it is not known.
    """

    num_instances: Sequence[int]
    flops_per_token: Sequence[float] = ()
    peak_flops: float | None = None


class Reporter:
    """Writes the lines of a run.

    Args:
        config: of the run.
        objective: which gives the figures their names.
        state: from which the run goes on.
        scale: by which figures are measured.
        enabled: whether this process speaks.
    """

    def __init__(
        self, config: PretrainConfig, objective: str, state: State, scale: Scale, *, enabled: bool
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
        self._progress = self._stack.enter_context(
            Progress(
                step=state.step,
                num_steps=config.num_steps,
                max_time=config.max_time,
                elapsed=state.elapsed,
                enabled=config.progress,
            )
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.close()

    def advance(self, state: State) -> None:
        """Move the bar by a step."""
        if self._enabled:
            self._progress.advance(state.step, state.elapsed)

    def train(self, state: State, interval: Tally, *, rate: float, gradient_norm: float) -> None:
        """Write the line of the steps since the last one; rate and norm are of the last of them."""
        if not self._enabled:
            return
        flops_per_token = self.scale.flops_per_token
        phase = len(state.phase_starts) - 1
        phase_step = state.step - state.phase_starts[phase]
        line = {
            "kind": "train",
            "step": state.step,
            **({"phase": phase} if self.config.phases else {}),
            "epoch": phase_step * self.config.batch_size / self.scale.num_instances[phase],
            **interval.figures(self.objective),
            "learning_rate": rate,
            "gradient_norm": gradient_norm,
            "tokens": state.tokens,
            **describe_speed(
                num_tokens=int(interval.tokens),
                seconds=interval.seconds,
                data_seconds=interval.waited,
                elapsed=state.elapsed,
                flops=interval.tokens * flops_per_token[phase] if flops_per_token else 0.0,
                peak_flops=self.scale.peak_flops,
            ),
        }
        self._write(line)
        self._progress.show(state.step, line)

    def evaluation(self, state: State, figures: dict[str, float]) -> None:
        """Write and log the line of an evaluation."""
        if not self._enabled:
            return
        self._write({"kind": "eval", "step": state.step, **figures})
        words = (f"{name.replace('_', ' ')} {value:.4g}" for name, value in figures.items())
        log.info("step %d, held out: %s", state.step, ", ".join(words))

    def _write(self, line: dict[str, Any]) -> None:
        self._metrics.write(line)
        if self._events is not None:
            self._events.write(line)

    def sync(self) -> None:
        """Make the lines safe from a power cut: a checkpoint that relies on them comes next."""
        if self._enabled:
            self._metrics.sync()
