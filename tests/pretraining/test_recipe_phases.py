"""Phases of a recipe: each has instances, weights, batches, a rate and masks of its own."""

import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from instancefolders import write_instance_folder
from realcommands import outcome

from tokkit.cli.command_options import read_table
from tokkit.cli.pretrain import pretrain as command
from tokkit.errors import Interrupted, TokkitError, UsageError
from tokkit.inspection.replay import replay
from tokkit.pretraining.data.instance_sources import divide_phases, open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import Phase
from tokkit.pretraining.pretrain import estimate_run, pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.pretraining.training.schedule import Schedule

pytestmark = pytest.mark.usefixtures("small_presets")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    work = tmp_path_factory.mktemp("phases")
    short = write_instance_folder(work / "short", max_seq_length=16, num_training=40)
    return short, write_instance_folder(work / "long", max_seq_length=32, seed=4, num_training=50)


def make_config(folders: tuple[Path, Path], output: Path, **options: Any) -> PretrainConfig:
    """Eight steps: four of 4 instances, two of 4 from both folders, two of 6 from the long one."""
    short, long = folders
    phases = (
        Phase(share=0.5, masked_lm_prob=0.4),
        Phase(share=0.25, instances=(long, short), weights=(0.75, 0.25), learning_rate=5e-4),
        Phase(share=0.25, instances=(long,), batch_size=6, masked_lm_prob=0.05),
    )
    return PretrainConfig(
        **{
            "instances": (short,),
            "output": output,
            "phases": phases,
            "preset": "tiny",
            "batch_size": 4,
            "max_steps": 8,
            "warmup_steps": 0,
            "learning_rate": 1e-3,
            "schedule": "wsd",
            "decay_steps": 1,
            "checkpoint_every": 3,
            "eval_every": 4,
            "device": "cpu",
            "threads": 1,
            **options,
        }
    )


def test_each_phase_has_its_own_batches_which_are_replayed_and_resumed_to_the_bit(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(folders, tmp_path / "whole")
    manifest = pretrain(config)
    assert manifest.accounts["figures"]["instances"] == 6 * 4 + 2 * 6
    stopped, taken = replace(config, output=tmp_path / "stopped"), 0

    def stop(*arguments: Any) -> None:
        nonlocal taken
        update_weights(*arguments)
        taken += 1
        if taken == 5:  # in the middle of the second phase
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("tokkit.pretraining.training.loop.update_weights", stop)
        with pytest.raises(Interrupted):
            pretrain(stopped)
    pretrain(stopped)
    assert outcome(stopped.output) == outcome(config.output)
    with pytest.raises(TokkitError, match="--phases was"):
        pretrain(replace(stopped, phases=(*config.phases[:1], Phase(share=0.5))))

    parts = divide_phases(config, open_sources(config))
    for number, (part, own) in enumerate(parts):
        facts, rows = replay(config.output, phase=number, step=1)
        sizes = Schedule.from_config(config).batch_sizes(number)
        drawn = Loader(part, own, sizes).training_instances(1)
        assert (facts["tokens"], facts["masked"]) == (
            len(drawn.input_ids),
            len(drawn.predictions.labels),
        )
        assert facts["batch_size"] == len(rows) == (6 if number == 2 else 4)
    shares = [
        len(drawn.predictions.labels) / len(drawn.input_ids)
        for part, own in parts
        for drawn in [Loader(part, replace(own, batch_size=40)).training_instances(0)]
    ]
    assert shares == pytest.approx([0.4, 0.15, 0.05], abs=0.03)


def test_the_rate_of_each_phase_is_scaled_by_the_schedule(folders: tuple[Path, Path]) -> None:
    run = Schedule.from_config(make_config(folders, Path(), decay_steps=2))
    starts = [run.phase_starts(step, 0.0, [0]) for step in range(8)]
    rates = [run.rate(step, 0.0, len(starts[step]) - 1) for step in range(8)]
    assert rates == pytest.approx([1e-3] * 4 + [5e-4] * 2 + [1e-3, 1e-3 * (1 - 0.5**0.5)])


def test_evaluation_masks_as_many_whatever_training_masks(folders: tuple[Path, Path]) -> None:
    config = make_config(folders, Path())
    config = replace(config, phases=(Phase(share=0.5, masked_lm_prob=0.4), Phase(share=0.5)))
    first, second = (
        next(Loader(part, own).held_out_instances(16))
        for part, own in divide_phases(config, open_sources(config))
    )
    assert np.array_equal(first.input_ids, second.input_ids)
    assert np.array_equal(first.predictions.labels, second.predictions.labels)


def test_a_run_of_phases_is_estimated(folders: tuple[Path, Path], tmp_path: Path) -> None:
    phases = estimate_run(make_config(folders, tmp_path / "run"))["phases"]
    assert [phase["steps"] for phase in phases] == [4, 2, 2]
    assert phases[2]["tokens_per_step"] > 1.4 * phases[1]["tokens_per_step"]


def test_tables_of_a_recipe_are_phases() -> None:
    tables = [
        {"share": 0.7, "masked-lm-prob": 0.3},
        {"share": 0.3, "instances": ["a", "b"], "weights": [0.8, 0.2], "batch-size": 64},
    ]
    expected = (
        Phase(share=0.7, masked_lm_prob=0.3),
        Phase(share=0.3, instances=(Path("a"), Path("b")), weights=(0.8, 0.2), batch_size=64),
    )
    assert read_table(command, {"phases": tables}, "recipe.toml") == {"phases": expected}


@pytest.mark.parametrize(
    ("tables", "fault"),
    [
        ([{"share": 1, "rate": 3}], "phase 0: unknown key 'rate'; known keys are share, instances"),
        ([{"share": "x"}], "phase 0: Expected `float`, got `str`"),
        ([{"masked-lm-prob": 0.3}], "phase 0: Object missing required field `share`"),
        ([{"share": 1}, [128, 0.5]], "phase 1: is not a table, as all must be if one is"),
    ],
)
def test_tables_with_faults_are_refused(tables: list[Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        read_table(command, {"phases": tables}, "recipe.toml")


@pytest.mark.parametrize(
    ("phases", "fault"),
    [
        ((Phase(share=0.5), Phase(share=0.4)), "the shares of --phases must be above 0 and add up"),
        ((Phase(share=0.5), (128, 0.5)), "--phases are either all lengths or all tables"),
        ((Phase(share=1, masked_lm_prob=1.5),), "phase 0: masked-lm-prob must be above 0 and at"),
        ((Phase(share=1, batch_size=0),), "phase 0: batch-size must be above 0"),
        (
            (Phase(share=1, instances=(Path("a"), Path("b"))),),
            "phase 0: weights must be .* 2 folders",
        ),
        ((Phase(share=1, weights=(1.0,)),), "phase 0: weights must be .* 1 folder"),
    ],
)
def test_phases_that_do_not_add_up_are_refused(phases: tuple[Any, ...], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        PretrainConfig(instances=(Path("instances"),), output=Path("run"), phases=phases)
