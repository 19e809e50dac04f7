"""A compiled model computes the same, in one graph or two of each part, for batches of any size."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch._inductor.config  # torch does not import it by itself
from instancefolders import write_instance_folder
from randommodels import make_instances, make_model
from smallpresets import shrink_presets
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

from tokkit.pretraining.data.batches import Padding, lay_out
from tokkit.pretraining.models.dropout import HIDDEN, drop, key_tokens
from tokkit.pretraining.models.loss import TokenLoss
from tokkit.pretraining.models.modernbert import ModernBertConfig
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.pretrain import pretrain
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import MAX_GRAPHS, autocast, compute_losses
from tokkit.pretraining.training.distributed import compile_model
from tokkit.pretraining.training.metrics import total_loss
from tokkit.pretraining.training.run_record import read_metrics

# What torch says of its own parts when it compiles.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor"),
]

PADDING = Padding(tokens=32, sequences=4, predictions=8, max_seqlen=40)


SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
BERT = ModelConfig(num_hidden_layers=1, **SIZES)
MODERN = ModernBertConfig(num_hidden_layers=2, objective="mlm", local_attention=8, **SIZES)


@pytest.mark.parametrize(
    ("config", "backend"), [(BERT, "inductor"), (MODERN, "eager")], ids=["bert", "modernbert"]
)
def test_a_compiled_model_has_the_same_loss_and_gradients(
    config: ModelConfig, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Predictions are cut into two parts.
    monkeypatch.setattr("tokkit.pretraining.models.loss.CHUNK_LOGITS", 10 * 128)
    monkeypatch.setattr("tokkit.pretraining.models.attention.BLOCK", 8)
    model = make_model(config)
    batch = lay_out(make_instances([5, 40, 33, 8], config.vocab_size), 0, PADDING)

    def follow() -> dict[str, Tensor]:
        model.zero_grad()
        sums = model(batch.inputs)
        torch.autograd.backward(total_loss(sums, batch.num_predicted, batch.num_pairs))
        found = {
            f"gradient of {n}": p.grad for n, p in model.named_parameters() if p.grad is not None
        }
        return {**{name: t.detach() for name, t in sums._asdict().items()}, **found}

    expected = follow()
    for part in model.children():  # there is nothing in one that breaks a graph
        for module in part if isinstance(part, torch.nn.ModuleList) else [part]:
            if isinstance(module, torch.nn.LayerNorm):
                continue  # torch compiles no module of its own by itself
            # Inductor is slow, and heads have nothing for it that a layer does not have.
            is_head = type(module).__name__.endswith("Head")
            module.compile(dynamic=True, fullgraph=True, backend="eager" if is_head else backend)
    for name, tensor in follow().items():
        torch.testing.assert_close(tensor, expected[name], atol=2e-6, rtol=2e-5, msg=name)


def test_compiled_dropout_does_not_overflow(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """An overflow is undefined in C++: gcc made of it a loop without end, and the process crashed."""
    checking_compiler = tmp_path / "g++"
    checking_compiler.write_text('#!/bin/sh\nexec g++ "$@" -fsanitize=signed-integer-overflow\n')
    checking_compiler.chmod(0o755)

    def follow(x_ND: Tensor, keys_N: Tensor) -> tuple[Tensor, Tensor]:
        positions_D = torch.arange(x_ND.shape[1])
        return drop(x_ND, keys_N, 0.1), key_tokens(keys_N[:, None], positions_D, HIDDEN)

    x_ND, keys_N = torch.ones(3, 40), torch.tensor([1 << 30, -1, 7], dtype=torch.int32)
    options = {"cpp.cxx": (None, str(checking_compiler)), "cpp_cache_precompile_headers": False}
    with torch._inductor.config.patch(options):
        compiled = torch.compile(follow)(x_ND, keys_N)
    assert all(map(torch.equal, compiled, follow(x_ND, keys_N)))
    assert "overflow" not in capfd.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_compiled_model_is_near_the_plain_one_on_a_gpu() -> None:
    config = ModelConfig.from_preset("tiny", vocab_size=1001, max_seq_length=64, dropout=0.0)
    device = torch.device("cuda")
    model = make_model(config).to(device)
    batch = lay_out(make_instances([5, 40, 33, 8], config.vocab_size), 0, PADDING).to(device)

    def follow(precision: str) -> tuple[float, Tensor]:
        model.zero_grad()
        with autocast(precision, device):
            sums = model(batch.inputs)
        loss = total_loss(sums, batch.num_predicted, batch.num_pairs)
        torch.autograd.backward(loss)
        gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        return loss.item(), torch.cat(gradients)

    exact_loss, exact = follow("fp32")
    for compiled in (False, True):
        if compiled:
            compile_model(model)
        loss, gradient = follow("bf16")
        assert loss == pytest.approx(exact_loss, rel=5e-3)
        assert (gradient - exact).norm() < 0.05 * exact.norm()


def test_a_run_compiles_one_graph_or_two_of_each_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through phases, steps of several micro-batches, evaluations, changing rates and seeds."""
    shrink_presets(monkeypatch)
    compiler = CompileCounterWithBackend("eager")
    compile_module = torch.nn.Module.compile
    compile_loss = TokenLoss.compile
    for kind, make in ((torch.nn.Module, compile_module), (TokenLoss, compile_loss)):
        monkeypatch.setattr(
            kind, "compile", lambda self, make=make, **o: make(self, backend=compiler, **o)
        )
    met: set[tuple[int, ...]] = set()
    limits: set[int] = set()

    def watch(model: torch.nn.Module, batch: Any, *rest: Any) -> Any:
        limits.add(torch._dynamo.config.recompile_limit)
        met.add(
            (len(batch.inputs.input_ids_N), len(batch.inputs.labels_M), batch.inputs.max_seqlen)
        )
        return compute_losses(model, batch, *rest)

    monkeypatch.setattr("tokkit.pretraining.training.loop.compute_losses", watch)
    folders = tuple(
        write_instance_folder(tmp_path / str(length), max_seq_length=length, num_held_out=11)
        for length in (16, 48)
    )
    config = PretrainConfig(
        instances=folders,
        output=tmp_path / "run",
        preset="tiny",
        phases=((16, 0.5), (48, 0.5)),
        max_steps=24,
        batch_size=24,
        learning_rate=3e-3,
        micro_batch_tokens=600,
        eval_every=6,
        device="cpu",
        compile="on",
        threads=1,
    )
    pretrain(config)
    assert len(met) > 5
    # Embeddings, layer, two heads and the loss; in training and in evaluation.
    assert 5 <= compiler.frame_count <= 2 * 10
    assert limits == {MAX_GRAPHS}
    losses = [
        line["loss"] for line in read_metrics(config.output / "metrics.jsonl") if "loss" in line
    ]
    assert losses[-1] < losses[0]
