import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.model import Bert, ModelConfig
from tokkit.pretraining.optim import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    scheduled_rate,
    update,
)


@given(st.integers(1, 500), st.data())
def test_the_rate_rises_to_its_peak_and_falls_to_almost_nothing(
    max_steps: int, data: st.DataObject
) -> None:
    warmup_steps = data.draw(st.integers(0, max_steps))
    rates = [
        learning_rate(step, peak=2.0, warmup_steps=warmup_steps, max_steps=max_steps)
        for step in range(max_steps)
    ]
    rising, falling = rates[:warmup_steps], rates[warmup_steps:]
    assert max(rates) == 2.0
    assert min(rates) > 0
    assert all(a < b for a, b in itertools.pairwise(rising))
    assert all(a > b for a, b in itertools.pairwise(falling))
    if falling:
        assert falling[-1] == pytest.approx(2.0 / (max_steps - warmup_steps))


def test_a_tenth_is_warm_up_by_default(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp()
    config = PretrainConfig(instances=(folder,), output=folder, max_steps=100, learning_rate=1.0)
    assert scheduled_rate(4, config) == 0.5
    assert scheduled_rate(9, config) == scheduled_rate(10, config) == 1.0
    assert scheduled_rate(55, config) == 0.5


def test_biases_and_norms_are_spared_from_decay() -> None:
    config = ModelConfig.from_preset("tiny", vocab_size=50, max_seq_length=32, dropout=0.0)
    model = Bert(config)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    update(build_optimizer(model, weight_decay=0.1), rate=0.5)
    for name, parameter in model.named_parameters():
        spared = name.endswith("bias") or "norm" in name
        expected = before[name] * (1.0 if spared else 1 - 0.5 * 0.1)
        torch.testing.assert_close(parameter.detach(), expected, msg=name)
        assert parameter.grad is None


@pytest.mark.parametrize(("length", "after"), [(4.0, 1.0), (0.5, 0.5)])
def test_gradients_are_clipped_to_a_norm_of_one(length: float, after: float) -> None:
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, length / 8**0.5)
    assert clip_gradients(model).item() == pytest.approx(length)
    squares = sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None)
    assert squares**0.5 == pytest.approx(after, rel=1e-4)
