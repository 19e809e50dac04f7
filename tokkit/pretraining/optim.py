"""Optimizers with BERT's weight decay, and what a step does with gradients.

All of it works on plain parameters and on those that FSDP2 (``fully_shard``) has split among
processes, where norms are those of whole tensors.
"""

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.lamb import Lamb

EPSILON = 1e-6


def build_optimizer(model: nn.Module, config: PretrainConfig) -> torch.optim.Optimizer:
    """AdamW or LAMB, which spares biases and norms: what has one dimension is one or the other.

    AdamW's fused form updates all parameters in one call: for ``tiny`` on a CPU 1.3 ms a step,
    where one call a parameter took 5.6 and ``foreach`` 4.7. Every device that we train on has it.

    Args:
        model: whose parameters are updated; one that several modules share occurs once.
        config: of the run.
    """
    parameters = list(model.parameters())
    weights = {
        "params": [p for p in parameters if p.dim() > 1],
        "weight_decay": config.weight_decay,
    }
    spared = {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0}
    betas = (config.betas[0], config.betas[1])
    if config.optimizer == "lamb":
        spared["adapt"] = False
        return Lamb([weights, spared], lr=0.0, betas=betas, eps=EPSILON)
    return torch.optim.AdamW([weights, spared], lr=0.0, betas=betas, eps=EPSILON, fused=True)


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients down to a norm of ``max_norm`` if theirs is more; 0 leaves them.

    Returns:
        The norm before, of all gradients together: 0-dimensional, on their device.
    """
    parameters = list(model.parameters())
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def update(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Take a step at ``rate`` and drop the gradients."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
