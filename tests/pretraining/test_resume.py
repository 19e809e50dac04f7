"""Runs that are killed or stopped, and what the same command makes of them."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import forkserver
import pytest
import torch
from instancefolders import write_instance_folder
from realcommands import outcome
from smallpresets import SHRINK_PRESETS

from tokkit.errors import Interrupted, TokkitError
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import OPTIMIZERS, PretrainConfig
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.pretraining.training.run_record import list_checkpoints, read_metrics

pytestmark = pytest.mark.usefixtures("small_presets")

# Runs pretrain, and kills itself when a function has been called so many times.
RUN = (
    SHRINK_PRESETS
    + """
import os, signal, sys
from importlib import import_module
from pathlib import Path
from tokkit.pretraining.pretrain_config import OPTIMIZERS, PretrainConfig
from tokkit.pretraining.pretrain import pretrain

calls = 0
module, name = import_module({module!r}), {name!r}
function = getattr(module, name)

def count(*arguments):
    global calls
    calls += 1
    result = function(*arguments)
    if calls == {number!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(module, name, count)
pretrain(PretrainConfig(instances=(Path(sys.argv[1]),), output=Path(sys.argv[2]), **{options!r}))
"""
)

OPTIONS: dict[str, Any] = {
    "preset": "tiny",
    "max_steps": 20,
    "batch_size": 8,
    "learning_rate": 1e-3,
    "checkpoint_every": 3,
    "eval_every": 5,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A run of 20 steps, three epochs and a half, that nothing disturbed."""
    folder = tmp_path_factory.mktemp("resume")
    instances = write_instance_folder(folder / "instances", num_training=45)
    config = PretrainConfig(instances=(instances,), output=folder / "unbroken", **OPTIONS)
    pretrain(config)
    return config


@pytest.mark.parametrize(
    ("module", "name", "number", "resumed"),
    [
        (
            "tokkit.pretraining.training.loop",
            "update_weights",
            8,
            {3, 6},
        ),  # 6 may be half on its way to the disk
        ("tokkit.pretraining.training.checkpoints", "write_tensors", 7, {9}),
    ],
    ids=["after step 8", "while step 12 is saved"],
)
def test_a_run_killed_in_the_middle_ends_with_the_same_weights(
    unbroken: PretrainConfig,
    tmp_path: Path,
    *,
    module: str,
    name: str,
    number: int,
    resumed: set[int],
) -> None:
    config = PretrainConfig(instances=unbroken.instances, output=tmp_path / "killed", **OPTIONS)
    script = RUN.format(module=module, name=name, number=number, options=OPTIONS)
    killed = forkserver.run([sys.executable, "-c", script, *config.instances, config.output])
    assert killed.returncode == -signal.SIGKILL
    assert not (config.output / "manifest.json").exists()
    newest = list_checkpoints(config.output / "checkpoints")[-1]
    assert int(newest.name.removeprefix("step-")) in resumed

    manifest = pretrain(config)
    assert outcome(config.output) == outcome(unbroken.output)
    assert manifest.key == pretrain(unbroken).key


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_saves_the_current_step(
    unbroken: PretrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    config = PretrainConfig(instances=unbroken.instances, output=tmp_path / "stopped", **OPTIONS)
    handler = signal.getsignal(number)
    steps = 0

    def interrupt(optimizer: torch.optim.AdamW, rate: float) -> None:
        nonlocal steps
        update_weights(optimizer, rate)
        steps += 1
        if steps == 10:
            os.kill(os.getpid(), number)

    monkeypatch.setattr("tokkit.pretraining.training.loop.update_weights", interrupt)
    with pytest.raises(Interrupted, match=f"stopped by {number.name} after step 10") as caught:
        pretrain(config)
    assert caught.value.exit_status == status
    assert signal.getsignal(number) is handler
    assert (config.output / "checkpoints" / "step-00000010").is_dir()

    pretrain(config)
    assert steps == 20
    assert outcome(config.output) == outcome(unbroken.output)


def test_an_option_changed_in_the_middle_is_refused(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(instances=unbroken.instances, output=tmp_path / "stopped", **OPTIONS)

    def interrupt(*_arguments: object, **_options: object) -> None:
        raise Interrupted("stopped", 130)

    monkeypatch.setattr(
        "tokkit.pretraining.training.checkpoint_writer.CheckpointWriter.save", interrupt
    )
    with pytest.raises(Interrupted):
        pretrain(config)
    changed = PretrainConfig(
        instances=config.instances, output=config.output, **{**OPTIONS, "batch_size": 9}
    )
    with pytest.raises(TokkitError, match="--batch-size was 8, not 9"):
        pretrain(changed)


def test_auto_is_the_same_run_as_the_precision_that_it_stands_for(
    unbroken: PretrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first, second = (
        replace(unbroken, output=tmp_path / "run", precision=name) for name in ("auto", "fp32")
    )

    rates = []

    def interrupt(optimizer: torch.optim.AdamW, rate: float) -> None:
        update_weights(optimizer, rate)
        rates.append(rate)
        if len(rates) == 10:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("tokkit.pretraining.training.loop.update_weights", interrupt)
    with pytest.raises(Interrupted):
        pretrain(first)
    manifest = pretrain(second)
    assert outcome(second.output) == outcome(unbroken.output)
    assert manifest.options["precision"] == "fp32"
    assert pretrain(first) == manifest
    with pytest.raises(TokkitError, match="--precision was fp32, not bf16"):
        pretrain(replace(first, precision="bf16"))


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_run_in_fp16_skips_steps_and_resumes_with_its_scale(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    """The first gradients overflow; the moments of AdamW are corrected by the updates, not the steps."""
    monkeypatch.setattr("tokkit.pretraining.training.device.INITIAL_SCALE", 2.0**24)
    fp16 = replace(unbroken, precision="fp16", optimizer=optimizer)
    whole = replace(fp16, output=tmp_path / "whole")
    pretrain(whole)
    last = read_metrics(whole.output / "metrics.jsonl")[-2]
    assert 3 <= last["skipped_steps"] < 14
    assert last["loss"] > 1
    # After the last skipped step, and once also before the first update.
    for step in (2, 17) if optimizer == "adamw" else (17,):
        stopped = replace(fp16, output=tmp_path / f"{step}")
        resume_at(stopped, step, monkeypatch)
        assert outcome(stopped.output) == outcome(whole.output)


def resume_at(config: PretrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a run after a step, and run it again."""
    steps = 0

    def interrupt(optimizer: torch.optim.AdamW, rate: float) -> None:
        nonlocal steps
        update_weights(optimizer, rate)
        steps += 1
        if steps == step:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("tokkit.pretraining.training.loop.update_weights", interrupt)
        with pytest.raises(Interrupted):
            pretrain(config)
    pretrain(config)
