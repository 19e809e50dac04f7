import re
from dataclasses import asdict

import numpy as np
import pytest
import torch
from flatbatches import make_batch
from randommodels import share_layers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from tokkit.pretraining.models.architectures import build_meta_model
from tokkit.pretraining.models.bert import Bert
from tokkit.pretraining.models.gpt2 import Gpt2Config
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.training.device import PEAK_FLOPS, find_peak_flops
from tokkit.pretraining.training.metrics import Sample, count_flops_per_token, mean_length

BASE = ModelConfig.from_preset("base", vocab_size=30522, max_seq_length=128, dropout=0.1)


def make_sample(length: float, masked_share: float) -> Sample:
    return Sample(
        num_instances=1, num_held_out=0, tokens=length, length=length, masked_share=masked_share
    )


def test_a_token_passes_the_parameters_of_the_model() -> None:
    """Attention costs nothing at length 0, and the head nothing where no token is predicted."""
    model = build_meta_model(BASE)
    assert isinstance(model, Bert)
    encoder = count_flops_per_token(model, make_sample(0, 0)) / 6
    assert encoder == sum(p.numel() for p in model.layers.parameters())
    head = count_flops_per_token(model, make_sample(0, 1)) / 6 - encoder
    # The decoder is the table of the embeddings; the padding of both does no useful work.
    padding = BASE.padded_vocab_size - 30522
    own = sum(p.numel() for p in model.masked_token_head.parameters())
    assert head == own - padding + 30522 * 768
    shared = build_meta_model(share_layers(BASE))
    mapping = 768 * 768 + 768
    assert count_flops_per_token(shared, make_sample(0, 0)) / 6 == encoder + mapping
    decoder = build_meta_model(Gpt2Config(**(asdict(BASE) | {"objective": "clm"})))
    assert count_flops_per_token(decoder, make_sample(0, 1)) / 6 - encoder == 30522 * 768


@pytest.mark.parametrize(("T", "M"), [(64, 10), (512, 76)])
def test_operations_are_those_that_torch_counts(T: int, M: int) -> None:
    """Within 1%: biases and norms are not products, and the pair's head is left out."""
    model = Bert(ModelConfig.from_preset("mini", vocab_size=1000, max_seq_length=T, dropout=0.0))
    inputs = make_batch([T, T], num_masked=M).inputs
    # Fused attention computes scores a second time on its way back, which is no useful work.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        torch.autograd.backward(model(inputs).token_loss)
    expected = count_flops_per_token(model, make_sample(T, M / T))
    assert counter.get_total_flops() / (2 * T) == pytest.approx(expected, rel=0.01)


def test_a_token_of_base_costs_what_the_formula_says() -> None:
    assert count_flops_per_token(build_meta_model(BASE), make_sample(128, 0.15)) == pytest.approx(
        546.3e6, rel=1e-3
    )


def test_lengths_weigh_as_many_tokens_as_they_have() -> None:
    assert mean_length(np.array([10, 30], np.int32)) == 25
    assert mean_length(np.full(7, 128)) == 128
    assert mean_length(np.full(70_000, 65_535, np.uint16)) == 65_535


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40", 181.05),
        ("NVIDIA L40S", 362.05),
        ("Tesla T4", 65),
        ("AMD Instinct MI300X", 1307.4),
    ],
)
def test_a_device_is_known_by_its_whole_name(
    name: str, teraflops: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert find_peak_flops(torch.device("cuda")) == teraflops * 1e12
    assert sum(re.fullmatch(pattern, name) is not None for pattern, _ in PEAK_FLOPS) == 1


@pytest.mark.parametrize(
    "name",
    [
        "",
        "NVIDIA A10G",
        "NVIDIA H100 80GB HBM3 MIG 1g.10gb",
        "NVIDIA A100-SXM-64GB",  # a card of its own, with more units
        "NVIDIA GeForce RTX 4090 Laptop GPU",
    ],
)
def test_the_peak_of_an_unknown_device_is_not_guessed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert find_peak_flops(torch.device("cuda")) is None
    assert find_peak_flops(torch.device("cpu")) is None
