"""Runs in phases, by the clock, and in micro-batches: as a user starts, stops and kills them."""

import itertools
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forkserver
import pytest
from instancefolders import write_instance_folder
from realcommands import outcome, pretrain_arguments, timeless_lines
from smallpresets import SHRINK_PRESETS

from tokkit.errors import Interrupted
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.pretraining.training.run_record import read_metrics

pytestmark = pytest.mark.usefixtures("small_presets")

OPTIONS: dict[str, Any] = {
    "preset": "tiny",
    "batch_size": 8,
    "learning_rate": 1e-3,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Instances of up to 32 tokens, and of up to 16: a run begins with the latter."""
    folder = tmp_path_factory.mktemp("runs")
    return (
        write_instance_folder(folder / "long", num_training=45, max_seq_length=32),
        write_instance_folder(folder / "short", num_training=45, max_seq_length=16, seed=2),
    )


# Runs the command, and kills it at random moments until it ends by itself. The processes are forked
# rather than started, since importing torch and loading kernels takes longer than all else. A step
# takes at least 40 ms, so that the first two kills, within 0.8 s, come before the last of 30 steps.
KILLED = (
    SHRINK_PRESETS
    + """
import os, random, signal, sys, time
from tokkit import InstanceLoader
from tokkit.cli import main
from tokkit.pretraining.training import loop, optimizers

def update_slowly(*arguments):
    time.sleep(0.04)
    optimizers.update_weights(*arguments)

loop.update_weights = update_slowly

for layout in ("padded", "ragged"):
    InstanceLoader(sys.argv[2], batch_size=1, layout=layout).batch(0)  # loads the kernels

arguments, generator, num_killed = sys.argv[1:], random.Random(), 0
sys.argv = ["tokkit", *arguments]
for patience in range(1, 100):
    process = os.fork()
    if process == 0:
        try:
            main()
        except SystemExit as end:
            os._exit(end.code)
        finally:
            os._exit(70)
    time.sleep(generator.uniform(0.1, 0.1 + 0.2 * patience))
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    if not os.WIFSIGNALED(status):
        break
    num_killed += 1
print(os.waitstatus_to_exitcode(status), num_killed)
"""
)


def test_a_command_killed_at_any_moment_ends_with_the_same_weights(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    options = OPTIONS | {
        "max_steps": 30,
        "optimizer": "lamb",
        "checkpoint_every": 3,
        "eval_every": 5,
    }
    unbroken = PretrainConfig(
        instances=folders, output=tmp_path / "unbroken", phases=((16, 0.5), (32, 0.5)), **options
    )
    pretrain(unbroken)
    output = tmp_path / "killed"
    arguments = pretrain_arguments(folders, output, phases="16:0.5,32:0.5", **options)
    ended = forkserver.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, *arguments],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    status, num_killed = ended.stdout.split()[-2:]
    assert (status, int(num_killed) > 1) == ("0", True), ended.stderr
    assert outcome(output) == outcome(unbroken.output)
    lines = [line for line in timeless_lines(output) if line["kind"] == "train"]
    assert [(line["step"], line["phase"]) for line in lines] == [(10, 0), (20, 1), (30, 1)]
    # Of the second line, half the steps were of either phase.
    tokens = [0, *(line["tokens"] for line in lines)]
    per_step = [(after - before) / 10 for before, after in itertools.pairwise(tokens)]
    assert per_step[0] <= 8 * 16
    assert per_step[0] < per_step[1] < per_step[2]


def test_a_run_by_the_clock_ends_when_its_time_is_over_though_it_was_stopped(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(
        instances=folders,
        output=tmp_path / "run",
        phases=((16, 0.5), (32, 0.5)),
        max_time=2.5,
        eval_every=1000,
        **OPTIONS,
    )
    seconds, num_steps = 1000.0, 0

    def step(*arguments: Any) -> None:
        nonlocal seconds, num_steps
        update_weights(*arguments)
        seconds, num_steps = seconds + 0.0625, num_steps + 1
        if num_steps == 12:
            os.kill(os.getpid(), signal.SIGTERM)

    # The machine's own clock would give another number of steps at every run.
    clock = SimpleNamespace(monotonic=lambda: seconds, perf_counter=time.perf_counter)
    monkeypatch.setattr("tokkit.pretraining.training.loop.time", clock)
    monkeypatch.setattr("tokkit.pretraining.training.loop.update_weights", step)
    with pytest.raises(Interrupted):
        pretrain(config)
    assert num_steps == 12
    seconds += 3600.0  # while the run is stopped
    pretrain(config)
    lines = [x for x in read_metrics(config.output / "metrics.jsonl") if x["kind"] == "train"]
    assert num_steps == 40
    assert [(line["step"], line["phase"]) for line in lines] == [(10, 0), (20, 0), (30, 1), (40, 1)]
    assert [line["elapsed"] for line in lines] == [0.0625 * line["step"] for line in lines]
    rates = [line["learning_rate"] for line in lines]
    assert rates[-1] < 0.05 * config.learning_rate < max(rates) <= config.learning_rate


def test_micro_batches_of_any_size_give_the_same_losses(
    folders: tuple[Path, Path], tmp_path: Path
) -> None:
    whole = PretrainConfig(
        instances=folders[:1], output=tmp_path / "whole", max_steps=10, dropout=0.0, **OPTIONS
    )
    parts = replace(whole, output=tmp_path / "parts", micro_batch_tokens=50)
    for config in (whole, parts):
        pretrain(config)
    lines, others = timeless_lines(whole.output), timeless_lines(parts.output)
    assert len(lines) == len(others) == 3
    for line, other in zip(lines, others, strict=True):
        assert line.pop("kind") == other.pop("kind")
        assert line == pytest.approx(other, rel=1e-5, abs=1e-5)
