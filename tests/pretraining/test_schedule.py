import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tokkit.errors import UsageError
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.schedule import Origin, Schedule

HERE = (Path(),)


def schedule(**options: Any) -> Schedule:
    options.setdefault("learning_rate", 1.0)
    instances = HERE * max(1, len(options.get("phases", ())))
    return Schedule.from_config(PretrainConfig(output=Path(), instances=instances, **options))


def clocked(num_steps: int, seconds: float, **options: Any) -> Schedule:
    """A run by the clock that has time for ``num_steps`` steps of ``seconds``."""
    return schedule(max_time=num_steps * seconds, **options)


@st.composite
def lengths_of_steps(draw: st.DrawFn) -> list[float]:
    """Seconds of each step of a run, whose pace changes."""
    paces = draw(st.lists(st.tuples(st.integers(1, 40), st.floats(0.01, 50.0)), min_size=1))
    return [seconds for count, seconds in paces for _ in range(count)]


@given(st.integers(1, 500), st.data())
def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing(
    max_steps: int, data: st.DataObject
) -> None:
    warmup_steps = data.draw(st.integers(0, max_steps))
    run = schedule(max_steps=max_steps, warmup_steps=warmup_steps, learning_rate=2.0)
    rates = [run.rate(step, 0.0) for step in range(max_steps)]
    rising, falling = rates[:warmup_steps], rates[warmup_steps:]
    assert max(rates) == 2.0
    assert min(rates) > 0
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert all(a > b for a, b in itertools.pairwise(falling))
    if falling:
        assert falling[-1] == pytest.approx(2.0 / (max_steps - warmup_steps))


def test_rates_are_those_of_the_table() -> None:
    table = [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    by_steps = schedule(max_steps=6, warmup_steps=2)
    assert [by_steps.rate(step, 1e9 * step) for step in range(6)] == table
    by_clock = schedule(max_time=60, warmup_steps=2)
    assert [by_clock.rate(step, 10 * step) for step in range(6)] == table


def test_the_rate_falls_as_a_cosine() -> None:
    run = schedule(max_steps=10, warmup_steps=2, schedule="cosine")
    rates = [run.rate(step, 0.0) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[6] == pytest.approx(0.5)
    assert rates[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)
    by_clock = schedule(max_time=100, warmup_steps=2, schedule="cosine")
    assert [by_clock.rate(step, 10.0 * step) for step in range(10)] == pytest.approx(rates)


def test_the_rate_of_wsd_stays_until_the_decay_of_the_table() -> None:
    run = schedule(max_steps=10, warmup_steps=2, schedule="wsd", decay_steps=4)
    rates = [run.rate(step, 0.0) for step in range(10)]
    assert rates == pytest.approx([0.5, 1, 1, 1, 1, 1, 1, 0.5, 1 - 0.5**0.5, 1 - 0.75**0.5])
    assert (run.decay_start, run.last_step) == (6, 10)
    quiet = {"is_over": False, "is_stopping": False, "is_best": False}
    assert [step for step in range(1, 10) if run.is_checkpoint_due(step, **quiet)] == [6]
    # By default it is a tenth, of the steps or of the time.
    tenth = schedule(max_steps=100, schedule="wsd")
    assert (tenth.decay_start, tenth.rate(90, 0.0)) == (90, 1.0)
    by_clock = schedule(max_time=100, schedule="wsd")
    assert by_clock.decay_start is None
    assert by_clock.rate(7, 97.5) == pytest.approx(1 - 0.75**0.5)


@given(st.integers(4, 300), st.integers(1, 300), st.sampled_from(("linear", "cosine", "wsd")))
def test_more_steps_change_nothing_of_those_before(planned: int, more: int, shape: str) -> None:
    """Nothing at all in a run of wsd before its decay; otherwise all but the rate's fall."""
    options: dict[str, Any] = {
        "schedule": shape,
        "phases": ((32, 0.5), (64, 0.5)),
        "batch_size": ((2, 0.3), (6, 0.7)),
    }
    run = schedule(max_steps=planned, **options)
    grown = Schedule.from_config(
        PretrainConfig(
            output=Path(),
            instances=HERE * 2,
            max_steps=planned + more,
            **{**options, "learning_rate": 1.0},
        ),
        Origin(planned_steps=planned),
    )
    assert grown.last_step == planned + more
    assert grown.warmup_steps == run.warmup_steps
    assert [grown.batch_sizes(phase) for phase in (0, 1)] == [run.batch_sizes(p) for p in (0, 1)]
    for step in range(planned):
        assert grown.phase_starts(step, 0.0, [0]) == run.phase_starts(step, 0.0, [0])
        if step < (run.warmup_steps or 0) or (
            run.decay_start is not None and step < run.decay_start
        ):
            assert grown.rate(step, 0.0) == run.rate(step, 0.0)


@given(st.data())
def test_each_step_takes_the_instances_after_those_before_it(data: st.DataObject) -> None:
    shares = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=4))
    stages = tuple((n + 1, share / sum(shares)) for n, share in enumerate(shares))
    phases = ((32, 0.4), (64, 0.6)) if data.draw(st.booleans()) else ()
    run = schedule(max_steps=data.draw(st.integers(4, 60)), batch_size=stages, phases=phases)
    position, phase, taken = 0, 0, []
    for step in range(run.last_step):
        starts = run.phase_starts(step, 0.0, [0])
        if len(starts) - 1 > phase:
            position, phase = 0, len(starts) - 1
        sizes = run.batch_sizes(phase)
        assert sizes.at(step - starts[-1])[0] == position
        assert sizes.find_step(position) == step - starts[-1]
        assert sizes.find_step(position + 1) == step - starts[-1] + 1
        taken.append(sizes.at(step - starts[-1])[1])
        position += taken[-1]
    assert taken == sorted(taken)
    for size, share in stages:
        assert taken.count(size) == pytest.approx(share * run.last_step, abs=len(stages))
        assert size in taken


def test_a_warm_up_in_tokens_goes_by_batch_sizes_and_phases() -> None:
    options: dict[str, Any] = {
        "phases": ((32, 0.5), (64, 0.5)),
        "batch_size": ((2, 0.25), (4, 0.75)),
    }
    run = schedule(max_steps=20, warmup_tokens=1, **options)
    # Steps of 20 tokens, from step 5 on of 40, from step 10 on of 80.
    for tokens, steps in ((1, 1), (20, 1), (21, 2), (100, 5), (101, 6), (300, 10), (301, 11)):
        assert run.with_warmup_tokens(tokens, (10.0, 20.0)).warmup_steps == steps
    assert run.with_warmup_tokens(1100, (10.0, 20.0)).warmup_steps == 20
    with pytest.raises(UsageError, match="--warmup-tokens 1,101 do not fit"):
        run.with_warmup_tokens(1101, (10.0, 20.0))


def test_a_tenth_is_warm_up_by_default() -> None:
    by_steps = schedule(max_steps=100)
    assert by_steps.rate(4, 0) == 0.5
    assert by_steps.rate(9, 0) == by_steps.rate(10, 0) == 1.0
    assert by_steps.rate(55, 0) == 0.5
    by_clock = schedule(max_time=100.0)
    assert [by_clock.rate(7, seconds) for seconds in (0, 5, 10, 55)] == [0, 0.5, 1, 0.5]


@given(lengths_of_steps(), st.integers(0, 60))
def test_by_the_clock_the_rate_gets_to_its_peak_and_falls_however_the_pace_changes(
    seconds: list[float], warmup_steps: int
) -> None:
    """Also where phases change the pace; the last step ends when the time does."""
    begins = [0.0, *itertools.accumulate(seconds)]
    run = schedule(max_time=begins.pop(), warmup_steps=warmup_steps)
    rates = [run.rate(step, elapsed) for step, elapsed in enumerate(begins)]
    rising, falling = rates[:warmup_steps], rates[warmup_steps:]
    assert rising == [(step + 1) / warmup_steps for step in range(len(rising))]
    if falling:
        assert falling[0] == pytest.approx(1.0)
        assert all(a >= b * (1 - 1e-12) for a, b in itertools.pairwise(falling))
        assert falling[-1] > 0
    if len(rates) > warmup_steps:
        assert run.rate(len(rates), sum(seconds)) == pytest.approx(0.0, abs=1e-9)


@given(st.integers(1, 300), st.floats(0.01, 100.0), st.data())
def test_at_an_even_pace_clock_and_steps_agree(
    num_steps: int, seconds: float, data: st.DataObject
) -> None:
    warmup_steps = data.draw(st.integers(0, num_steps))
    by_steps = schedule(max_steps=num_steps, warmup_steps=warmup_steps)
    by_clock = clocked(num_steps, seconds, warmup_steps=warmup_steps)
    for step in range(num_steps):
        expected = pytest.approx(by_steps.rate(step, 0.0), rel=1e-9)
        assert by_clock.rate(step, step * seconds) == expected


def test_a_run_ends_with_its_steps_or_its_time() -> None:
    by_steps = schedule(max_steps=5)
    assert [by_steps.is_over(step, 1e9) for step in (4, 5)] == [False, True]
    by_clock = schedule(max_time=30.0)
    assert [by_clock.is_over(10**9, elapsed) for elapsed in (29.9, 30.0, 31.0)] == [
        False,
        True,
        True,
    ]
    assert (by_steps.progress(1, 7.0), by_clock.progress(1, 7.5)) == (0.2, 0.25)


def follow(run: Schedule, steps: list[tuple[int, float]]) -> list[int]:
    """The phase of each step, asked for one after the other."""
    starts = [0]
    phases = []
    for step, elapsed in steps:
        starts = run.phase_starts(step, elapsed, starts)
        assert starts == run.phase_starts(step, elapsed, starts)
        phases.append(len(starts) - 1)
        assert starts[0] == 0
        assert phases.index(len(starts) - 1) == starts[-1] <= step
    return phases


@given(st.integers(1, 300), st.lists(st.integers(1, 1000), min_size=1, max_size=6))
def test_each_phase_has_its_share_of_the_steps(spare: int, parts: list[int]) -> None:
    shares = [part / sum(parts) for part in parts]
    max_steps = spare + len(parts) - 1
    run = schedule(max_steps=max_steps, phases=tuple(enumerate(shares)))
    phases = follow(run, [(step, 0.0) for step in range(max_steps)])
    assert phases == sorted(phases)
    counts = [phases.count(phase) for phase in range(len(parts))]
    assert min(counts) >= 1
    assert sum(counts) == max_steps
    if min(shares) * max_steps >= 1.5:
        assert counts[0] == round(shares[0] * max_steps)
        for count, share in zip(counts, shares, strict=True):
            assert count == pytest.approx(share * max_steps, abs=1.0 + 1e-9)


def test_a_resumed_run_by_steps_needs_no_history() -> None:
    run = schedule(max_steps=100, phases=((128, 0.9), (512, 0.1)))
    assert run.phase_starts(89, 0.0, [0]) == [0]
    assert run.phase_starts(95, 0.0, [0]) == [0, 90]


def test_phases_follow_the_clock() -> None:
    run = schedule(max_time=100.0, phases=((128, 0.5), (256, 0.25), (512, 0.25)))
    steps = [(0, 0.0), (1, 49.9), (2, 50.0), (3, 60.0), (4, 80.0), (5, 99.0)]
    assert follow(run, steps) == [0, 0, 1, 1, 2, 2]
    # A step that outlasts a phase: the phase has a step all the same.
    assert follow(run, [(0, 0.0), (1, 90.0), (2, 95.0)]) == [0, 1, 2]
    # Going on from a checkpoint of step 3, where the second phase had begun with step 2.
    assert run.phase_starts(3, 60.0, [0, 2]) == [0, 2]
    assert run.phase_starts(3, 80.0, [0, 2]) == [0, 2, 3]


def test_without_phases_there_is_one() -> None:
    for run in (schedule(max_steps=3), schedule(max_time=3.0)):
        assert follow(run, [(0, 0.0), (1, 1.0), (2, 2.9)]) == [0, 0, 0]


def test_fewer_steps_than_phases_are_refused() -> None:
    with pytest.raises(UsageError, match="--max-steps must be at least 2, a step for each"):
        schedule(max_steps=1, phases=((128, 0.9), (512, 0.1)))


def test_a_checkpoint_is_due_regularly_and_when_the_run_ends_stops_or_improves() -> None:
    run = schedule(max_steps=100, checkpoint_every=30)
    quiet = {"is_over": False, "is_stopping": False, "is_best": False}
    assert [step for step in range(1, 100) if run.is_checkpoint_due(step, **quiet)] == [30, 60, 90]
    for event in quiet:
        assert run.is_checkpoint_due(31, **{**quiet, event: True})


def test_a_log_line_and_an_evaluation_are_due_regularly_and_at_the_end() -> None:
    run = schedule(max_steps=100, eval_every=25)
    assert [n for n in range(100) if run.is_evaluation_due(n, is_over=False)] == [0, 25, 50, 75]
    assert [n for n in range(40) if run.is_log_due(n, is_over=False)] == [0, 10, 20, 30]
    assert run.is_evaluation_due(33, is_over=True)
    assert run.is_log_due(33, is_over=True)
