"""Runs that go on while nothing can be saved, and what the same command makes of them."""

import os
import resource
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from instancefolders import write_instance_folder

from tokkit.engine.files import hash_file
from tokkit.errors import Interrupted, TokkitError
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.pretraining.training.run_record import list_checkpoints, read_metrics

pytestmark = pytest.mark.usefixtures("small_presets")


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> PretrainConfig:
    """A run of 20 steps that nothing disturbed."""
    folder = tmp_path_factory.mktemp("full_disk")
    config = PretrainConfig(
        instances=(write_instance_folder(folder / "instances"),),
        output=folder / "unbroken",
        preset="tiny",
        max_steps=20,
        batch_size=4,
        checkpoint_every=3,
        eval_every=10,
        device="cpu",
        threads=1,
    )
    pretrain(config)
    return config


@pytest.fixture
def disturbed(
    unbroken: PretrainConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Iterator[PretrainConfig]:
    """The same run, not begun: from step 8 on no file has room for a model.

    With a parameter, that signal comes at step 10.
    """
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    num_steps = 0

    def fill_disk(*arguments: Any) -> None:
        nonlocal num_steps
        update_weights(*arguments)
        num_steps += 1
        if num_steps == 8:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        if num_steps == 10 and hasattr(request, "param"):
            os.kill(os.getpid(), request.param)

    monkeypatch.setattr("tokkit.pretraining.training.loop.update_weights", fill_disk)
    yield replace(unbroken, output=tmp_path / "run")
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def newest(config: PretrainConfig) -> str:
    return list_checkpoints(config.output / "checkpoints")[-1].name


def assert_same_outcome(config: PretrainConfig, unbroken: PretrainConfig) -> None:
    """The disk has room again, and the same command ends as if it had always had."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    pretrain(config)
    outcomes = []
    for each in (config, unbroken):
        lines = read_metrics(each.output / "metrics.jsonl")
        by_clock = {"tokens_per_second", "data_wait", "elapsed"}
        lines = [{name: line[name] for name in line.keys() - by_clock} for line in lines]
        outcomes.append((hash_file(each.output / "export" / "model.safetensors"), lines))
    assert outcomes[0] == outcomes[1]


def test_only_the_end_needs_room(
    disturbed: PretrainConfig, unbroken: PretrainConfig, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TokkitError, match=r"export: larger than .* \(ulimit -f\)") as caught:
        pretrain(disturbed)
    assert caught.value.exit_status == 1
    assert not (disturbed.output / "manifest.json").exists()
    assert newest(disturbed) in {"step-00000003", "step-00000006"}  # which was under way at step 8
    assert read_metrics(disturbed.output / "metrics.jsonl")[-1]["step"] == 20
    for step in (9, 12, 15, 18, 20):
        assert f"step-{step:08d}: not written (file too large); training continues" in caplog.text
    assert_same_outcome(disturbed, unbroken)


@pytest.mark.parametrize("disturbed", [signal.SIGTERM], indirect=True)
def test_a_signal_does_not_claim_to_have_saved(
    disturbed: PretrainConfig, unbroken: PretrainConfig
) -> None:
    with pytest.raises(Interrupted, match=r"step 10, which is not saved \(file too") as caught:
        pretrain(disturbed)
    assert caught.value.exit_status == 143
    last = disturbed.output / "checkpoints" / newest(disturbed)
    assert f"the last checkpoint is {last}; run the same command again" in str(caught.value)
    assert_same_outcome(disturbed, unbroken)
