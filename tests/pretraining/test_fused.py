"""Triton's kernels compute what plain code does; they run in Triton's interpreter."""

import os
import subprocess
import sys
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from instancefolders import write_instance_folder
from peermodels import loss_of
from randommodels import make_instances, make_model
from torch import Tensor

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.data.batches import lay_out
from tokkit.pretraining.models.albert import AlbertConfig
from tokkit.pretraining.models.gpt2 import Gpt2Config
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig

# No power of two, and more columns than a tile has.
SHAPE = ModelConfig(
    vocab_size=50,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=144,
    hidden_dropout_prob=0.3,
    attention_probs_dropout_prob=0.2,
)


CASES = [
    (SHAPE, 1),  # a program for all tokens
    (replace(SHAPE, hidden_dropout_prob=0.0), 528),
    (AlbertConfig(**asdict(SHAPE), embedding_size=24), 3),  # whose GELU is another
]


@pytest.mark.skipif(find_spec("triton") is None, reason="triton is not installed")
def test_a_model_has_the_same_loss_and_gradients() -> None:
    """In a process of its own, because the interpreter must be chosen before Triton is imported."""
    environment = {"TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, __file__],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, f"{len(CASES)} cases\n"), done.stderr


def compare() -> None:
    from tokkit.pretraining.models import fused

    batch = lay_out(make_instances([4, 15], SHAPE.vocab_size), 0).key_dropout(1, 0)

    def follow(model: Transformer) -> dict[str, Tensor]:
        loss = loss_of(model, batch)
        torch.autograd.backward(loss)
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        return {"loss": loss.detach(), **gradients}

    for config, max_sums in CASES:
        fused.MAX_SUMS = max_sums
        model = make_model(config)
        fused.fuse_layers(model)
        assert all(type(layer) is fused.FusedLayer for layer in model.layers)
        expected = follow(make_model(config))
        for name, tensor in follow(model).items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5, msg=name)
    with pytest.raises(TokkitError, match=r"no effect on a gpt2, .*; leave it out"):
        fused.fuse_layers(make_model(Gpt2Config(**(asdict(SHAPE) | {"objective": "clm"}))))
    sys.stdout.write(f"{len(CASES)} cases\n")


@pytest.mark.parametrize(
    ("environment", "options", "fault"),
    [
        ("0", {}, "is for GPUs from Ampere, and has no effect on cpu, "),
        ("1", {"compile": "on"}, "cannot be compiled with TRITON_INTERPRET=1; pass --compile off"),
    ],
)
def test_it_is_refused_where_it_has_no_effect(
    environment: str,
    options: dict[str, Any],
    fault: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", environment)
    instances = write_instance_folder(tmp_path / "instances")
    config = PretrainConfig(
        instances=(instances,),
        output=tmp_path / "run",
        preset="tiny",
        device="cpu",
        kernels="triton",
        **options,
    )
    with pytest.raises(UsageError, match=fault):
        pretrain(config)


if __name__ == "__main__":
    compare()
