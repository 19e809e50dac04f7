"""The command's ways that write nothing, or more than usual, and mistakes that cost nothing."""

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from instancefolders import write_instance_folder
from realcommands import outcome, pretrain_arguments
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tokkit.cli import cli
from tokkit.errors import Interrupted, TokkitError, UsageError
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.pretraining.training.run_record import read_metrics

pytestmark = pytest.mark.usefixtures("small_presets")

OPTIONS: dict[str, Any] = {
    "preset": "tiny",
    "batch_size": 8,
    "max_steps": 25,
    "learning_rate": 1e-3,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_instance_folder(tmp_path_factory.mktemp("command") / "instances")


def call(arguments: list[str]) -> Result:
    result = CliRunner().invoke(cli, arguments)
    if result.exception is not None:
        raise result.exception
    return result


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"max_steps": 25}, "25 steps"),
        ({"max_time": "1h"}, "time: 1 h, including"),
        ({"phases": "32:1.0"}, "25 steps"),
        ({"nproc_per_node": 2}, "peak memory per process: "),
        ({"nproc_per_node": 2, "fsdp": True}, "peak memory per process: "),
    ],
    ids=str,
)
def test_a_dry_run_prints_an_estimate_and_writes_nothing(
    instances: Path, tmp_path: Path, options: dict[str, Any], line: str
) -> None:
    defaults = {k: v for k, v in OPTIONS.items() if k != "max_steps" or "max_time" not in options}
    arguments = pretrain_arguments([instances], tmp_path / "run", **(defaults | options))
    assert line in call([*arguments, "--dry-run"]).stdout
    data = json.loads(call([*arguments, "--dry-run", "--json"]).stdout)
    assert data["phases"][0]["seconds_per_step"] > 0
    assert data["fits"]
    assert list(tmp_path.iterdir()) == []


def test_tensorboard_shows_what_was_logged_though_the_run_was_stopped(
    instances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    arguments = pretrain_arguments(
        [instances], output, tracker="tensorboard", eval_every=10, **OPTIONS
    )
    steps = 0

    def stop(*arguments: Any) -> None:
        nonlocal steps
        update_weights(*arguments)
        steps += 1
        if steps == 15:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("tokkit.pretraining.training.loop.update_weights", stop)
        with pytest.raises(Interrupted):
            call(arguments)
    printed = json.loads(call([*arguments, "--json"]).stdout)
    lines = read_metrics(output / "metrics.jsonl")
    assert printed["evaluation"] == lines[-1]
    for kind in ("train", "eval"):
        events = EventAccumulator(str(output / "tensorboard" / kind)).Reload()
        drawn = [(event.step, event.value) for event in events.Scalars("loss")]
        logged = [(line["step"], line["loss"]) for line in lines if line["kind"] == kind]
        assert drawn == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in logged]


def test_a_mistake_costs_no_run(instances: Path, tmp_path: Path) -> None:
    arguments = pretrain_arguments([instances], tmp_path / "run", **(OPTIONS | {"max_steps": 2}))
    with pytest.raises(TokkitError, match="but --phases has 64; build it again"):
        call([*arguments, "--phases", "64:1"])
    call(arguments)  # nothing has begun with phases
    before = outcome(tmp_path / "run")
    with pytest.raises(TokkitError, match="but --phases has 64; build it again"):
        call([*arguments, "--phases", "64:1", "--overwrite"])
    if not torch.cuda.is_available():
        with pytest.raises(TokkitError, match="--device cuda"):
            call([*arguments, "--device", "cuda", "--overwrite"])
    with pytest.raises(TokkitError, match="8 cannot be divided among 3 processes; choose a mult"):
        call([*arguments, "--nproc-per-node", "3", "--overwrite"])
    assert outcome(tmp_path / "run") == before
    assert call(arguments).exit_code == 0


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--eval-every", "1000"], "--eval-every has no effect, because no instances are held out"),
        (["--fsdp"], "--fsdp has no effect on a single process"),
        (["--share-layers"], "--share-layers has no effect on instances of clm"),
    ],
    ids=lambda value: value[0],
)
@pytest.mark.parametrize("dry_run", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_an_option_without_effect_is_refused(
    tmp_path: Path, option: list[str], said: str, dry_run: list[str]
) -> None:
    folder = write_instance_folder(
        tmp_path / "clm", objective="clm", labels=False, num_training=8, num_held_out=0
    )
    arguments = pretrain_arguments([folder], tmp_path / "run", **OPTIONS)
    with pytest.raises(UsageError, match=said) as refused:
        call([*arguments, *option, *dry_run])
    assert refused.value.exit_status == 2
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--phases", "32:1", "--phases was left out, not 32:1"),
        ("--optimizer", "lamb", "--optimizer was adamw, not lamb"),
        ("--share-layers", None, "--share-layers was off, not on"),
        ("--warmup-steps", "1", "--warmup-steps was left out, not 1"),
        ("--betas", "0.9,0.98", "--betas was 0.9,0.999, not 0.9,0.98"),
        ("--batch-size", "2:0.5,4", "--batch-size was [0-9]+, not 2:0.5,4:0.5"),
    ],
)
def test_a_changed_option_is_named_as_the_user_types_it(
    instances: Path, tmp_path_factory: pytest.TempPathFactory, option: str, value: str, said: str
) -> None:
    output = tmp_path_factory.getbasetemp() / "changed"
    arguments = pretrain_arguments([instances], output, **(OPTIONS | {"max_steps": 2}))
    call(arguments)  # once, then it is up to date
    with pytest.raises(TokkitError, match=rf"another run \({said}\)"):
        call([*arguments, option, *([value] if value else [])])
    free = (
        "--micro-batch-tokens 99 --keep-checkpoints 5 --tracker tensorboard --eval-every 7".split()
    )
    assert call([*arguments, *free]).exit_code == 0


def test_other_initial_weights_are_refused(instances: Path, tmp_path: Path) -> None:
    arguments = pretrain_arguments([instances], tmp_path / "run", **(OPTIONS | {"max_steps": 2}))
    call(arguments)
    export = str(tmp_path / "run" / "export")
    del arguments[arguments.index("--preset") : arguments.index("--preset") + 2]
    arguments[arguments.index("-o") + 1] = str(tmp_path / "second")
    call([*arguments, "--init-from", export])
    with pytest.raises(TokkitError, match=r"another run \(--init-from was different\)"):
        call(arguments)
    with pytest.raises(TokkitError, match="--preset has no effect with --init-from"):
        call([*arguments, "--init-from", export, "--preset", "tiny"])
