"""When things happen in a run: its learning rate, phases, log lines, evaluations, checkpoints and end.

A run ends after a number of steps or, with ``--max-time``, of seconds. Everything here is a function
of the updates so far and the seconds trained, so a resumed run has nothing to restore but these two
numbers and, by the clock, the steps at which phases started. Nothing here reads a clock.

The rate rises linearly during warm-up and falls linearly to 0 at the end, as BERT was trained. With
a peak of 1.0, two steps of warm-up and six steps in all:

    step  0    1    2    3     4    5
    rate  0.5  1.0  1.0  0.75  0.5  0.25

google-research/bert spends its first update on a rate of 0; here the first one counts.

By the clock, a tenth of the time is warm-up unless it is given in steps: the rate is a function of
the seconds alone, and 0 at second 0. If warm-up is given in steps, its duration is not known in
advance, and recording it would be state. But if all steps up to ``step`` took the same time, it took
``elapsed * warmup_steps / step`` seconds, and the rate is

    peak * (max_time - elapsed) / (max_time - elapsed * warmup_steps / step)

which is the peak at the end of warm-up and 0 at the end of the time, falls from each step to the
next however the pace changes, and at an even pace is what a run by steps has: the table above,
where the six steps take 10 seconds each and ``max_time`` is 60. (The lesser of ramp and remaining
share of the time is simpler, but never reaches the peak.)

An option of the schedule is added to ``PretrainConfig``, as an attribute of ``Schedule``, and in
``Schedule.from_config``. If the weights do not depend on it, as on ``--eval-every``, its name is also
added to ``OPTIONS_OUTSIDE_KEY`` in ``run_record.py``.
"""

import itertools
from dataclasses import dataclass

from tokkit.errors import require
from tokkit.pretraining.pretrain_config import PretrainConfig

LOG_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is due at which step.

    Steps count from 0. ``elapsed`` is the seconds of training before a step, and is ignored in a
    run by steps.

    Attributes:
        end: steps or, by the clock, seconds of the run.
        by_clock: whether ``end`` is in seconds.
        peak: learning rate at the end of warm-up.
        warmup_steps: None, only by the clock, is a tenth of the time.
        shares: share of each phase in the run; one share of 1 without phases.
        eval_every: steps between evaluations.
        checkpoint_every: steps between checkpoints.
    """

    end: float
    by_clock: bool
    peak: float
    warmup_steps: int | None
    shares: tuple[float, ...] = (1.0,)
    eval_every: int = 1000
    checkpoint_every: int = 1000

    @classmethod
    def from_config(cls, config: PretrainConfig) -> "Schedule":
        """Return the schedule that a run's options ask for.

        Raises:
            UsageError: if there are fewer steps than phases.
        """
        shares = tuple(share for _, share in config.phases) or (1.0,)
        by_clock, warmup_steps = config.max_time is not None, config.warmup_steps
        if not by_clock:
            require(
                config.num_steps >= len(shares),
                f"--max-steps must be at least {len(shares)}, a step for each of --phases",
            )
            if warmup_steps is None:
                warmup_steps = config.num_steps // 10
        return cls(
            end=config.num_steps if config.max_time is None else config.max_time,
            by_clock=by_clock,
            peak=config.learning_rate,
            warmup_steps=warmup_steps,
            shares=shares,
            eval_every=config.eval_steps,
            checkpoint_every=config.checkpoint_every,
        )

    def progress(self, step: int, elapsed: float) -> float:
        """Return the share of the run that is done before ``step``."""
        return (elapsed if self.by_clock else step) / self.end

    def is_over(self, step: int, elapsed: float) -> bool:
        """Return whether the run ends before ``step``."""
        return self.progress(step, elapsed) >= 1

    def is_log_due(self, step: int, *, is_over: bool) -> bool:
        """Return whether a log line is due before ``step``."""
        return step % LOG_EVERY == 0 or is_over

    def is_evaluation_due(self, step: int, *, is_over: bool) -> bool:
        """Return whether an evaluation is due before ``step``."""
        return step % self.eval_every == 0 or is_over

    def is_checkpoint_due(
        self, step: int, *, is_over: bool, is_stopping: bool, is_best: bool
    ) -> bool:
        """Return whether a checkpoint is due before ``step``.

        Args:
            step: updates so far.
            is_over: the run ends here.
            is_stopping: a signal stops the run here.
            is_best: an evaluation has just found the lowest held-out loss so far.
        """
        return step % self.checkpoint_every == 0 or is_over or is_stopping or is_best

    def rate(self, step: int, elapsed: float) -> float:
        """Return the learning rate of update ``step``, before which the run is not over."""
        now = elapsed if self.by_clock else step
        if self.warmup_steps is None:
            warm_up = self.end / 10
            if elapsed < warm_up:
                return self.peak * elapsed / warm_up
        else:
            if step < self.warmup_steps:
                return self.peak * (step + 1) / self.warmup_steps
            pace = elapsed / max(step, 1) if self.by_clock else 1
            warm_up = self.warmup_steps * pace
        return self.peak * (self.end - now) / (self.end - warm_up)

    def phase_starts(self, step: int, elapsed: float, earlier: list[int]) -> list[int]:
        """Return the first step of each phase that has started by ``step``; the last is its phase.

        By steps that is a function of the step: the first phase has ``share * num_steps`` of
        them, rounded, and so on, at least one each. By the clock a phase starts with the first
        step after its share of the time has passed, which is history: a checkpoint holds it.
        Asking twice for the same step gives the same answer.

        Args:
            step: step of the run.
            elapsed: seconds of training before it.
            earlier: the result for the step before; ``[0]`` for the first step.
        """
        if not self.by_clock:
            return [first for first in self._first_steps() if first <= step]
        passed = sum(self.shares[: len(earlier)])
        is_due = len(earlier) < len(self.shares) and self.progress(step, elapsed) >= passed
        return [*earlier, step] if is_due and step > earlier[-1] else earlier

    def _first_steps(self) -> list[int]:
        """Return the first step of each phase of a run by steps, so that each has at least one."""
        num_steps, num_phases = int(self.end), len(self.shares)
        firsts = [0]
        for phase, passed in enumerate(itertools.accumulate(self.shares[:-1]), start=1):
            latest = num_steps - (num_phases - phase)
            firsts.append(min(max(round(passed * num_steps), firsts[-1] + 1), latest))
        return firsts
