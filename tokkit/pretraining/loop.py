"""The training loop: steps, log lines, evaluations, checkpoints.

    step n:   evaluate │ save │ stop or end, if asked │ take update n, log
                 └ where these are due after n updates

What a step does depends on the step's number and the weights alone: the batch, its masks, the
dropout and the learning rate are functions of the number, and no generator carries a state on. So
going on from a checkpoint repeats the unbroken run, on a CPU with the same number of threads to
the last bit (torch splits sums by thread, and a GPU adds in the order in which blocks end). With
``--max-time`` the rate goes by the clock, and no two runs are alike.

All processes of a run go through the same lines; the first of them alone writes and logs.
"""

import logging
import math
import time
from collections import deque
from contextlib import ExitStack
from signal import SIGINT, SIGTERM, Signals
from typing import Any

from torch import nn

from tokkit.errors import Interrupted, TokkitError
from tokkit.pretraining.checkpoint import load_newest_checkpoint
from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.distribute import full_tensors, load_full
from tokkit.pretraining.evaluation import evaluate, evaluation_figures
from tokkit.pretraining.feed import Feed
from tokkit.pretraining.reporting import Reporter
from tokkit.pretraining.schedule import Schedule
from tokkit.pretraining.snapshot import expect_tensors
from tokkit.pretraining.state import State
from tokkit.pretraining.step import Figures, Stepper
from tokkit.pretraining.stopping import StopRequest, hold_signals
from tokkit.pretraining.writer import CheckpointWriter

LOG_EVERY = 10
CHECKPOINTS = "checkpoints"

log = logging.getLogger(__name__)


class Trainer:
    """Trains one model.

    Args:
        config: of the run.
        stepper: with model and optimizer; filled from the newest checkpoint if there is one.
        feed: of the run's batches.
        plain: the model before it was distributed and compiled: whose names checkpoints have.
    """

    def __init__(
        self, config: PretrainConfig, stepper: Stepper, feed: Feed, plain: nn.Module
    ) -> None:
        self.config = config
        self.stepper = stepper
        self.feed = feed
        self.world = stepper.world
        self.schedule = Schedule.of(config)
        self.state = State()
        self._folder = config.output / CHECKPOINTS
        self._resumed = load_newest_checkpoint(self._folder, expect_tensors(plain))
        if self._resumed is not None:
            self.state = State.from_dict(self._resumed.state)
            load_full(plain, stepper.optimizer, self._resumed.tensors, self.state.step)
            log.info("%s: going on from step %d", config.output, self.state.step)
        self._plain = plain
        self._written_step = self.state.step
        self._unread: deque[tuple[int, tuple[Any, ...], Figures]] = deque()

    def run(self, reporter: Reporter) -> State:
        """Train to the end.

        Args:
            reporter: takes what there is to say.

        Returns:
            The state in the end.

        Raises:
            Interrupted: after a signal; the step it fell into is saved, or the message says why not.
            TokkitError: where the loss stops being a number, or the last weights cannot be saved.
        """
        with ExitStack() as stack:
            self._stop: StopRequest = stack.enter_context(hold_signals())
            self._writer: CheckpointWriter | None = None
            if self.world.is_first:
                self._writer = stack.enter_context(
                    CheckpointWriter(self._folder, self.config.keep_checkpoints, self._resumed)
                )
            self._resumed = None  # a copy of all tensors
            self._reporter = reporter
            self._began = time.monotonic() - self.state.elapsed
            while True:
                signal, self.state.elapsed = self._agree()
                is_over = self.schedule.is_over(self.state.step, self.state.elapsed)
                loss = self._evaluate_if_due(is_over=is_over)
                self._save_if_due(loss, must=is_over or signal is not None)
                if signal is not None:
                    self._stop_by(signal)
                if is_over:
                    return self.state
                self._take_step()

    def _agree(self) -> tuple[Signals | None, float]:
        """Which signal has reached any process, and the first one's clock."""
        elapsed = time.monotonic() - self._began if self.world.is_first else 0.0
        asked = self._stop.signal
        interrupted, terminated, elapsed = self.world.total(
            [asked == SIGINT, asked == SIGTERM, elapsed]
        )
        if not (interrupted or terminated):
            return None, elapsed
        return SIGTERM if terminated else SIGINT, elapsed

    def _take_step(self) -> None:
        """Take one update, and log if it is time to."""
        started = time.perf_counter()
        state, schedule = self.state, self.schedule
        phases = schedule.begin_phases(state.step, state.elapsed, tuple(state.phase_starts))
        state.phase_starts = list(phases)
        batches = self.feed.take(len(phases) - 1, state.step - phases[-1])
        counts = self.world.total(
            [
                sum(batch.num_predicted for batch in batches),
                sum(batch.num_pairs for batch in batches),
                sum(batch.num_tokens for batch in batches),
            ]
        )
        on_device = [batch.to(self.world.device) for batch in batches]
        self.feed.release()
        rate = schedule.rate(state.step, state.elapsed)
        figures = self.stepper.take(state.step, on_device, counts[:2], rate)
        self._unread.append((state.step, batches, figures))
        state.step += 1
        state.tokens += int(counts[2])
        state.interval.waited += self.feed.waited
        is_logged = state.step % LOG_EVERY == 0 or schedule.is_over(state.step, state.elapsed)
        gradient_norm = self._read(behind=0 if is_logged or self.world.device.type == "cpu" else 1)
        state.interval.seconds += time.perf_counter() - started
        if is_logged:
            self._log(rate, gradient_norm)

    def _read(self, *, behind: int = 0) -> float:
        """Read the figures of steps, but for the last few; returns the last gradient norm read."""
        gradient_norm = math.nan
        while len(self._unread) > behind:
            step, batches, figures = self._unread.popleft()
            sums, gradient_norm = figures.read()
            for batch, numbers in zip(batches, sums, strict=True):
                self.state.interval.add(batch, numbers)
            if not math.isfinite(gradient_norm + sum(map(sum, sums))):
                raise TokkitError(self._describe_divergence(step))
        return gradient_norm

    def _describe_divergence(self, step: int) -> str:
        output = self.config.output
        saved = "" if self._writer is None else self._wait_for(self._writer).describe_saved()
        return (
            f"{output}: the loss or its gradient is not finite at step {step} (see its batch by: "
            f"tokkit inspect {output} --replay --step {step}); {saved}; "
            f"lower --learning-rate and pass --overwrite to begin anew"
        )

    def _log(self, rate: float, gradient_norm: float) -> None:
        """Log the steps since the last line; rate and norm are of the last of them."""
        state = self.state
        self._reporter.train(
            state, state.interval.over(self.world.total), rate=rate, gradient_norm=gradient_norm
        )
        state.interval = type(state.interval)()

    def _evaluate_if_due(self, *, is_over: bool) -> float | None:
        """The loss on what is held out, if it was looked at; a signal puts it off."""
        state = self.state
        is_due = state.step % self.config.eval_every == 0 or is_over
        phase = len(state.phase_starts) - 1
        if not is_due or state.evaluated_step == state.step or not self.feed.num_held_out(phase):
            return None
        self._read()
        batches = self.feed.held_out(phase)
        tally = evaluate(self.stepper, batches, lambda: self._agree()[0] is not None)
        if tally is None:
            return None
        figures = evaluation_figures(tally, self._reporter.objective)
        self._reporter.evaluation(state, figures)
        self._is_best = state.take_evaluation(figures["loss"])
        return figures["loss"]

    def _save_if_due(self, loss: float | None, *, must: bool) -> None:
        """Have a checkpoint written: every so often, of the best weights, and at the end."""
        state = self.state
        is_best = loss is not None and loss == state.best_loss
        is_due = state.step % self.config.checkpoint_every == 0 or is_best or must
        if not is_due or state.step == self._written_step:
            return
        self._read()  # what is no number is never saved
        tensors = full_tensors(self._plain, self.stepper.optimizer)
        if self._writer is not None:
            self._reporter.sync()
            self._writer.save(tensors, state.as_dict(), loss=loss)
        self._written_step = state.step

    def _stop_by(self, signal: Signals) -> None:
        output, step = self.config.output, self.state.step
        saved = ""
        if self._writer is not None and (fault := self._wait_for(self._writer).fault) is not None:
            saved = f", which could not be saved ({fault}); {self._writer.describe_saved()}"
        raise Interrupted(
            f"{output}: stopped by {signal.name} after step {step}{saved}; "
            f"run the same command again to go on",
            exit_status=128 + signal,
        )

    @staticmethod
    def _wait_for(writer: CheckpointWriter) -> CheckpointWriter:
        writer.wait()
        return writer
