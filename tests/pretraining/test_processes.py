"""Runs of two processes by the real command: they are the runs of one, and either goes on for the other."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import forkserver
import psutil
import pytest
from instancefolders import write_instance_folder
from realcommands import (
    end_command,
    pretrain_arguments,
    start_command,
    timeless_lines,
    trained_steps,
    wait_until,
)

from tokkit.errors import Interrupted
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training import device
from tokkit.pretraining.training.launch import launch
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.pretraining.training.run_record import list_checkpoints

NUM_STEPS = 60
OPTIONS: dict[str, Any] = {
    "preset": "tiny",
    "max_steps": NUM_STEPS,
    "batch_size": 8,
    "learning_rate": 5e-4,
    "dropout": 0.1,
    "checkpoint_every": 20,
    "eval_every": 20,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A run of one process that nothing disturbed."""
    folder = tmp_path_factory.mktemp("processes")
    instances = write_instance_folder(folder / "instances", max_seq_length=16)
    config = PretrainConfig(instances=(instances,), output=folder / "unbroken", **OPTIONS)
    pretrain(config)
    return config


def assert_same_run(folder: Path, other: Path, tolerance: float = 1e-5) -> None:
    """The same lines: of the same batches, with the same losses but for the order of sums."""
    lines, others = timeless_lines(folder), timeless_lines(other)
    assert [(line["kind"], line["step"]) for line in lines] == [
        (line["kind"], line["step"]) for line in others
    ]
    for line, expected in zip(lines, others, strict=True):
        assert line.pop("kind") == expected.pop("kind")
        assert line.keys() == expected.keys()
        assert line == pytest.approx(expected, rel=tolerance, abs=tolerance)


def test_two_processes_are_stopped_and_one_resumes(
    unbroken: PretrainConfig, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    process = start_command(
        pretrain_arguments(unbroken.instances, output, nproc_per_node=2, **OPTIONS)
    )
    wait_until(lambda: trained_steps(output) >= 10)  # of 60, which is early enough
    process.send_signal(signal.SIGTERM)
    status, printed, errors = end_command(process)
    (newest,) = list_checkpoints(output / "checkpoints")[-1:]
    step = int(newest.name.removeprefix("step-"))
    assert status == 143
    assert not printed
    assert errors[-1] == (
        f"tokkit: {output}: stopped by SIGTERM after step {step}; "
        f"run the same command again to resume"
    )
    assert [line for line in errors[:-1] if ", held out: " not in line] == []
    assert 10 <= step < NUM_STEPS
    pretrain(PretrainConfig(instances=unbroken.instances, output=output, **OPTIONS))
    assert_same_run(output, unbroken.output)


def test_one_process_is_stopped_two_resume_and_torchrun_goes_on(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(instances=unbroken.instances, output=tmp_path / "run", **OPTIONS)
    steps = 0

    def stop(*arguments: Any) -> None:
        nonlocal steps
        update_weights(*arguments)
        steps += 1
        if steps == 15:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("tokkit.pretraining.training.loop.update_weights", stop)
    with pytest.raises(Interrupted, match="after step 15"):
        pretrain(config)

    # A rank that dies ends all, with one line.
    arguments = pretrain_arguments(config.instances, config.output, **OPTIONS)
    process = start_command([*arguments, "--nproc-per-node", "2", "--fsdp"])
    wait_until(lambda: trained_steps(config.output) >= 20)
    ranks = [
        rank
        for rank in psutil.Process(process.pid).children()
        if forkserver.is_spawned(rank.name(), rank.cmdline())
    ]
    assert len(ranks) == 2
    ranks[1].kill()
    status, printed, errors = end_command(process)
    assert (status, printed) == (1, [])
    assert errors[-1].startswith("tokkit: rank 1: the process was killed by SIGKILL; it may")
    assert errors[0].endswith("resuming from step 15")
    assert [line for line in errors[1:-1] if ", held out: " not in line] == []

    # torchrun goes on. What it says itself is not ours.
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", "-m"]
    process = start_command(["tokkit", *arguments], torchrun)
    status, printed, errors = end_command(process)
    assert status == 0
    assert printed[0] == f"{config.output}: tiny"
    assert len(printed) == len(set(printed))
    ours = [line for line in errors if line.startswith("tokkit: ")]
    assert "resuming from step" in ours[0]
    assert len(ours) == len(set(ours))
    assert_same_run(config.output, unbroken.output)


def pretrain_overflowing(config: PretrainConfig) -> None:
    """Train with a scale under which the first gradients overflow; in each process."""
    device.INITIAL_SCALE = 2.0**24
    pretrain(config)


def test_two_processes_in_fp16_skip_the_steps_of_one(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their losses are multiplied by two, and yet the same gradients overflow."""
    options = {**OPTIONS, "max_steps": 14, "eval_every": 14, "precision": "fp16"}
    one = PretrainConfig(instances=unbroken.instances, output=tmp_path / "one", **options)
    two = replace(one, output=tmp_path / "two", nproc_per_node=2)
    monkeypatch.setattr(device, "INITIAL_SCALE", device.INITIAL_SCALE)  # is restored
    pretrain_overflowing(one)
    launch(pretrain_overflowing, two)
    assert 3 <= timeless_lines(two.output)[-2]["skipped_steps"] < 14
    assert_same_run(two.output, one.output, 1e-3)  # products are rounded to 11 bits
