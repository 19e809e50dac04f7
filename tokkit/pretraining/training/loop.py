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
from dataclasses import replace
from signal import Signals

from tokkit.errors import Interrupted, TokkitError
from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.checkpoint_writer import CheckpointWriter
from tokkit.pretraining.training.checkpoints import (
    Checkpoint,
    Snapshot,
    State,
    expect_tensors,
    load_newest_checkpoint,
    name_tensors,
    restore,
)
from tokkit.pretraining.training.distributed import full_tensors, split_tensors
from tokkit.pretraining.training.metrics import Tally
from tokkit.pretraining.training.reporting import Reporter
from tokkit.pretraining.training.schedule import Schedule
from tokkit.pretraining.training.setup import Setup
from tokkit.pretraining.training.step import Figures, evaluate, evaluation_figures
from tokkit.pretraining.training.stopping import StopRequest, agreed_signal, hold_signals

LOG_EVERY = 10
CHECKPOINTS = "checkpoints"

log = logging.getLogger(__name__)


class Trainer:
    """Trains one model.

    Args:
        config: of the run.
        setup: what it works with; filled from the newest checkpoint if there is one.
    """

    def __init__(self, config: PretrainConfig, setup: Setup) -> None:
        self.config = config
        self._setup = setup
        self.stepper = setup.stepper
        self.feed = setup.feed
        self.group = setup.stepper.group
        self.schedule = Schedule.of(config)
        self.state = State()
        self._model = setup.model
        self._num_held_out = [loader.num_held_out for loader in setup.loaders]
        self._folder = config.output / CHECKPOINTS
        self._resumed = self._resume()
        self._written_step = self._logged_step = self.state.step
        self._unread: deque[tuple[int, tuple[Batch, ...], Figures]] = deque()

    def _resume(self) -> Checkpoint | None:
        """Go on from the newest checkpoint, which the first process reads."""
        optimizer, expected, read = self.stepper.optimizer, expect_tensors(self._model), None
        if self.group.is_first:
            read = load_newest_checkpoint(self._folder, expected)
        form = self.group.broadcast(None if read is None else read.state)
        if form is None:
            return None
        self.state = State.from_dict(form)
        if not self.group.is_first:
            self.state.interval = Tally()  # whose sums are of all processes
        tensors = Snapshot({}, {}) if read is None else read.tensors
        parts = Snapshot(
            split_tensors(tensors.model, expected.model),
            split_tensors(tensors.optimizer, expected.optimizer),
        )
        restore(parts, self.state.step, self._model, optimizer)
        log.info("%s: going on from step %d", self.config.output, self.state.step)
        return read and replace(read, tensors=Snapshot({}, {}))

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
            if self.group.is_first:
                self._writer = stack.enter_context(
                    CheckpointWriter(self._folder, self.config.keep_checkpoints, self._resumed)
                )
            self._reporter = reporter
            if not all(self._num_held_out):
                log.info(
                    "%s: holds out no instances, so nothing is evaluated; "
                    "build with a larger --eval-fraction to change that",
                    ", ".join(map(str, self.config.instances)),
                )
            self._began = time.monotonic() - self.state.elapsed
            while True:
                signal, self.state.elapsed = self._agree()
                is_over = self.schedule.is_over(self.state.step, self.state.elapsed)
                self._log_if_due(is_over=is_over)
                loss = None
                if signal is None and self._is_evaluation_due(is_over=is_over):
                    loss = self._evaluate()
                    if loss is None:
                        continue  # a signal has come
                self._save_if_due(loss, must=is_over or signal is not None)
                if signal is not None:
                    self._stop_by(signal)
                if is_over:
                    return self.state
                self._take_step()

    def _agree(self) -> tuple[Signals | None, float]:
        """Which signal has reached any process, and the first one's clock."""
        elapsed = time.monotonic() - self._began if self.group.is_first else 0.0
        *flags, elapsed = self.group.sum([*self._stop.flags, elapsed])
        return agreed_signal(flags), elapsed

    def _take_step(self) -> None:
        """Take one update, and log if it is time to."""
        started = time.perf_counter()
        state, schedule = self.state, self.schedule
        phases = schedule.begin_phases(state.step, state.elapsed, tuple(state.phase_starts))
        state.phase_starts = list(phases)
        self._rate = schedule.rate(state.step, state.elapsed)
        batches, counts, figures = self._setup.take_step(
            state.step, self._rate, phase=len(phases) - 1, number=state.step - phases[-1]
        )
        self._unread.append((state.step, batches, figures))
        state.step += 1
        state.tokens += int(counts[2])
        state.interval.waited += self.feed.waited
        is_logged = state.step % LOG_EVERY == 0
        self._read(behind=0 if is_logged or self.group.device.type == "cpu" else 1)
        state.interval.seconds += time.perf_counter() - started
        self._reporter.advance(state)

    def _read(self, *, behind: int = 0) -> None:
        """Read the figures of steps, but for the last few."""
        while len(self._unread) > behind:
            step, batches, figures = self._unread.popleft()
            sums, self._gradient_norm = figures.read()
            for batch, numbers in zip(batches, sums, strict=True):
                self.state.interval.add(batch, numbers)
            # The norm is the same in all processes, and no number where any loss is none.
            if not math.isfinite(self._gradient_norm):
                raise TokkitError(self._describe_divergence(step))

    def _describe_divergence(self, step: int) -> str:
        output, begun = self.config.output, self.state.phase_starts
        saved = self.group.broadcast(
            None if self._writer is None else self._wait_for(self._writer).describe_saved()
        )
        # The phase of the step, which another may have followed since.
        phase = max(number for number, first in enumerate(begun) if first <= step)
        which = f"--phase {phase} " if self.config.phases else ""
        return (
            f"{output}: the loss or its gradient is not finite at step {step} (see its batch by: "
            f"tokkit inspect {output} --replay {which}--step {step - begun[phase]}); {saved}; "
            f"lower --learning-rate and pass --overwrite to begin anew"
        )

    def _log_if_due(self, *, is_over: bool) -> None:
        """Log the steps since the last line; rate and norm are of the last of them."""
        state = self.state
        is_due = state.step % LOG_EVERY == 0 or is_over
        if not is_due or state.step == self._logged_step:
            return
        self._read()
        interval = state.interval.over(self.group.sum)
        self._reporter.train(state, interval, rate=self._rate, gradient_norm=self._gradient_norm)
        self._logged_step, state.interval = state.step, Tally()

    def _is_evaluation_due(self, *, is_over: bool) -> bool:
        state = self.state
        is_due = state.step % self.config.eval_every == 0 or is_over
        has_any = self._num_held_out[len(state.phase_starts) - 1] > 0
        return is_due and has_any and state.evaluated_step != state.step

    def _evaluate(self) -> float | None:
        """The loss on what is held out; None where a signal put it off."""
        state = self.state
        self._read()
        batches = self.feed.held_out(len(state.phase_starts) - 1)
        tally = evaluate(self.stepper, batches, lambda: self._agree()[0] is not None)
        if tally is None:
            return None
        figures = evaluation_figures(tally, self._reporter.objective)
        self._reporter.evaluation(state, figures)
        state.take_evaluation(figures["loss"])
        return figures["loss"]

    def _save_if_due(self, loss: float | None, *, must: bool) -> None:
        """Have a checkpoint written: every so often, of the best weights, and at the end."""
        state = self.state
        is_best = loss is not None and loss == state.best_loss
        is_due = state.step % self.config.checkpoint_every == 0 or is_best or must
        if not is_due or state.step == self._written_step:
            return
        self._read()  # what is no number is never saved
        parts = name_tensors(self._model, self.stepper.optimizer)
        tensors = Snapshot(full_tensors(parts.model), full_tensors(parts.optimizer))
        whole = replace(state, interval=state.interval.over(self.group.sum))
        if self._writer is not None:
            self._reporter.sync()
            self._writer.save(tensors, whole.as_dict(), loss=loss)
        self._written_step = state.step

    def _stop_by(self, signal: Signals) -> None:
        output, step = self.config.output, self.state.step
        saved = ""
        if self._writer is not None and (fault := self._wait_for(self._writer).fault) is not None:
            saved = f", which is not saved ({fault}); {self._writer.describe_saved()}"
        self.group.barrier()  # others are ended soon after the first of us
        raise Interrupted(
            f"{output}: stopped by {signal.name} after step {step}{saved}; "
            f"run the same command again to go on",
            exit_status=128 + signal,
        )

    @staticmethod
    def _wait_for(writer: CheckpointWriter) -> CheckpointWriter:
        writer.wait()
        return writer
