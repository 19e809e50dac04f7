"""When things happen in a run: its learning rate, batch sizes, phases, evaluations and checkpoints.

A run ends after a number of steps or, with ``--max-time``, of seconds. Everything here is a function
of the number of updates and the seconds trained, so a resumed run restores only these two numbers and,
by the clock, the steps at which phases started. Nothing here reads a clock.

The rate rises linearly during warm-up and falls linearly to 0 at the end, as for BERT. With a peak of
1.0, two steps of warm-up and six steps in total:

    step  0    1    2    3     4    5
    rate  0.5  1.0  1.0  0.75  0.5  0.25

google-research/bert has a rate of 0 in its first update; here the first update counts. With
``--schedule cosine`` it falls as half a cosine. With ``wsd`` (warm-up, stable, decay) it is constant
until the last ``decay_steps``, in which it falls to 0 as 1 - sqrt(x): Hagele et al. 2024, "Scaling laws
and compute-optimal training beyond fixed training durations" (arXiv:2405.18392); a tenth of the run is
their choice and MiniCPM's. With four steps of decay after a peak of 1.0: 1.0, 0.5, 0.29, 0.13.

If a run gets more steps, only its end moves: warm-up, phases and batch sizes remain where the first
``max_steps`` put them (``Origin.planned_steps``), so completed steps do not change, and any batch can
be reproduced. A run of ``wsd`` keeps the checkpoint before its decay, and continues from it: it equals
the run with more steps from the start, bit for bit.

A run with ``--continue-from`` or ``--decay-from`` continues the steps of another one, and its schedule
counts its own steps only, from ``Origin.step``. ``--decay-from`` is the decay of wsd from any
checkpoint: it starts at the rate of that checkpoint's last step.

By the clock, warm-up is a tenth of the time unless it is given in steps: the rate is a function of the
seconds alone, and 0 at second 0. If warm-up is given in steps, its duration is not known in advance,
and recording it would be state. But if all steps up to ``step`` took equally long, it took
``elapsed * warmup_steps / step`` seconds, and the rate is

    peak * (max_time - elapsed) / (max_time - elapsed * warmup_steps / step)

(for the linear schedule). That is the peak at the end of warm-up and 0 at the end of the time, falls
from each step to the next however the pace changes, and at a constant pace equals that of a run by
steps: the table above, if the six steps take 10 seconds each and ``max_time`` is 60. The minimum of
ramp and remaining share of the time would be simpler, but never reaches the peak.

To add an option of the schedule, add it to ``PretrainConfig``, and to ``OPTIONS_OUTSIDE_KEY`` in
``run_plan.py`` if the weights do not depend on it, as with ``--eval-every``.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tokkit.engine.json_files import Count
from tokkit.errors import require
from tokkit.pretraining.data.loader_config import BatchSizes
from tokkit.pretraining.pretrain_config import PretrainConfig

LOG_EVERY = 10


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a run begins, which stays the same when it is resumed or given more steps.

    Attributes:
        planned_steps: step at which the run was to end when it started.
        step: number of updates before its first step.
        position: number of instances of the first phase that the previous run has taken.
        rate: learning rate from which ``--decay-from`` decays; else None.
        checkpoint: checkpoint of the previous run, if any.
        fingerprint: fingerprint of that checkpoint.
    """

    planned_steps: Count
    step: Count = 0
    position: Count = 0
    rate: float | None = None
    checkpoint: str | None = None
    fingerprint: str | None = None


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """What is due at which step.

    Steps count from 0, those before ``origin`` included. ``elapsed`` is the seconds of training
    before a step, and is ignored in a run by steps.

    Attributes:
        config: options of the run.
        origin: where it begins.
        end: own steps of the run or, by the clock, its seconds.
        warmup_steps: None, only by the clock, is a tenth of the time.
        decay: length of the decay of wsd, in the unit of ``end``.
    """

    config: PretrainConfig
    origin: Origin
    end: float
    warmup_steps: int | None
    decay: float

    @classmethod
    def from_config(cls, config: PretrainConfig, origin: Origin | None = None) -> "Schedule":
        """Return the schedule that a run's options ask for; see ``with_warmup_tokens``.

        Args:
            config: options of the run.
            origin: where it begins; left out for a new run.

        Raises:
            UsageError: if there are fewer steps than phases, batch sizes, or warm-up and decay.
        """
        warmup_steps = config.warmup_steps
        origin = origin or Origin(planned_steps=config.num_steps)
        last = config.num_steps if config.decay_from is None else origin.planned_steps
        end = last - origin.step if config.max_time is None else config.max_time
        decay = config.decay_steps or end / 10
        if config.max_time is None:
            planned = origin.planned_steps - origin.step
            parts = {"phases": config.shares, "batch-size": config.batch_stages}
            for flag, number in ((flag, len(part)) for flag, part in parts.items()):
                require(
                    planned >= number,
                    f"--max-steps must be at least {number}, a step for each of --{flag}",
                )
            if warmup_steps is None:
                warmup_steps = 0 if config.origin_path or config.warmup_tokens else planned // 10
            require(warmup_steps <= end, f"--warmup-steps must be at most the run's steps, {end:,}")
            decay = config.decay_steps or max(1, min(int(end) // 10, int(end) - warmup_steps))
            require(
                config.schedule != "wsd" or warmup_steps + decay <= end,
                f"--warmup-steps and --decay-steps together must be at most the run's steps, {end:,}",
            )
        return cls(config=config, origin=origin, end=end, warmup_steps=warmup_steps, decay=decay)

    def with_warmup_tokens(
        self, num_tokens: int, tokens_per_instance: Sequence[float]
    ) -> "Schedule":
        """Return the schedule with the warm-up whose steps hold that many tokens.

        Args:
            num_tokens: tokens of the warm-up.
            tokens_per_instance: mean number of tokens of an instance, in each phase.

        Raises:
            UsageError: if the run does not hold them.
        """
        step, left = 0, float(num_tokens)
        firsts = [*self._first_steps(self.config.shares), self._planned]
        for phase, tokens in enumerate(tokens_per_instance):
            sizes = self.batch_sizes(phase)
            needed = sizes.find_step(sizes.start + math.ceil(left / max(tokens, 1)))
            step = min(firsts[phase] + needed, firsts[phase + 1])
            left -= (sizes.at(step - firsts[phase])[0] - sizes.start) * tokens
            if left <= 0:
                break
        require(
            left <= 0 and step + (self.shape == "wsd") * self.decay <= self.end,
            f"--warmup-tokens {num_tokens:,} do not fit before the decay; lower them, or train longer",
        )
        return replace(self, warmup_steps=step)

    @property
    def by_clock(self) -> bool:
        """Whether the run ends after a time."""
        return self.config.max_time is not None

    @property
    def shape(self) -> str:
        """How the rate falls: ``linear``, ``cosine`` or ``wsd``."""
        return self.config.schedule if self.config.decay_from is None else "wsd"

    @property
    def last_step(self) -> int:
        """The step at which a run that goes by steps ends."""
        return self.origin.step + int(self.end)

    @property
    def decay_start(self) -> int | None:
        """The step with which the decay of wsd starts; None without one, or by the clock."""
        return None if self.by_clock or self.shape != "wsd" else self.last_step - int(self.decay)

    def progress(self, step: int, elapsed: float) -> float:
        """Return the share of the run that is done before ``step``."""
        return (elapsed if self.by_clock else step - self.origin.step) / self.end

    def is_over(self, step: int, elapsed: float) -> bool:
        """Return whether the run ends before ``step``."""
        return self.progress(step, elapsed) >= 1

    def is_log_due(self, step: int, *, is_over: bool) -> bool:
        """Return whether a log line is due before ``step``."""
        return step % LOG_EVERY == 0 or is_over

    def is_evaluation_due(self, step: int, *, is_over: bool) -> bool:
        """Return whether an evaluation is due before ``step``."""
        return step % self.config.eval_steps == 0 or is_over

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
        is_regular = step % self.config.checkpoint_every == 0 or step == self.decay_start
        return is_regular or is_over or is_stopping or is_best

    def rate(self, step: int, elapsed: float, phase: int = 0) -> float:
        """Return the learning rate of update ``step`` of a phase; the run is not over before it."""
        peak = self.config.learning_rate if self.origin.rate is None else self.origin.rate
        if self.config.own_phases:
            peak = self.config.own_phases[phase].learning_rate or peak
        step -= self.origin.step
        now = elapsed if self.by_clock else step
        if self.warmup_steps is None:
            warm_up = self.end / 10
            if elapsed < warm_up:
                return peak * elapsed / warm_up
        else:
            if step < self.warmup_steps:
                return peak * (step + 1) / self.warmup_steps
            pace = elapsed / max(step, 1) if self.by_clock else 1
            warm_up = self.warmup_steps * pace
        if self.shape == "wsd":
            return peak * (1 - math.sqrt(max(0.0, now - self.end + self.decay) / self.decay))
        if self.shape == "cosine":
            done = (now - warm_up) / (self.end - warm_up)
            return peak * (1 + math.cos(math.pi * done)) / 2
        return peak * (self.end - now) / (self.end - warm_up)

    def phase_starts(self, step: int, elapsed: float, earlier: list[int]) -> list[int]:
        """Return the first step of each phase that has started by ``step``; the last is its phase.

        By steps that is a function of the step: the first phase has ``share * num_steps`` of
        them, rounded, and so on, at least one each. By the clock a phase starts with the first
        step after its share of the time has passed, which is history: a checkpoint holds it.
        Asking twice for the same step gives the same answer.

        Args:
            step: step of the run.
            elapsed: seconds of training before it.
            earlier: the result for the step before; ``[origin.step]`` for the first step.
        """
        if not self.by_clock:
            firsts = (self.origin.step + first for first in self._first_steps(self.config.shares))
            return [first for first in firsts if first <= step]
        shares = self.config.shares
        passed = sum(shares[: len(earlier)])
        is_due = len(earlier) < len(shares) and self.progress(step, elapsed) >= passed
        return [*earlier, step] if is_due and step > earlier[-1] else earlier

    def batch_sizes(self, phase: int) -> BatchSizes:
        """Return the batch sizes of a phase, whose steps count from its first."""
        position = 0 if phase else self.origin.position
        batch_stages, phases = self.config.batch_stages, self.config.own_phases
        if phases and (own_size := phases[phase].batch_size) is not None:
            return BatchSizes(((0, own_size),), position)
        if self.by_clock:  # there are no stages
            return BatchSizes(((0, batch_stages[0][0]),), position)
        first = self._first_steps(self.config.shares)[phase]
        sizes, shares = zip(*batch_stages, strict=True)
        starts = self._first_steps(shares)
        is_later = [start > first for start in starts]
        current = is_later.count(False) - 1
        stages = [(0, sizes[current])]
        stages += [(starts[n] - first, sizes[n]) for n in range(current + 1, len(sizes))]
        return BatchSizes(tuple(stages), position)

    @property
    def _planned(self) -> int:
        return self.origin.planned_steps - self.origin.step

    def _first_steps(self, shares: Sequence[float]) -> list[int]:
        """Return the first step of each part of a run by steps, so that each has at least one."""
        num_parts = len(shares)
        firsts = [0]
        for part, passed in enumerate(itertools.accumulate(shares[:-1]), start=1):
            latest = self._planned - (num_parts - part)
            firsts.append(min(max(round(passed * self._planned), firsts[-1] + 1), latest))
        return firsts
