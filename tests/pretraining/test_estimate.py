import json
import math
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import forkserver
import numpy as np
import pytest
import torch
from instancefolders import write_instance_folder
from randommodels import share_layers
from realcommands import pretrain_arguments

from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.prefetcher import Prefetcher
from tokkit.pretraining.models.architectures import build_meta_model, build_model
from tokkit.pretraining.models.gpt2 import Gpt2Config
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training import estimate as module
from tokkit.pretraining.training.estimate import measure_run, summarize
from tokkit.pretraining.training.metrics import (
    Sample,
    count_flops_per_token,
    count_parameters,
    sample_instances,
)
from tokkit.pretraining.training.run_plan import RunPlan
from tokkit.pretraining.training.schedule import Schedule

SAMPLE = Sample(num_instances=1000, num_held_out=512, tokens=100.0, length=120.0, masked_share=0.15)
SHAPE = ModelConfig.from_preset("tiny", vocab_size=30522, max_seq_length=128, dropout=0.1)
MODEL = build_meta_model(SHAPE)


def make_config(**options: Any) -> PretrainConfig:
    folders = tuple(map(Path, ("short", "long"))) if "phases" in options else (Path("instances"),)
    options = {"max_steps": 1000, "batch_size": 256, "eval_every": 100, **options}
    return PretrainConfig(instances=folders, output=Path("run"), **options)


def summarize_run(
    config: PretrainConfig, samples: list[Sample], seconds: list[float]
) -> dict[str, Any]:
    return summarize(config, MODEL, samples, seconds, Schedule.from_config(config))


def test_a_run_by_steps() -> None:
    """The figures are those of the module's example."""
    figures = summarize_run(make_config(), [SAMPLE], [0.5])
    (phase,) = figures["phases"]
    assert phase["tokens_per_step"] == 25_600
    assert phase["steps_per_epoch"] == 1000 / 256
    assert phase["epochs"] == 256
    assert figures["tokens"] == 25_600_000
    assert figures["flops"] == pytest.approx(25_600_000 * count_flops_per_token(MODEL, SAMPLE))
    assert figures["training_seconds"] == 500
    assert figures["evaluation_seconds"] == pytest.approx(11 * 2 * 0.5 / 3)
    assert figures["seconds"] == figures["training_seconds"] + figures["evaluation_seconds"]


def test_a_run_by_the_clock() -> None:
    figures = summarize_run(make_config(max_steps=None, max_time=3600.0), [SAMPLE], [0.5])
    first = 2 * 0.5 / 3  # the evaluation before the first step is extra
    assert figures["steps"] == pytest.approx(3600 / (0.5 + first / 100))
    assert figures["seconds"] == pytest.approx(3600 + first)


def test_each_phase_has_its_own_share_of_the_steps_and_its_own_time() -> None:
    long = replace(SAMPLE, tokens=400.0, length=480.0, num_instances=250)
    config = make_config(phases=((128, 0.9), (512, 0.1)))
    figures = summarize_run(config, [SAMPLE, long], [0.5, 2.0])
    first, second = figures["phases"]
    assert (first["steps"], second["steps"]) == (900, 100)
    assert second["tokens_per_step"] == 4 * first["tokens_per_step"]
    assert second["flops_per_token"] > 1.1 * first["flops_per_token"]
    assert figures["training_seconds"] == pytest.approx(900 * 0.5 + 100 * 2.0)


def test_what_was_not_measured_is_none() -> None:
    figures = summarize_run(make_config(), [SAMPLE], [math.nan])
    assert figures["seconds"] is figures["training_seconds"] is None
    assert figures["phases"][0]["seconds_per_step"] is None
    assert figures["tokens"] == 25_600_000
    by_clock = summarize_run(make_config(max_steps=None, max_time=60.0), [SAMPLE], [math.nan])
    assert by_clock["steps"] is by_clock["tokens"] is by_clock["flops"] is None


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_instance_folder(tmp_path_factory.mktemp("estimate") / "instances", static=True)


def run_config(*instances: Path, **options: Any) -> PretrainConfig:
    return PretrainConfig(
        **{
            "instances": instances,
            "output": instances[0].parent / "run",
            "batch_size": 8,
            "preset": "tiny",
            "device": "cpu",
            **options,
        }
    )


def measure(config: PretrainConfig, num_processes: int = 1) -> dict[str, Any]:
    return measure_run(RunPlan.from_config(config), num_processes)


def test_time_and_memory_are_measured_on_a_few_steps(instances: Path) -> None:
    """In processes of their own: in one that has freed memory, a model fits into that."""

    def ask(preset: str) -> dict[str, Any]:
        options = {"batch_size": 8, "preset": preset, "device": "cpu", "threads": 1}
        output = instances.parent / "run"
        command = pretrain_arguments([instances], output, **options, dry_run=True, json=True)
        program = [sys.executable, "-m", "tokkit", *command]
        ended = forkserver.run(program, capture_output=True, check=True)
        figures: dict[str, Any] = json.loads(ended.stdout)
        return figures

    tiny, mini = ask("tiny"), ask("mini")
    assert 0 < tiny["phases"][0]["seconds_per_step"] < mini["phases"][0]["seconds_per_step"]
    assert mini["peak_memory"] > 12 * mini["parameters"]["total"]  # weights and moments in fp32
    assert mini["peak_memory"] < mini["available_memory"]
    assert mini["fits"] is True
    assert mini["timed_steps"] == 3
    assert not (instances.parent / "run").exists()


def test_every_phase_is_measured(instances: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While the batches of the next step are prepared, as in training."""
    prepared = []
    submit = Prefetcher._submit

    def record(prefetcher: Prefetcher, phase: int, step: int) -> Any:
        prepared.append((phase, step))
        return submit(prefetcher, phase, step)

    monkeypatch.setattr(Prefetcher, "_submit", record)
    shorter = write_instance_folder(instances.parent / "short", static=True, max_seq_length=16)
    config = run_config(shorter, instances, phases=((16, 0.9), (32, 0.1)))
    first, second = measure(config)["phases"]
    assert first["seconds_per_step"] > 0
    assert second["seconds_per_step"] > 0
    assert first["tokens_per_step"] < second["tokens_per_step"]
    assert prepared == [(phase, step) for phase in (0, 1) for step in range(5)]


def test_a_model_that_exceeds_the_memory_is_not_measured(
    instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    total = measure(run_config(instances), 2)["parameters"]["total"]
    for available, timed_steps in ((2 * 16 * total, 3), (2 * 16 * total - 2, 0)):
        monkeypatch.setattr(module, "find_available_memory", lambda _, there=available: there)
        figures = measure(run_config(instances), 2)
        assert figures["timed_steps"] == timed_steps
        assert figures["available_memory"] == available // 2
    assert figures["peak_memory"] is figures["seconds"] is None
    assert figures["fits"] is False
    assert measure(run_config(instances, fsdp=True), 2)["fits"] is None


def test_a_step_that_runs_out_of_memory_is_no_error(
    instances: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> float:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(module, "_time_steps", fail)
    figures = measure(run_config(instances), 1)
    assert figures["peak_memory"] is figures["seconds"] is None
    assert figures["fits"] is False


def test_parameters_are_counted_by_part() -> None:
    for shape in (SHAPE, Gpt2Config(**(asdict(SHAPE) | {"objective": "clm"})), share_layers(SHAPE)):
        model = build_model(shape)
        counts = count_parameters(model)
        assert counts["total"] == sum(p.numel() for p in model.parameters())
        assert counts["layers"] == sum(p.numel() for p in model.layers.parameters())
        assert counts["total"] == counts["embeddings"] + counts["layers"] + counts["heads"]


def test_a_sample_describes_what_the_loader_yields(instances: Path) -> None:
    config = run_config(instances)
    loader = Loader(open_sources(config), config)
    batches = [loader.training_instances(step) for step in range(8)]  # an epoch
    lengths = np.concatenate([np.diff(batch.offsets) for batch in batches])
    sample = sample_instances(loader)
    assert (sample.num_instances, sample.num_held_out) == (64, 16)
    assert sample.tokens == lengths.mean()
    assert sample.length == pytest.approx((lengths**2).sum() / lengths.sum())
    assert sample.masked_share == 3 * 64 / lengths.sum()  # three tokens of each


def test_a_causal_sample_predicts_all_tokens_but_the_first_from_half_of_the_others(
    tmp_path: Path,
) -> None:
    folder = write_instance_folder(tmp_path / "instances", objective="clm", labels=False)
    config = run_config(folder)
    loader = Loader(open_sources(config), config)
    sample = sample_instances(loader)
    lengths = np.concatenate(
        [np.diff(loader.training_instances(step).offsets) for step in range(8)]
    )
    assert sample.length == pytest.approx((lengths**2).sum() / lengths.sum() / 2)
    assert sample.masked_share == 1 - 64 / lengths.sum()
