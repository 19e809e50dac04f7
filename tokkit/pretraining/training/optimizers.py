"""Optimizers: AdamW and LAMB with BERT's weight decay, and what a step does with gradients.

To add one, write a function that builds it and add it to ``BUILDERS`` and ``MOMENTS`` below, and its
name to the choices of ``--optimizer`` in ``pretrain_config.py``. If it does not keep exactly two
moments of the parameter's shape, also change ``BYTES_PER_PARAMETER`` in ``estimate.py``, which counts
two, and ``expect_tensors`` in ``checkpoints.py``, which expects that shape.

Everything here works on plain parameters and on those that FSDP2 (``fully_shard``) has split among
processes, where norms are those of whole tensors.

LAMB is Adam with updates in proportion to the weights, for batches of thousands: You et al. 2020,
"Large Batch Optimization for Deep Learning" (arXiv:1904.00962v5, algorithm 2). With gradient g,
moments m and v, and both corrected for starting at 0 (step counts from 1):

    m = beta1 * m + (1 - beta1) * g            m' = m / (1 - beta1^step)
    v = beta2 * v + (1 - beta2) * g^2          v' = v / (1 - beta2^step)
    u = m' / (sqrt(v') + epsilon) + decay * w
    w = w - rate * |w| / |u| * u

So a weight matrix of norm 30 moves by 0.03 at a rate of 0.001, whatever its gradients are. The
trust ratio |w| / |u| is 1 if either norm is 0; the paper's clamp on |w| is left out, as in all
implementations.

Of the variants in use this is that of NVIDIA's BERT (apex, FusedLAMB with its defaults): with bias
correction, which google-research/albert leaves out, and without the ratio and decay on biases and
norms, as in both. apex takes a decay of 0 to mean the same for all weights; here ``adapt`` says it,
so ``--weight-decay 0`` is still LAMB. A ratio belongs to a tensor, and the three projections of
attention are one tensor here.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from tokkit.pretraining.pretrain_config import PretrainConfig

EPSILON = 1e-6

Groups = list[dict[str, Any]]


def build_optimizer(model: nn.Module, config: PretrainConfig) -> Optimizer:
    """Return the optimizer of a run.

    Biases and norms, which are the parameters of one dimension, have no weight decay.

    Args:
        model: its parameters are updated; one that several modules share occurs once.
        config: options of the run.
    """
    parameters = list(model.parameters())
    groups: Groups = [
        {
            "params": [p for p in parameters if p.dim() > 1],
            "weight_decay": config.weight_decay,
        },
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return BUILDERS[config.optimizer](groups, (config.betas[0], config.betas[1]))


def _build_adamw(groups: Groups, betas: tuple[float, float]) -> Optimizer:
    """Return AdamW in its fused form, which updates all parameters in one call.

    For ``tiny`` on a CPU that took 1.3 ms a step, where one call a parameter took 5.6 and
    ``foreach`` 4.7. Every device that we train on has it.
    """
    return torch.optim.AdamW(groups, lr=0.0, betas=betas, eps=EPSILON, fused=True)


def _build_lamb(groups: Groups, betas: tuple[float, float]) -> Optimizer:
    _, one_dimensional = groups
    one_dimensional["adapt"] = False
    return Lamb(groups, lr=0.0, betas=betas, eps=EPSILON)


class Lamb(torch.optim.Optimizer):
    """LAMB on fp32 parameters, whether or not FSDP2 has split them.

    Each parameter's state has AdamW's names: ``step``, ``exp_avg``, ``exp_avg_sq``.

    It updates one tensor at a time: ``torch._foreach_*`` took a quarter more time for ``base`` on a
    CPU, and needs memory for another copy of all weights. Fewer launches on a GPU would save
    milliseconds of the seconds that a step over thousands of sequences takes.

    Args:
        params: parameters, or groups of them with options of their own.
        lr: learning rate.
        betas: decay rates of the two moments.
        eps: added to the denominator, for weights that have never had a gradient.
        weight_decay: share of the weight that is added to its update.
        adapt: scale updates by the trust ratio |w| / |u|; without it this is AdamW.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.01,
        adapt: bool = True,
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, options | {"adapt": adapt})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Update every parameter that has a gradient.

        Args:
            closure: recomputes the loss and its gradients.

        Returns:
            The closure's loss; None without a closure.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), device=parameter.device)
            state["exp_avg"] = torch.zeros_like(parameter)
            state["exp_avg_sq"] = torch.zeros_like(parameter)
        beta1, beta2 = group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        state["step"] += 1
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # In place: for base on one thread of a CPU 0.44 s a step, with another temporary 0.73.
        update = (square / _correction(beta2, state["step"])).sqrt_().add_(group["eps"])
        update.reciprocal_().mul_(mean).div_(_correction(beta1, state["step"]))
        update.add_(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            update.mul_(_trust_ratio(parameter, update))
        parameter.sub_(update, alpha=group["lr"])


def _correction(beta: float, step: Tensor) -> Tensor:
    """Return 1 - beta^step, on the step's device: reading the step would wait for a GPU.

    A power in fp32 would be wrong by 1e-5 at first, since beta is near 1.
    """
    return -torch.expm1(step * (math.log(beta) if beta else -math.inf))


def _trust_ratio(parameter: Tensor, update: Tensor) -> Tensor:
    """Return |w| / |u|, or 1 if either norm is 0."""
    lengths = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(update)
    ratio = lengths[0] / lengths[1]
    return torch.where((lengths[0] > 0) & (lengths[1] > 0), ratio, torch.ones_like(ratio))


# By the names of ``--optimizer``.
BUILDERS: dict[str, Callable[[Groups, tuple[float, float]], Optimizer]] = {
    "adamw": _build_adamw,
    "lamb": _build_lamb,
}

# Tensors that an optimizer keeps for each parameter, in its shape: what a checkpoint holds besides
# the weights.
MOMENTS: dict[type[Optimizer], tuple[str, ...]] = {
    torch.optim.AdamW: ("exp_avg", "exp_avg_sq"),
    Lamb: ("exp_avg", "exp_avg_sq"),
}


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale all gradients down to a total norm of ``max_norm`` if theirs is larger; 0 leaves them.

    Returns:
        The total norm before clipping: 0-dimensional, on the gradients' device.
    """
    parameters = list(model.parameters())
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def update_weights(optimizer: Optimizer, rate: float) -> None:
    """Update the weights with a learning rate of ``rate``, and drop the gradients."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
