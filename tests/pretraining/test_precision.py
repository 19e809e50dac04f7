"""What a step does on a device: in which precision, by which operators, and without waiting."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from randommodels import make_instances, make_model, make_trainer
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode

from tokkit.pretraining.data.batches import Batch, Padding, lay_out
from tokkit.pretraining.models import attention
from tokkit.pretraining.models.bert import Bert
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import choose_precision, compute_losses, torch_settings
from tokkit.pretraining.training.metrics import total_loss

NUM_LAYERS = 2
CONFIG = ModelConfig(
    vocab_size=1001,
    hidden_size=128,
    num_hidden_layers=NUM_LAYERS,
    num_attention_heads=2,
    intermediate_size=256,
    attention_probs_dropout_prob=0.0,  # with it, attention on a CPU multiplies in fp32
)
PRODUCTS = {torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.bmm, torch.ops.aten.baddbmm}
LENGTHS = [5, 40, 33, 8]


def make_batch() -> Batch:
    padding = Padding(tokens=32, sequences=4, predictions=16, max_seqlen=40)
    return lay_out(make_instances(LENGTHS, CONFIG.vocab_size), 0, padding)


def take_step(trained: Transformer, precision: str, batches: list[Batch]) -> None:
    config = PretrainConfig(instances=(Path(),), output=Path(), precision=precision)
    make_trainer(config, trained, [batches]).step()


class Calls(TorchDispatchMode):
    """What operators are called with."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch gives it no types
        self.made: list[tuple[Any, tuple[Any, ...]]] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        self.made.append((func.overloadpacket, args))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_step_does_not_synchronize_with_its_device(precision: str) -> None:
    trained, batch = make_model(CONFIG), make_batch()
    with Calls() as calls:
        take_step(trained, precision, [batch, batch])
    found = {call for call, _ in calls.made}
    assert torch.ops.aten._fused_adamw_ in found
    waits = {"_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique"}
    assert not {call.__name__ for call in found} & waits


def test_in_bf16_products_and_layer_outputs_are_bf16() -> None:
    trained, batch = make_model(CONFIG), make_batch()
    handed_on: list[torch.dtype] = []
    for layer in trained.layers:
        layer.register_forward_hook(
            lambda _, given, result: handed_on.extend([given[0].dtype, result.dtype])
        )
    with Calls() as calls:
        take_step(trained, "bf16", [batch])
    products = [args for call, args in calls.made if call in PRODUCTS]
    # Forward and backward: four in a layer, two in heads and a decoder each.
    assert len(products) >= 3 * (4 * NUM_LAYERS + 4)
    for args in products:
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        assert {tensor.dtype for tensor in tensors} == {torch.bfloat16}
    assert set(handed_on) == {torch.bfloat16}
    assert all(parameter.dtype == torch.float32 for parameter in trained.parameters())


def test_the_decoder_multiplies_rows_aligned_to_16_bytes() -> None:
    """Of 16 bytes in bf16, which fast kernels need; the vocabulary itself is odd."""
    trained, batch = make_model(CONFIG), make_batch()
    with Calls() as calls:
        take_step(trained, "bf16", [batch])
    widths = {
        size
        for call, args in calls.made
        if call in PRODUCTS
        for arg in args
        if isinstance(arg, Tensor)
        for size in arg.shape
    }
    assert CONFIG.padded_vocab_size in widths
    assert CONFIG.vocab_size not in widths


@pytest.mark.parametrize("half", ["bf16", "fp16"])
def test_in_half_precision_losses_and_gradients_are_near_those_in_fp32(half: str) -> None:
    trained, batch = make_model(CONFIG), make_batch()
    trained.eval()
    found = {}
    for precision in ("fp32", half):
        trained.zero_grad()
        sums = compute_losses(trained, batch, precision, torch.device("cpu"))
        loss = total_loss(sums, batch.num_predicted, batch.num_pairs)
        torch.autograd.backward(loss)
        gradients = [p.grad.flatten() for p in trained.parameters() if p.grad is not None]
        found[precision] = (loss.item(), torch.cat(gradients))
    (exact_loss, exact), (rounded_loss, rounded) = found["fp32"], found[half]
    assert rounded_loss == pytest.approx(exact_loss, rel=2e-3)
    assert (rounded - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("before", [False, True])
def test_cudnn_builds_no_plan_for_each_shape_of_attention(*, before: bool) -> None:
    cuda: Any = torch.backends.cuda
    cuda.enable_cudnn_sdp(before)
    with torch_settings(PretrainConfig(instances=(Path(),), output=Path()), torch.device("cpu")):
        assert not cuda.cudnn_sdp_enabled()
    assert cuda.cudnn_sdp_enabled() is before


@pytest.mark.parametrize(
    ("major", "precision"), [(6, "fp32"), (7, "fp16"), (8, "bf16"), (9, "bf16")]
)
def test_gpus_before_ampere_use_neither_bf16_nor_flash_attention(
    monkeypatch: pytest.MonkeyPatch, major: int, precision: str
) -> None:
    properties = SimpleNamespace(major=major)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)
    assert choose_precision("auto", torch.device("cuda")) == precision
    tensor: Any = SimpleNamespace(is_cuda=True, dtype=torch.bfloat16, device="cuda:0")
    assert attention.has_flash(tensor) == (major >= 8)
    tensor.dtype = torch.float32
    assert not attention.has_flash(tensor)


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_gpu_s_attention_is_traced_through_the_whole_model(
    monkeypatch: pytest.MonkeyPatch, dropout: float
) -> None:
    """Its operator has no kernel for a CPU, but shapes and a gradient that can be followed."""
    monkeypatch.setattr(attention, "has_flash", lambda _: True)
    config = replace(CONFIG, attention_probs_dropout_prob=dropout)
    batch = make_batch().key_dropout(1, 0)
    fields = [name for name, part in batch.inputs._asdict().items() if isinstance(part, Tensor)]

    def follow(weights: list[Tensor], tensors: list[Tensor]) -> list[Tensor]:
        replaced: Any = dict(zip(fields, tensors, strict=True))
        inputs = batch.inputs._replace(**replaced)
        with torch.autocast("cpu", torch.bfloat16):
            sums = functional_call(bert, dict(zip(names, weights, strict=True)), (inputs,))
        return list(torch.autograd.grad(total_loss(sums, 1, 1), weights))

    with FakeTensorMode(allow_non_fake_inputs=True):
        bert = Bert(config)
        names = [name for name, _ in bert.named_parameters()]
        parts = batch.inputs._asdict().items()
        tensors = [torch.empty_like(part) for _, part in parts if isinstance(part, Tensor)]
        weights = list(bert.parameters())
        graph: Any = make_fx(follow, tracing_mode="fake")(weights, tensors).graph
    calls = [node for node in graph.nodes if node.op == "call_function"]
    named = [str(node.target) for node in calls]
    assert named.count("aten._flash_attention_forward.default") == NUM_LAYERS
    assert named.count("aten._flash_attention_backward.default") == NUM_LAYERS
    for node in calls:
        if str(node.target) == "aten._flash_attention_forward.default":
            query = node.args[0].meta["val"]
            # A view of the projection: no copy is made of queries, keys and values.
            assert query.stride() == (3 * config.hidden_size, config.hidden_size // 2, 1)
            assert query.dtype == torch.bfloat16
    gradients = [node.meta["val"].shape for node in graph.output_node().args[0]]
    assert gradients == [weight.shape for weight in weights]
