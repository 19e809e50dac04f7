from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reference.lamb import follow_gradients
from reference.stable_adamw import follow_stably
from tokkit.pretraining.models.bert import Bert
from tokkit.pretraining.models.transformer import ModelConfig
from tokkit.pretraining.pretrain_config import OPTIMIZERS, PretrainConfig
from tokkit.pretraining.training.optimizers import (
    BUILDERS,
    Lamb,
    StableAdamW,
    build_optimizer,
    clip_gradients,
    name_moments,
    update_weights,
)


def config(**options: Any) -> PretrainConfig:
    return PretrainConfig(instances=(Path(),), output=Path(), **options)


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def moved(model: nn.Module, optimizer: torch.optim.Optimizer, rate: float) -> dict[str, Tensor]:
    """How far a step takes each parameter."""
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    update_weights(optimizer, rate)
    return {name: p.detach() - before[name] for name, p in model.named_parameters()}


def is_spared(name: str) -> bool:
    return name.endswith("bias") or "norm" in name


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_biases_and_norms_are_spared_from_decay(optimizer: str) -> None:
    model = Bert(ModelConfig.from_preset("tiny", vocab_size=50, max_seq_length=32, dropout=0.0))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    steps = moved(
        model, build_optimizer(model, config(optimizer=optimizer, weight_decay=0.1)), rate=0.5
    )
    # An update of LAMB that is decay alone is as long as the weights, times the rate.
    shrunk = 0.5 * (1.0 if optimizer == "lamb" else 0.1)
    for name, step in steps.items():
        expected = torch.zeros_like(step) if is_spared(name) else -shrunk * before[name]
        torch.testing.assert_close(step, expected, msg=name, atol=1e-6, rtol=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_shared_parameter_is_updated_once(optimizer: str) -> None:
    shared, alone = nn.Linear(4, 4), nn.Linear(4, 4)
    alone.load_state_dict(shared.state_dict())
    for model in (nn.Sequential(shared, shared), alone):
        set_gradients(model, seed=1)
        update_weights(build_optimizer(model, config(optimizer=optimizer)), rate=0.01)
    assert torch.equal(shared.weight, alone.weight)


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.0, 0.0), (0.5, 0.99)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("is_adaptive", [False, True])
def test_lamb_follows_the_paper(
    betas: tuple[float, float], weight_decay: float, is_adaptive: bool
) -> None:
    generator = np.random.default_rng(3)
    first = generator.normal(size=(5, 7))
    gradients = [generator.normal(size=(5, 7)) for _ in range(20)]
    weight = nn.Parameter(torch.tensor(first, dtype=torch.float32))
    lamb = Lamb([weight], betas=betas, weight_decay=weight_decay, adapt=is_adaptive)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        update_weights(lamb, rate=0.02)
    expected = follow_gradients(
        first, gradients, rate=0.02, betas=betas, decay=weight_decay, is_adaptive=is_adaptive
    )
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=2e-5, atol=2e-6)
    assert float(lamb.state[weight]["step"]) == 20


@pytest.mark.parametrize("betas", [(0.9, 0.98), (0.0, 0.0), (0.5, 0.999)])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_stable_adamw_follows_the_paper(betas: tuple[float, float], weight_decay: float) -> None:
    generator = np.random.default_rng(4)
    first = generator.normal(size=(5, 7))
    # One gradient is much larger than those before it, which is what the clipping is for.
    gradients = [generator.normal(size=(5, 7)) * (50 if n == 12 else 1) for n in range(20)]
    gradients[3][:, 2] = 0.0
    weight = nn.Parameter(torch.tensor(first, dtype=torch.float32))
    optimizer = StableAdamW([weight], betas=betas, weight_decay=weight_decay)
    for gradient in gradients:
        weight.grad = torch.tensor(gradient, dtype=torch.float32)
        update_weights(optimizer, rate=0.02)
    expected = follow_stably(first, gradients, rate=0.02, betas=betas, decay=weight_decay)
    np.testing.assert_allclose(weight.detach().numpy(), expected, rtol=2e-5, atol=2e-6)


def test_muon_is_torchs_for_matrices_of_layers_and_adamw_for_all_else() -> None:
    options: dict[str, Any] = {"weight_decay": 0.1, "betas": (0.9, 0.98)}
    models = [
        Bert(ModelConfig.from_preset("tiny", vocab_size=50, max_seq_length=32, dropout=0.0))
        for _ in range(3)
    ]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    muon, adamw = (
        build_optimizer(model, config(optimizer=name, **options))
        for name, model in zip(("muon", "adamw"), models, strict=False)
    )
    matrices = {n: p for n, p in models[2].layers.named_parameters() if p.dim() == 2}
    peer = torch.optim.Muon(
        matrices.values(), weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(3):
        for model, optimizer in zip(models, (muon, adamw, peer), strict=True):
            set_gradients(model, seed=step)
            update_weights(optimizer, rate=0.02)
    expected = dict(models[1].named_parameters())
    expected |= {f"layers.{name}": matrix for name, matrix in matrices.items()}
    for name, parameter in models[0].named_parameters():
        assert torch.equal(parameter, expected[name]), name
    assert len(matrices) == 8


def test_lamb_adapts_to_weights_alone_and_whatever_the_decay_is() -> None:
    model = Bert(ModelConfig.from_preset("tiny", vocab_size=50, max_seq_length=32, dropout=0.0))
    set_gradients(model, seed=2)
    lengths = {name: p.norm().item() for name, p in model.named_parameters()}
    steps = moved(model, build_optimizer(model, config(optimizer="lamb", weight_decay=0)), 0.01)
    for name, step in steps.items():
        # The first update of Adam is the gradients' signs.
        expected = 0.01 * (step.numel() ** 0.5 if is_spared(name) else lengths[name])
        assert step.norm().item() == pytest.approx(expected, rel=1e-3), name


@pytest.mark.parametrize(("weight", "gradient", "after"), [(0.0, 3.0, -0.1), (2.0, 0.0, 2.0)])
def test_a_ratio_of_nothing_is_one(weight: float, gradient: float, after: float) -> None:
    parameter = nn.Parameter(torch.full((3, 2), weight))
    parameter.grad = torch.full((3, 2), gradient)
    update_weights(Lamb([parameter], weight_decay=0.0), rate=0.1)
    torch.testing.assert_close(parameter.detach(), torch.full((3, 2), after))


def test_lamb_keeps_the_state_of_adamw() -> None:
    states = []
    for name in ("adamw", "lamb"):
        model = nn.Linear(3, 2)
        set_gradients(model, seed=4)
        update_weights(optimizer := build_optimizer(model, config(optimizer=name)), rate=0.0)
        states.append(optimizer.state[model.weight])
    adamw, lamb = states
    assert adamw.keys() == lamb.keys()
    for name, value in adamw.items():
        torch.testing.assert_close(lamb[name], value)


def test_betas_are_the_runs() -> None:
    model = nn.Linear(3, 2)
    for name in OPTIMIZERS:
        groups = build_optimizer(model, config(optimizer=name, betas=(0.8, 0.9))).param_groups
        assert [group["betas"] for group in groups if "betas" in group] == [(0.8, 0.9)] * 2


@pytest.mark.parametrize(
    ("length", "most", "after"),
    [(4.0, 1.0, 1.0), (0.5, 1.0, 0.5), (4.0, 2.5, 2.5), (4.0, 0.0, 4.0)],
)
def test_gradients_are_clipped(length: float, most: float, after: float) -> None:
    model = nn.Linear(3, 2)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, length / 8**0.5)
    assert clip_gradients(model, most).item() == pytest.approx(length)
    squares = sum(float((p.grad**2).sum()) for p in model.parameters() if p.grad is not None)
    assert squares**0.5 == pytest.approx(after, rel=1e-4)


def test_each_choice_of_the_option_has_a_builder_and_its_moments_are_known() -> None:
    assert set(BUILDERS) == set(OPTIMIZERS)
    for name in OPTIMIZERS:
        model = nn.ModuleDict({"layers": nn.Linear(3, 2), "head": nn.Linear(2, 2)})
        set_gradients(model, seed=4)
        update_weights(optimizer := build_optimizer(model, config(optimizer=name)), rate=0.0)
        moments = name_moments(optimizer)
        assert moments.keys() == {*model.parameters()}
        for parameter, names in moments.items():
            assert optimizer.state[parameter].keys() - {"step"} == {*names}
