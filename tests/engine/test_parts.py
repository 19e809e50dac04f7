"""Array jobs: parts of a plan, done by processes that share the folder alone, make the same folder."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import forkserver
import pytest

from tokkit.engine.receipts import read_receipts
from tokkit.engine.stage import Stage, StepResult, run_stage, run_step
from tokkit.engine.stage_config import StageConfig, parse_part
from tokkit.engine.stage_plan import read_plan
from tokkit.errors import TokkitError, UsageError
from toystage import contents, done, run, squares

TESTS = Path(__file__).resolve().parent.parent
SCHEDULERS = ("SLURM_ARRAY", "JOB_COMPLETION", "AWS_BATCH")

PART = """
    import sys
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from toystage import squares
    from tokkit.engine.stage import run_step
    from tokkit.engine.stage_config import StageConfig

    here, part = Path({here!r}), (int(sys.argv[1]), 4)
    stage = squares(here / "out", here / "log", num_units=8, seconds=0.5)
    run_step(stage, StageConfig(part=part, workers=0))
"""


def step(stage: Stage, **options: Any) -> StepResult:
    return run_step(stage, StageConfig(**{"workers": 0, "progress": False, **options}))


def commit(stage: Stage) -> None:
    run_stage(stage, workers=0, overwrite=False, progress=False, commit=True)


def start(here: Path, part: int) -> subprocess.Popen[bytes]:
    script = here / f"part-{part}.py"  # one each: a part must not read what the next one writes
    script.write_text(textwrap.dedent(PART).format(tests=str(TESTS), here=str(here)))
    return forkserver.Popen([sys.executable, script, str(part)], stderr=subprocess.PIPE)


def test_four_parts_at_once_of_which_one_is_killed_and_run_again(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    stage = squares(output, log, num_units=8)
    assert step(stage, plan=True) == StepResult("plan", 8)
    parts = [start(tmp_path, part) for part in range(4)]
    deadline = time.monotonic() + 240
    receipt = output / ".tokkit" / "done" / f"{stage.unit_key(stage.units[2])}.json"
    while not receipt.exists():  # of the first of the third part's units 2 and 6
        assert time.monotonic() < deadline
        time.sleep(0.01)
    parts[2].kill()
    for number, process in enumerate(parts):
        _, error = process.communicate(timeout=300)
        assert process.returncode == (-signal.SIGKILL if number == 2 else 0), error.decode()
    assert step(stage, missing=4).missing == (2,)
    with pytest.raises(
        TokkitError, match=r"1 of 8 units are not done; run the parts that --missing"
    ):
        commit(stage)
    log.unlink()
    assert step(stage, part=(2, 4)) == StepResult("part", 2)
    assert 2 not in done(log)
    assert step(stage, missing=4).missing == ()
    log.unlink()
    commit(stage)
    assert not log.exists()
    run(squares(tmp_path / "whole", log, num_units=8))
    assert contents(output) == contents(tmp_path / "whole")


def test_the_plain_command_does_what_the_parts_have_left(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    stage = squares(output, log)
    step(stage, plan=True)
    step(stage, part=(1, 4))
    step(stage, part=(0, 3))  # the number of parts may change at any time
    assert done(log) == [0, 1, 3, 5]
    run(stage, workers=2)
    assert done(log) == [0, 1, 2, 3, 4, 5]
    for options in ({"plan": True}, {"part": (0, 2)}, {"missing": 2}):
        assert step(stage, **options) == StepResult("finished", 6)
    run(squares(tmp_path / "whole", log))
    assert contents(output) == contents(tmp_path / "whole")


def test_a_part_asks_for_its_own_receipts_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = squares(tmp_path / "out", tmp_path / "log")
    step(stage, plan=True)
    asked: list[set[str] | None] = []

    def read(folder: Path, keys: Any) -> Any:
        asked.append(None if keys is None else {*keys})
        return read_receipts(folder, keys and asked[-1])

    monkeypatch.setattr("tokkit.engine.stage.read_receipts", read)
    step(stage, part=(1, 3))
    assert asked == [{stage.unit_key(stage.units[1]), stage.unit_key(stage.units[4])}]


def test_a_plan_gives_the_units_back(tmp_path: Path) -> None:
    stage = squares(tmp_path / "out", tmp_path / "log")
    step(stage, plan=True)
    units = read_plan(tmp_path / "out", int)
    assert [replace(unit, inputs=[*unit.inputs]) for unit in stage.units] == units
    assert replace(stage, units=units).key == stage.key
    path = tmp_path / "out" / ".tokkit" / "plan.json"
    path.write_text(path.read_text().replace('"payload":1,', '"payload":"1",'))
    with pytest.raises(TokkitError, match=r"payload.*; run the same command with --plan first"):
        read_plan(tmp_path / "out", int)
    path.unlink()
    with pytest.raises(TokkitError, match=r"out: has no plan; run .* with --plan first"):
        read_plan(tmp_path / "out", int)


def test_a_plan_of_other_options_is_refused(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    step(squares(output, log), plan=True)
    step(squares(output, log), part=(0, 2))
    other = squares(output, log, power=3)
    for options in ({"part": (0, 2)}, {"missing": 2}):
        with pytest.raises(TokkitError, match=r"plan is of another run \(--power was 2, not 3\)"):
            step(other, **options)
    with pytest.raises(TokkitError, match="--power was 2, not 3"):
        commit(other)
    with pytest.raises(TokkitError, match="--power was 2, not 3"):
        step(other, plan=True)
    assert done(log) == [0, 2, 4]
    commit_all = squares(output, log)
    step(commit_all, part=(1, 2))
    commit(commit_all)
    assert len(contents(output)) == 6 + 1


def test_a_shard_that_was_lost_is_missing(tmp_path: Path) -> None:
    stage = squares(tmp_path / "out", tmp_path / "log")
    step(stage, plan=True)
    step(stage, part=(0, 1))
    (tmp_path / "out" / "square-00003.txt").unlink()
    assert step(stage, missing=6).missing == (3,)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"part": (4, 4)}, "--part 4/4: I must be from 0 to N-1"),
        ({"part": (0, 0)}, "--part 0/0: I must be"),
        ({"part": (0, 2), "commit": True}, "exclude each other"),
        ({"plan": True, "missing": 2}, "exclude each other"),
        ({"missing": 0}, "--missing must be at least 1"),
        (
            {"part": (0, 2), "overwrite": True},
            "--overwrite would delete what other parts have done",
        ),
    ],
)
def test_wrong_steps_are_wrong_usage(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        StageConfig(**options)


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("3/16", {}, (3, 16)),
        ("auto", {"SLURM_ARRAY_TASK": "3 of 0-15"}, (3, 16)),
        ("auto", {"SLURM_ARRAY_TASK": "3 of 1-16"}, (2, 16)),
        ("auto", {"SLURM_ARRAY_TASK": "8 of 0-12:4"}, (2, 4)),
        ("auto/64", {"SLURM_ARRAY_TASK": "17 of 3,17,29"}, (17, 64)),
        ("auto/8", {"JOB_COMPLETION_INDEX": "7"}, (7, 8)),
        ("auto", {"AWS_BATCH_JOB_ARRAY_INDEX": "2", "AWS_BATCH_JOB_ARRAY_SIZE": "5"}, (2, 5)),
        ("auto", {"SLURM_ARRAY_TASK": "17 of 3,17,29"}, "the array skips task ids"),
        ("auto", {"JOB_COMPLETION_INDEX": "7"}, "without the number of parts; pass auto/N"),
        ("auto", {}, "auto needs one of SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX"),
        *((text, {}, "is not a part, such as 0/16") for text in ("3", "3/", "-1/4", "a/4", "")),
    ],
)
def test_a_part_is_read_as_schedulers_give_it(
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    environment: dict[str, str],
    expected: tuple[int, int] | str,
) -> None:
    for name in os.environ:
        if name.startswith(SCHEDULERS):
            monkeypatch.delenv(name)
    for name, value in environment.items():
        if name != "SLURM_ARRAY_TASK":
            monkeypatch.setenv(name, value)
            continue
        task, _, array = value.partition(" of ")
        bounds, _, every = array.partition(":")
        first, *_, last = bounds.replace("-", ",").split(",")
        count = len(range(int(first), int(last) + 1, int(every or 1))) if "-" in array else 3
        values = {"ID": task, "MIN": first, "MAX": last, "STEP": every or "1", "COUNT": count}
        for part, number in values.items():
            monkeypatch.setenv(f"{name}_{part}", str(number))
    if isinstance(expected, tuple):
        assert parse_part(text) == expected
        return
    with pytest.raises(ValueError, match=expected):
        parse_part(text)
