"""What a run says of itself while it goes on: log lines, the bar, and event files, in one place.

Of several processes the first speaks; the others' reporters do nothing.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from tqdm import tqdm

from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.events import EventLog
from tokkit.pretraining.metrics import METRICS, MetricsLog
from tokkit.pretraining.progress import Progress, describe_speed
from tokkit.pretraining.state import State
from tokkit.pretraining.tally import Tally

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Scale:
    """What figures are measured by.

    Attributes:
        num_instances: that make an epoch, of each phase.
        flops_per_token: of each phase, see ``tokkit.pretraining.flops``.
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
        with tqdm.external_write_mode(file=sys.stderr):
            log.info(
                "step %d, held out: %s",
                state.step,
                ", ".join(f"{name} {value:.4g}" for name, value in figures.items()),
            )

    def _write(self, line: dict[str, Any]) -> None:
        self._metrics.write(line)
        if self._events is not None:
            self._events.write(line)

    def sync(self) -> None:
        """Make the lines safe from a power cut: a checkpoint that relies on them comes next."""
        if self._enabled:
            self._metrics.sync()
