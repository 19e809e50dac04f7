"""What a run takes from a device: memory for its micro-batches, and time to compile."""

import time
from dataclasses import replace
from pathlib import Path
from signal import SIGTERM, raise_signal
from typing import Any

import pytest
import torch
from instancefolders import write_instance_folder

from tokkit.errors import Interrupted, TokkitError, UsageError
from tokkit.pretraining.models.architectures import build_meta_model
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training import loop, stopping, train_model
from tokkit.pretraining.training.device import compute_losses
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.optimizers import build_optimizer
from tokkit.pretraining.training.run_record import read_metrics


def make_config(folder: Path, **options: Any) -> PretrainConfig:
    instances = write_instance_folder(folder / "instances", num_held_out=0)
    given = {"preset": "tiny", "max_steps": 4, "batch_size": 8, "device": "cpu", **options}
    return PretrainConfig(instances=(instances,), output=folder / "run", **given)


@pytest.mark.parametrize(
    ("preset", "precision", "available", "tokens"),
    [
        ("base", "bf16", 149_000_000_000, 131_072),
        ("base", "bf16", 40_000_000_000, 65_536),
        ("base", "fp32", 15_000_000_000, 8192),
        ("large", "bf16", 40_000_000_000, 16_384),
        ("large", "bf16", 1_000_000_000, 2048),
        ("base", "bf16", None, 16_384),
    ],
)
def test_micro_batches_are_as_large_as_a_gpu_has_room_for(
    preset: str,
    precision: str,
    available: int | None,
    tokens: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(train_model, "choose_precision", lambda *_: precision)
    shape = ModelConfig.from_preset(preset, vocab_size=30_522, max_seq_length=512, dropout=0.1)
    model, gpu = build_meta_model(shape), torch.device("cuda")
    assert train_model.choose_micro_batch_tokens(model, available, gpu) == tokens
    assert train_model.choose_micro_batch_tokens(model, available, torch.device("cpu")) == 16_384


def test_fp16_is_refused_where_the_loss_cannot_be_scaled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--precision fp16 and --fsdp exclude each other"):
        PretrainConfig(instances=(Path(),), output=Path(), precision="fp16", fsdp=True)
    monkeypatch.setattr(train_model, "choose_rank_device", lambda *_: torch.device("mps"))
    with pytest.raises(UsageError, match="fp16 is for CUDA devices and CPUs; use --precision fp32"):
        pretrain(make_config(tmp_path, precision="fp16"))
    assert not (tmp_path / "run").exists()


def test_short_memory_of_a_gpu_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(model: torch.nn.Module, batch: Any, *rest: Any) -> Any:
        if len(batch.inputs.input_ids_N) > 100:
            raise torch.OutOfMemoryError
        return compute_losses(model, batch, *rest)

    def build(model: torch.nn.Module, config: PretrainConfig) -> Any:
        if config.preset != "tiny":
            raise torch.OutOfMemoryError
        return build_optimizer(model, config)

    monkeypatch.setattr(loop, "compute_losses", compute)
    monkeypatch.setattr(train_model, "build_optimizer", build)
    config = make_config(tmp_path, preset="mini", micro_batch_tokens=600, max_steps=1)
    with pytest.raises(TokkitError, match=r"the model alone; choose a smaller one, or split it"):
        pretrain(config)
    assert not config.output.exists() or not [*config.output.glob("*")]
    with pytest.raises(
        TokkitError, match=r"with 600 tokens at once; pass a smaller --micro-batch-"
    ):
        pretrain(replace(config, preset="tiny"))
    pretrain(replace(config, preset="tiny", micro_batch_tokens=100))


def test_a_signal_that_ends_the_compiler_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a second Ctrl-C does; the first is held until the step is done."""

    def interrupt(graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        raise_signal(SIGTERM)
        raise_signal(SIGTERM)
        return graph

    def compile_model(model: torch.nn.Module) -> None:
        next(model.children()).compile(backend=interrupt)

    monkeypatch.setattr(stopping, "ECHO_SECONDS", -1.0)
    monkeypatch.setattr(train_model, "compile_model", compile_model)
    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        pretrain(make_config(tmp_path, compile="on"))


def test_compiling_takes_no_time_of_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_step = Trainer.step
    graphs = iter((0, 1, 1, 2, *[2] * 100))  # the first two steps compile

    def step(trainer: Trainer) -> None:
        if trainer.state.step < 2:
            time.sleep(0.4)
        take_step(trainer)

    monkeypatch.setattr(Trainer, "step", step)
    monkeypatch.setattr("tokkit.pretraining.training.loop.count_graphs", lambda: next(graphs))
    config = make_config(tmp_path)
    started = time.monotonic()
    pretrain(config)
    (line,) = read_metrics(config.output / "metrics.jsonl")
    assert line["elapsed"] < time.monotonic() - started - 0.8
