"""How far a run is, and what follows from that: the learning rate, the phase, and the end.

A run ends after a number of steps or, with ``--max-time``, of seconds. All that is said here is a
function of the updates taken and the seconds trained, so a resumed run has nothing to restore but
these two numbers and, by the clock, the steps with which phases began; nothing here reads a clock.

The rate rises linearly over warm-up and falls linearly to 0 at the end, as BERT was trained. With
a peak of 1.0, two steps of warm-up and six steps in all:

    step  0    1    2    3     4    5
    rate  0.5  1.0  1.0  0.75  0.5  0.25

google-research/bert spends its first update on a rate of 0; here the first one counts.

By the clock, a tenth of the time is warm-up unless it is given in steps: the rate is a function of
the seconds alone, and 0 at second 0. Where warm-up is given in steps, nobody knows how long it
will take, and keeping how long it took would be a state. But if all steps up to ``step`` took the
same time, it took ``elapsed * warmup_steps / step`` seconds, and the rate is

    peak * (max_time - elapsed) / (max_time - elapsed * warmup_steps / step)

which is the peak at the end of warm-up and 0 at the end of the time, falls from each step to the
next however the pace changes, and at an even pace is what a run by steps has: the table above,
where the six steps take 10 seconds each and ``max_time`` is 60. (The lesser of ramp and remaining
share of the time is simpler, but never gets to the peak.)
"""

import itertools
from dataclasses import dataclass

from tokkit.errors import require
from tokkit.pretraining.pretrain_config import PretrainConfig


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """When a run ends, and what it does until then.

    Steps count from 0; ``elapsed`` is the seconds of training before the step, and is not looked
    at where the run goes by steps.

    Attributes:
        end: steps or, by the clock, seconds.
        by_clock: which of the two.
        peak: the learning rate at the end of warm-up.
        warmup_steps: None, only by the clock, is a tenth of the time.
        shares: of the phases; one where there are no phases.
    """

    end: float
    by_clock: bool
    peak: float
    warmup_steps: int | None
    shares: tuple[float, ...] = (1.0,)

    @classmethod
    def of(cls, config: PretrainConfig) -> "Schedule":
        """The schedule that a run's options ask for.

        Raises:
            UsageError: where there are fewer steps than phases.
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
        )

    def progress(self, step: int, elapsed: float) -> float:
        """The share of the run that lies behind."""
        return (elapsed if self.by_clock else step) / self.end

    def is_over(self, step: int, elapsed: float) -> bool:
        """Whether no update ``step`` is to be taken."""
        return self.progress(step, elapsed) >= 1

    def rate(self, step: int, elapsed: float) -> float:
        """The learning rate of update ``step``, which begins before the run is over."""
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

    def begin_phases(self, step: int, elapsed: float, begun: tuple[int, ...]) -> tuple[int, ...]:
        """Say which phases have begun when update ``step`` is to be taken.

        By steps that is a function of the step: the first phase has ``share * num_steps`` of
        them, rounded, and so on, at least one each. By the clock a phase begins with the first
        step after its share of the time has passed, which is history: it is kept in the
        checkpoint and handed in. Asking twice for the same step gives the same answer.

        Args:
            step: of the run.
            elapsed: seconds before it.
            begun: what was returned for the step before; ``(0,)`` for the first.

        Returns:
            The first step of each phase that has begun. The last of them is the phase of ``step``.
        """
        if not self.by_clock:
            return tuple(first for first in self._first_steps() if first <= step)
        passed = sum(self.shares[: len(begun)])
        is_due = len(begun) < len(self.shares) and self.progress(step, elapsed) >= passed
        return (*begun, step) if is_due and step > begun[-1] else begun

    def _first_steps(self) -> list[int]:
        """Where each phase begins in a run by steps, each behind the last and none at the end."""
        num_steps, num_phases = int(self.end), len(self.shares)
        firsts = [0]
        for phase, passed in enumerate(itertools.accumulate(self.shares[:-1]), start=1):
            latest = num_steps - (num_phases - phase)
            firsts.append(min(max(round(passed * num_steps), firsts[-1] + 1), latest))
        return firsts
