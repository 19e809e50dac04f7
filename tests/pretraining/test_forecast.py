from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from instancefolders import write_instance_folder

from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.sources import open_sources
from tokkit.pretraining.models.bert import ModelConfig
from tokkit.pretraining.models.build_model import Model, outline_model
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training import estimate as module
from tokkit.pretraining.training.estimate import (
    Forecast,
    Sample,
    count_flops_per_token,
    forecast,
    sample_instances,
)

SAMPLE = Sample(num_instances=1000, num_held_out=512, tokens=100.0, length=120.0, masked_share=0.15)
CPU = torch.device("cpu")


def make_config(**options: Any) -> PretrainConfig:
    folders = tuple(map(Path, ("short", "long"))) if "phases" in options else (Path("instances"),)
    options = {"max_steps": 1000, "batch_size": 256, "eval_every": 100, **options}
    return PretrainConfig(instances=folders, output=Path("run"), **options)


def make_model(objective: str = "nsp") -> Model:
    return outline_model(
        ModelConfig.from_preset(
            "tiny", vocab_size=30522, max_seq_length=128, dropout=0.1, objective=objective
        )
    )


class Clock:
    """Steps of half a second, of which the first takes longer."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> float:
        self.calls += 1
        return 60.0 if self.calls == 1 else 0.5


def tell(config: PretrainConfig, *samples: Sample, **options: Any) -> dict[str, Any]:
    told: Forecast = forecast(
        config,
        make_model(),
        samples or (SAMPLE,),
        **{"device": CPU, "is_half": False, "time_step": Clock(), **options},
    )
    return told.as_dict()


def test_a_run_by_steps() -> None:
    """The figures are those of the module's worked case."""
    form = tell(make_config())
    (phase,) = form["phases"]
    assert phase["tokens_per_step"] == 25_600
    assert phase["steps_per_epoch"] == 1000 / 256
    assert phase["epochs"] == 256
    assert form["tokens"] == 25_600_000
    cost = count_flops_per_token(
        num_layers=2,
        hidden_size=128,
        intermediate_size=512,
        vocab_size=30522,
        mean_length=120,
        masked_share=0.15,
    )
    assert form["flops"] == pytest.approx(25_600_000 * cost)
    assert form["training_seconds"] == 500
    assert form["evaluation_seconds"] == pytest.approx(11 * 2 * 0.5 / 3)
    assert form["seconds"] == form["training_seconds"] + form["evaluation_seconds"]
    assert form["timing"] == "measured on 3 steps"


def test_a_decoder_is_told_of_as_well() -> None:
    told = forecast(make_config(), make_model("clm"), (SAMPLE,), device=CPU, is_half=False)
    assert told.parameters["heads"] == 2 * 128  # the last norm; the decoder is the embedding
    (bert,) = tell(make_config())["phases"]
    assert told.phases[0].flops_per_token < bert["flops_per_token"]


def test_a_run_by_the_clock() -> None:
    form = tell(make_config(max_steps=None, max_time=3600.0))
    first = 2 * 0.5 / 3  # comes on top
    assert form["steps"] == pytest.approx(3600 / (0.5 + first / 100))
    assert form["seconds"] == pytest.approx(3600 + first)


def test_phases_take_time_as_they_take_operations() -> None:
    long = replace(SAMPLE, tokens=400.0, length=480.0, num_instances=250)
    config = make_config(phases=((128, 0.9), (512, 0.1)))
    first, second = (form := tell(config, SAMPLE, long))["phases"]
    assert (first["steps"], second["steps"]) == (900, 100)
    assert second["tokens_per_step"] == 4 * first["tokens_per_step"]
    longer = second["flops_per_token"] / first["flops_per_token"]
    assert longer > 1.1
    assert second["seconds_per_step"] == pytest.approx(0.5 * 4 * longer)
    assert form["training_seconds"] == pytest.approx(900 * 0.5 + 100 * 2 * longer)


def test_what_is_not_measured_is_not_told() -> None:
    form = tell(make_config(), time_step=None)
    assert form["seconds"] is form["training_seconds"] is None
    assert form["timing"] == "not measured"
    assert form["tokens"] == 25_600_000
    by_clock = tell(make_config(max_steps=None, max_time=60.0), time_step=None)
    assert by_clock["steps"] is by_clock["tokens"] is by_clock["flops"] is None


def test_nothing_is_measured_where_the_memory_does_not_suffice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock()
    needed = tell(make_config())["memory"]["total"]
    for capacity, calls in ((needed - 1, 0), (needed, 4)):
        monkeypatch.setattr(module, "find_capacity", lambda _, there=capacity: there)
        form = tell(make_config(), time_step=clock)
        assert clock.calls == calls
        assert form["fits"] == bool(calls)


def test_time_is_told_from_a_known_peak_where_it_is_not_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "find_capacity", lambda _: None)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA A100-SXM4-80GB")
    options = {"device": torch.device("cuda"), "time_step": None, "num_processes": 8}
    form = tell(make_config(), is_half=True, **options)
    (phase,) = form["phases"]
    work = phase["tokens_per_step"] * phase["flops_per_token"]
    assert phase["seconds_per_step"] == pytest.approx(work / (8 * 312e12 * 0.4))
    assert "assumed MFU of 40%" in form["timing"]
    assert tell(make_config(), is_half=False, **options)["seconds"] is None


def test_memory_is_told_with_and_without_splitting() -> None:
    alone, whole, split = (
        tell(make_config(fsdp=fsdp), num_processes=processes)
        for fsdp, processes in ((False, 1), (False, 4), (True, 4))
    )
    assert alone["other_memory"] is None
    assert alone["memory"]["weights"] == whole["memory"]["weights"]
    assert (split["memory"], split["other_memory"]) == (whole["other_memory"], whole["memory"])
    assert split["memory"]["moments"] == pytest.approx(whole["memory"]["moments"] / 4, rel=1e-5)


def test_a_micro_batch_is_no_larger_than_a_process_has_tokens() -> None:
    small, large = (
        tell(make_config(micro_batch_tokens=tokens))["memory"]["activations"]
        for tokens in (1024, 1_000_000)
    )
    assert large == pytest.approx(25 * small, rel=1e-3)


def test_instances_are_what_the_loader_gives(tmp_path: Path) -> None:
    folder = write_instance_folder(tmp_path / "instances", static=True)
    config = PretrainConfig(instances=(folder,), output=tmp_path / "run", batch_size=8)
    loader = Loader(open_sources(config), config)
    batches = [loader.training_instances(step) for step in range(8)]  # an epoch
    lengths = np.concatenate([np.diff(batch.offsets) for batch in batches])
    sample = sample_instances(loader, 8)
    assert (sample.num_instances, sample.num_held_out) == (64, 16)
    assert sample.tokens == lengths.mean()
    assert sample.length == pytest.approx((lengths**2).sum() / lengths.sum())
    assert sample.masked_share == 3 * 64 / lengths.sum()  # three tokens of each

    causal = sample_instances(loader, 8, causal=True)
    assert causal.length == sample.length / 2
    assert causal.masked_share == 1 - 64 / lengths.sum()
    assert not (tmp_path / "run").exists()
