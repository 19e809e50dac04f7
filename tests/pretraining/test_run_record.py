import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from instancefolders import write_instance_folder

from tokkit.engine.json_files import write_json
from tokkit.engine.manifest import Manifest
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.run_plan import RunPlan, describe_run
from tokkit.pretraining.training.run_record import RUN, RunRecord


@pytest.fixture
def config(tmp_path: Path) -> PretrainConfig:
    folder = write_instance_folder(tmp_path / "instances", num_training=7, num_held_out=0)
    (tmp_path / "run").mkdir()
    return PretrainConfig(instances=(folder,), output=tmp_path / "run", max_steps=7)


def describe(config: PretrainConfig) -> RunRecord:
    sources = tuple(Manifest.read(folder) for folder in config.instances)
    return describe_run(
        RunPlan(config, "fp32", sources, initial="fingerprint"),
        model={"hidden_size": 768},
        num_parameters=99,
        device="cpu, 1 thread",
        num_processes=2,
    )


def test_it_has_every_option_and_all_that_was_run_with(
    config: PretrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/tokkit", "pretrain", "my instances", "-o", "run"])
    facts = json.loads(json.dumps(describe(config)))
    assert facts["options"].keys() == {field.name for field in dataclasses.fields(config)}
    assert facts["options"]["instances"] == [str(config.instances[0])]
    assert facts["options"]["betas"] == [0.9, 0.999]
    assert facts["command"] == "tokkit pretrain 'my instances' -o run"
    assert facts["instances_keys"] == [Manifest.read(config.instances[0]).key]
    assert len(facts["tokenizer_fingerprint"]) == 64
    assert facts["init_from_fingerprint"] == "fingerprint"
    assert facts["versions"].keys() >= {"tokkit", "python", "torch", "numpy", "numba"}
    assert facts["versions"]["torch"] == torch.__version__
    assert (facts["num_processes"], facts["num_parameters"]) == (2, 99)
    assert facts["cores"] >= 1


def test_a_resumed_run_keeps_the_time_at_which_it_started(config: PretrainConfig) -> None:
    first = describe(config)
    assert first["resumed"] is None
    write_json(config.output / RUN, {**first, "started": "2026-01-01T00:00:00+00:00"})
    again = describe(config)
    assert again["started"] == "2026-01-01T00:00:00+00:00"
    assert str(again["resumed"]) >= str(first["started"])
