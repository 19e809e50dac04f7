"""AdamW with linear warm-up and linear decay, as BERT was trained.

The rate is a pure function of the step, so a resumed run has nothing to restore. With a peak of
1.0, two steps of warm-up and six steps in all:

    step  0    1    2    3     4    5
    rate  0.5  1.0  1.0  0.75  0.5  0.25

google-research/bert spends its first update on a rate of 0; here the first one counts.
"""

import torch
from torch import nn

from tokkit.pretraining.config import PretrainConfig

BETAS = (0.9, 0.999)
EPSILON = 1e-6
MAX_GRADIENT_NORM = 1.0


def learning_rate(step: int, *, peak: float, warmup_steps: int, max_steps: int) -> float:
    """The rate of update ``step``, which counts from 0 and is below ``max_steps``."""
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    return peak * (max_steps - step) / (max_steps - warmup_steps)


def scheduled_rate(step: int, config: PretrainConfig) -> float:
    """The rate of update ``step`` under a run's options; by default a tenth of it is warm-up."""
    warmup_steps = config.max_steps // 10 if config.warmup_steps is None else config.warmup_steps
    return learning_rate(
        step, peak=config.learning_rate, warmup_steps=warmup_steps, max_steps=config.max_steps
    )


def build_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW whose decay spares biases and norms: what has one dimension is one or the other.

    The fused form updates all parameters in one call: for ``tiny`` on a CPU 1.3 ms a step, where
    one call a parameter took 5.6 and ``foreach`` 4.7.
    """
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=BETAS, eps=EPSILON, fused=True)


def clip_gradients(model: nn.Module) -> torch.Tensor:
    """Scale all gradients down to a norm of 1 if it is more; returns the norm before."""
    return nn.utils.clip_grad_norm_(model.parameters(), MAX_GRADIENT_NORM)


def update(optimizer: torch.optim.AdamW, rate: float) -> None:
    """Take a step at ``rate`` and drop the gradients."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
