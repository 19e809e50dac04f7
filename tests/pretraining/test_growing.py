"""Runs that go on: with more steps, in another folder, on other instances, or to a decay."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
from instancefolders import write_instance_folder
from realcommands import outcome, timeless_lines

from tokkit.engine.files import hash_file
from tokkit.engine.json_files import read_json, write_json
from tokkit.errors import Interrupted, TokkitError, UsageError
from tokkit.inspection.replay import replay
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.pretrain import estimate_run, pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.optimizers import update_weights
from tokkit.pretraining.training.run_record import STATE, RunRecord, list_checkpoints
from tokkit.shards.instances import Instances

pytestmark = pytest.mark.usefixtures("small_presets")

OPTIONS: dict[str, Any] = {
    "preset": "tiny",
    "batch_size": 4,
    "max_steps": 12,
    "learning_rate": 1e-3,
    "schedule": "wsd",
    "warmup_steps": 2,
    "decay_steps": 4,
    "checkpoint_every": 6,
    "keep_checkpoints": 3,
    "eval_every": 6,
    "device": "cpu",
    "threads": 1,
}
UNTOLD = {"preset", "learning_rate", "schedule", "warmup_steps", "max_steps"}  # of a decay
FOLLOWING = {name: value for name, value in OPTIONS.items() if name not in UNTOLD}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("growing")


@pytest.fixture(scope="module")
def instances(folder: Path) -> Path:
    return write_instance_folder(folder / "instances", num_training=19, max_seq_length=16)


@pytest.fixture(scope="module")
def unbroken(folder: Path, instances: Path) -> PretrainConfig:
    """Twelve steps, the last four of which are the decay: checkpoints at 6, 8 and 12."""
    config = PretrainConfig(instances=(instances,), output=folder / "unbroken", **OPTIONS)
    pretrain(config)
    return config


def stop_after(monkeypatch: pytest.MonkeyPatch, config: PretrainConfig, steps: int) -> None:
    """Train for some steps, until a signal."""
    taken = 0

    def stop(*arguments: Any) -> None:
        nonlocal taken
        update_weights(*arguments)
        taken += 1
        if taken == steps:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("tokkit.pretraining.training.loop.update_weights", stop)
        with pytest.raises(Interrupted):
            pretrain(config)


def checkpoint(config: PretrainConfig, step: int) -> Path:
    return config.output / "checkpoints" / f"step-{step:08d}"


def weights(config: PretrainConfig) -> str:
    return hash_file(config.output / "export" / "model.safetensors")


def test_a_run_of_wsd_grows_to_the_run_that_it_would_have_been(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it is stopped on the way, and whether or not its first decay is done."""
    config = replace(unbroken, output=tmp_path / "run", max_steps=9)
    pretrain(config)
    assert [path.name[-2:] for path in list_checkpoints(tmp_path / "run" / "checkpoints")] == [
        *("05", "06", "09")
    ]
    grown = replace(config, max_steps=12)
    stop_after(monkeypatch, grown, 2)
    assert not checkpoint(grown, 9).exists()
    manifest = pretrain(grown)
    assert outcome(grown.output)[0] == outcome(unbroken.output)[0]
    assert manifest.accounts["figures"]["instances"] == 48
    lines = [(line["step"], line["loss"]) for line in timeless_lines(grown.output)]
    assert lines[-1] == [(x["step"], x["loss"]) for x in timeless_lines(unbroken.output)][-1]
    assert pretrain(grown) == manifest
    with pytest.raises(TokkitError, match=r"12 steps are done, more than --max-steps 9; pass"):
        pretrain(config)


def test_a_linear_run_goes_on_with_its_moments_and_warm_up(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is stopped, it comes to the same weights."""
    options: dict[str, Any] = {"schedule": "linear", "warmup_steps": None, "decay_steps": None}
    weights_of = set()
    for name, stopped in (("whole", None), ("stopped", 7)):
        config = replace(unbroken, output=tmp_path / name, max_steps=10, **options)
        pretrain(config)
        grown = replace(config, max_steps=20)
        if stopped is not None:
            stop_after(monkeypatch, grown, 4)
        pretrain(grown)
        weights_of.add(weights(grown))
        rates = {
            line["step"]: line["learning_rate"]
            for line in timeless_lines(grown.output)
            if line["kind"] == "train"
        }
        # The warm-up of one step is over; the last step of 20 has a nineteenth of the rate.
        assert rates == {10: pytest.approx(1e-3 / 9), 20: pytest.approx(1e-3 / 19)}
    assert len(weights_of) == 1


def test_a_run_goes_on_in_another_folder_as_if_in_its_own(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**FOLLOWING, "max_steps": 12, "schedule": "wsd", "learning_rate": 1e-3}
    config = PretrainConfig(
        instances=unbroken.instances,
        output=tmp_path / "run",
        continue_from=checkpoint(unbroken, 6),
        **options,
    )
    stop_after(monkeypatch, config, 3)
    # It needs the run that it goes on from no more.
    hidden = unbroken.output.rename(unbroken.output.with_name("hidden"))
    try:
        manifest = pretrain(config)
    finally:
        hidden.rename(unbroken.output)
    assert weights(config) == weights(unbroken)
    assert manifest.accounts["figures"]["instances"] == 48
    # Step 9 of the one is the fourth of the other.
    _, theirs = replay(unbroken.output, step=9)
    facts, ours = replay(config.output, step=3)
    assert ours == theirs
    assert facts["step"] == 3


def test_a_decay_branches_off_any_checkpoint(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the step at which the run itself decays, it is the run's own; it is resumed to the bit."""
    branches = [
        PretrainConfig(
            instances=unbroken.instances,
            output=tmp_path / str(step),
            decay_from=checkpoint(unbroken, step),
            **FOLLOWING,
        )
        for step in (6, 8)
    ]
    assert estimate_run(branches[0])["steps"] == 4
    stop_after(monkeypatch, branches[0], 1)
    manifests = [pretrain(branch) for branch in branches]
    assert weights(branches[1]) == weights(unbroken)
    assert weights(branches[0]) != weights(unbroken)
    assert [x.accounts["figures"]["steps"] for x in manifests] == [10, 12]
    rates = [line["learning_rate"] for line in timeless_lines(branches[0].output)[1:-1]]
    assert rates == pytest.approx([1e-3 * (1 - 0.75**0.5)])
    assert pretrain(branches[1]) == manifests[1]
    relative = Path(os.path.relpath(checkpoint(unbroken, 8)))
    assert pretrain(replace(branches[1], decay_from=relative)) == manifests[1]
    with pytest.raises(TokkitError, match=r"--decay-steps was 4, not 5"):
        pretrain(replace(branches[1], decay_steps=5))


def test_a_run_goes_on_on_other_instances_from_their_first(
    unbroken: PretrainConfig, tmp_path: Path
) -> None:
    other = write_instance_folder(tmp_path / "other", seed=5, num_training=30, max_seq_length=16)
    config = PretrainConfig(
        instances=(other, *unbroken.instances),
        weights=(0.75, 0.25),
        output=tmp_path / "run",
        decay_from=unbroken.output,  # its newest checkpoint without decay: step 8
        **{**FOLLOWING, "batch_size": 8, "dropout": 0.0},
    )
    stated = pretrain(config).accounts["figures"]
    assert (stated["steps"], stated["instances"]) == (12, 32 + 4 * 8)
    start = PretrainConfig(instances=config.instances, weights=config.weights, output=Path())
    first = Loader(open_sources(start), replace(start, batch_size=8)).training_instances(0)
    facts, _ = replay(config.output)
    assert facts["tokens"] == len(first.input_ids)


def test_a_modernbert_goes_on_with_longer_sequences(tmp_path: Path) -> None:
    """It has no vectors of positions, which other models have for as many as they began with."""
    folders = [
        write_instance_folder(
            tmp_path / str(length), max_seq_length=length, objective="mlm", labels=False
        )
        for length in (128, 600)
    ]
    shared: dict[str, Any] = {"batch_size": 2, "device": "cpu", "threads": 1}
    short = PretrainConfig(
        instances=(folders[0],),
        output=tmp_path / "short",
        architecture="modernbert",
        preset="17m",
        max_steps=1,
        **shared,
    )
    pretrain(short)
    long = PretrainConfig(
        instances=(folders[1],),
        output=tmp_path / "long",
        continue_from=short.output,
        max_steps=2,
        **shared,
    )
    assert pretrain(long).options["architecture"] == "modernbert"
    assert read_json(long.output / "run.json", RunRecord)["model"]["max_position_embeddings"] == 600


def test_batches_grow_in_stages_and_any_is_replayed(
    instances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS, "batch_size": ((2, 0.25), (4, 0.5), (6, 0.25)), "max_steps": 8}
    configs = [
        PretrainConfig(instances=(instances,), output=tmp_path / name, **options)
        for name in ("whole", "stopped")
    ]
    seen: list[int] = []
    training_instances = Loader.training_instances

    def note(loader: Loader, step: int) -> Instances:
        drawn = training_instances(loader, step)
        seen.append(len(drawn))
        return drawn

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "training_instances", note)
        manifest = pretrain(configs[0])
    assert seen[:8] == [2, 2, 4, 4, 4, 4, 6, 6]
    assert manifest.accounts["figures"]["instances"] == 32
    stop_after(monkeypatch, configs[1], 3)
    pretrain(configs[1])
    assert outcome(configs[1].output) == outcome(configs[0].output)
    # The stages stay where they are when the run gets more steps.
    pretrain(replace(configs[1], max_steps=10))
    steps = [replay(configs[1].output, step=step) for step in range(10)]
    assert [facts["batch_size"] for facts, _ in steps] == [2, 2, 4, 4, 4, 4, 6, 6, 6, 6]
    whole = [row for step in range(4) for row in replay(instances, step=step, batch_size=4)[1]]
    assert [row for _, rows in steps[:6] for row in rows][:16] == whole
    # An epoch of 19 instances ends within the step at position 16.
    assert replay(configs[1].output, epoch=1)[0]["step"] == 6


@pytest.mark.parametrize("optimizer", ["stable-adamw", "muon"])
def test_each_optimizer_resumes_to_the_bit(
    instances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    configs = [
        PretrainConfig(
            instances=(instances,), output=tmp_path / name, optimizer=optimizer, **OPTIONS
        )
        for name in ("whole", "stopped")
    ]
    pretrain(configs[0])
    stop_after(monkeypatch, configs[1], 5)
    pretrain(configs[1])
    assert outcome(configs[1].output) == outcome(configs[0].output)


def test_what_does_not_fit_the_run_is_refused_before_anything_is_read(
    unbroken: PretrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def make(*folders: Path, **options: Any) -> PretrainConfig:
        taken = {"decay_from": checkpoint(unbroken, 6), **FOLLOWING, **options}
        return PretrainConfig(
            instances=folders or unbroken.instances, output=tmp_path / "run", **taken
        )

    monkeypatch.setattr("tokkit.pretraining.training.train_model.train", None)
    longer = write_instance_folder(tmp_path / "longer", max_seq_length=600)
    causal = write_instance_folder(tmp_path / "causal", max_seq_length=16, objective="clm")
    static = write_instance_folder(
        tmp_path / "special", special=("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]", "[A]")
    )
    nowhere = {"decay_from": None, "decay_steps": None}
    for config, fault in (
        (make(optimizer="lamb"), "with --optimizer adamw, whose moments lamb cannot use; pass"),
        (make(causal), "built with --objective clm, but the model of .* learns nsp; build"),
        (make(longer), "built with --max-seq-length 600, but the model of .* has 512 positions"),
        (make(static), "with another tokenizer than that of .*; encode its text"),
        (make(decay_from=tmp_path), "is neither a run folder nor a checkpoint of one; name run"),
        (make(decay_from=checkpoint(unbroken, 7)), "no such checkpoint; .* has step-00000006, "),
        (
            make(**nowhere, continue_from=unbroken.output, max_steps=12),
            "12 steps are done, and --max-steps is 12; it includes them, so pass more",
        ),
    ):
        with pytest.raises(TokkitError, match=fault) as caught:
            pretrain(config)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


HERE: dict[str, Any] = {"instances": (Path("instances"),), "output": Path("run")}


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"decay_steps": 0}, "--decay-steps must be at least 1"),
        ({"decay_steps": 5}, "--decay-steps has no effect without --schedule wsd or --decay-from"),
        ({"decay_from": Path("a")}, "--decay-from requires --decay-steps"),
        (
            {"decay_from": Path("a"), "decay_steps": 5, "learning_rate": 0.1},
            "--learning-rate has no effect with --decay-from, whose run decides it",
        ),
        ({"continue_from": Path("a"), "preset": "tiny"}, "--preset has no effect with --continue"),
        ({"continue_from": Path("a"), "decay_from": Path("b")}, "both say where the run begins"),
        ({"warmup_tokens": 9, "warmup_steps": 9}, "both say how long the warm-up is; leave one"),
        ({"batch_size": ((4, 0.5), (8, 0.0))}, "the shares of --batch-size must be above 0"),
        ({"batch_size": ((0, 0.5), (8, 0.5))}, "--batch-size must be at least 1"),
        ({"batch_size": ((4, 0.5), (8, 0.5)), "max_time": 60.0}, "--batch-size in stages counts"),
        ({"continue_from": Path("a"), "max_time": 60.0}, "--continue-from counts steps"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        PretrainConfig(**HERE, **options)


def test_the_rate_of_a_checkpoint_is_checked(
    unbroken: PretrainConfig, instances: Path, tmp_path: Path
) -> None:
    copytree(unbroken.output, tmp_path / "run")
    checkpoint = list_checkpoints(tmp_path / "run" / "checkpoints")[0]
    state = json.loads((checkpoint / STATE).read_text())
    state["state"]["learning_rate"] = {"name": []}
    write_json(checkpoint / STATE, state)
    config = PretrainConfig(
        instances=(instances,),
        output=tmp_path / "end",
        **FOLLOWING,
        decay_from=checkpoint,
    )
    with pytest.raises(TokkitError, match=r"state\.json: damaged .*float"):
        pretrain(config)
