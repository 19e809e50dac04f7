"""A replayed batch is the one that pretraining sees."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from instancefolders import write_instance_folder

from tokkit.cli import cli
from tokkit.engine.json_files import write_json
from tokkit.errors import TokkitError, UsageError
from tokkit.inspection.replay import choose_phase, replay
from tokkit.pretraining.data.instance_sources import Sources, open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.run_plan import RunPlan, describe_run
from tokkit.pretraining.training.run_record import RUN
from tokkit.shards.instances import Instances

MASKS: dict[str, Any] = {"mask_unit": "span", "mask_draw": "word", "masked_lm_prob": 0.2, "seed": 7}


def show(sources: Sources, instances: Instances) -> list[list[str]]:
    """The labels of each instance of a batch, as they are shown."""
    return [
        [
            sources.tokenizer.decode([label]).removeprefix("##")
            for label in instances.predictions.labels[start:stop].tolist()
        ]
        for start, stop in zip(
            instances.predictions.offsets[:-1], instances.predictions.offsets[1:], strict=True
        )
    ]


def labels_of(row: str) -> list[str]:
    return re.findall(r"\[[^\[\]\s]+→([^\[\]\s]+)\]", row)


@pytest.fixture(scope="module")
def run(work: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run: Path = tmp_path_factory.mktemp("replay") / "run"
    pretrain(
        PretrainConfig(
            instances=(work / "instances", work / "instances"),
            weights=(0.75, 0.25),
            output=run,
            preset="tiny",
            max_steps=1,
            batch_size=8,
            device="cpu",
            threads=1,
            **MASKS,
        )
    )
    return run


def test_a_run_is_replayed_by_its_own_options(run: Path) -> None:
    config, sizes = choose_phase(run)
    assert (config.weights, config.batch_size, config.mask_unit) == ((0.75, 0.25), 8, "span")
    sources = open_sources(config)
    loader = Loader(sources, config, sizes)
    facts, rows = replay(run, epoch=3, step=12)
    step = -(-3 * loader.num_instances // 8) + 12
    assert facts["step"] == step
    assert len(rows) == 8
    assert [*map(labels_of, rows)] == show(sources, loader.training_instances(step))


def test_instances_are_replayed_by_the_given_options(work: Path) -> None:
    config = LoaderConfig(instances=(work / "instances",), batch_size=4, **MASKS)
    sources = open_sources(config)
    _, rows = replay(work / "instances", step=5, batch_size=4, **MASKS)
    batch = Loader(sources, config).training_instances(5)
    assert [*map(labels_of, rows)] == show(sources, batch)
    assert rows != replay(work / "instances", step=6, batch_size=4, **MASKS)[1]


def test_static_masks_are_replayed(work: Path) -> None:
    _, rows = replay(work / "static", rows=2, batch_size=4)
    assert len(rows) == 2
    assert all(map(labels_of, rows))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["inspect", *arguments])


def test_the_command_shows_the_batch(work: Path, run: Path) -> None:
    result = invoke(str(run), "--replay", "--epoch", "1", "--step", "2")
    assert result.exit_code == 0
    assert result.stdout.count("document ") == 8
    form = json.loads(
        invoke(str(work / "instances"), "--replay", "--batch-size", "4", "--json").stdout
    )
    assert (form["kind"], form["batch_size"], form["step"]) == ("batch", 4, 0)


def test_replay_refuses_options_without_effect(work: Path, run: Path) -> None:
    for arguments, message in (
        ([str(work / "instances"), "--seed", "3"], "--seed requires --replay"),
        ([str(work / "instances"), "--step", "3"], "--step requires --replay"),
        ([str(run), "--replay", "--seed", "3"], "a run has its own options; leave out --seed"),
        ([str(run), "--replay", "--shard", "x"], "--shard has no effect with --replay"),
    ):
        result = invoke(*arguments)
        assert isinstance(result.exception, UsageError)
        assert message in str(result.exception)


def test_instances_that_have_changed_are_refused(run: Path) -> None:
    path = run / "run.json"
    noted = path.read_text()
    form = json.loads(noted)
    form["instances_keys"][1] = "another"
    path.write_text(json.dumps(form))
    with pytest.raises(TokkitError, match="has changed since"):
        replay(run)
    path.write_text(noted)


def test_a_phase_is_replayed_from_the_folder_of_its_length(tmp_path: Path) -> None:
    """Folders may stand in any order; steps count from the first of the phase."""
    long, short = (
        write_instance_folder(tmp_path / f"{length}", max_seq_length=length, seed=length)
        for length in (64, 16)
    )
    run = tmp_path / "run"
    run.mkdir()
    config = PretrainConfig(
        instances=(long, short), output=run, phases=((16, 0.9), (64, 0.1)), batch_size=8
    )
    plan = RunPlan.from_config(config)
    write_json(run / RUN, describe_run(plan, model={}, num_parameters=1, device="cpu"))
    for number, folder in enumerate((short, long)):
        facts, rows = replay(run, phase=number, step=3)
        expected = replay(folder, step=3, batch_size=8)
        assert (facts["instances"], rows) == (str(folder), expected[1])
    for phase in (None, 2):
        with pytest.raises(UsageError, match="has 2 phases; choose one with --phase, from 0"):
            replay(run, phase=phase)
    with pytest.raises(UsageError, match="--phase requires a run"):
        replay(short, phase=0)
