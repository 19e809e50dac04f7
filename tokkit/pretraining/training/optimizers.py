"""Optimizers: AdamW, LAMB, StableAdamW and Muon, and what a step does with gradients.

To add one, write its class, or a function that builds it from groups of parameters, and add it to
``BUILDERS`` below, and its name to the choices of ``--optimizer`` in ``pretrain_config.py``. If it
does not keep AdamW's two moments, its parameter groups name what it keeps under ``moments``; tensors
of another shape than the parameter's also need a change of ``name_tensors`` in ``checkpoints.py``.
``BYTES_PER_PARAMETER`` in ``estimate.py`` counts two moments, the most that any of these keeps.

Everything works on plain parameters and on those that FSDP2 (``fully_shard``) has sharded, where norms
are those of whole tensors. As for BERT, biases and norms have no weight decay.

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

This is the variant of NVIDIA's BERT (apex, FusedLAMB with its defaults): with bias correction, which
google-research/albert leaves out, and without the ratio and decay on biases and norms, as in both.
apex leaves the ratio out wherever decay is 0; here ``adapt`` decides, so ``--weight-decay 0`` is still
LAMB. Each tensor has its own ratio, and the three projections of attention are one tensor here.

StableAdamW is AdamW that takes smaller steps where a gradient is larger than the second moment
expects, by Adafactor's clipping, so it needs no clipping of gradients: Wortsman et al. 2023, "Stable
and low-precision training for large-scale vision-language models" (arXiv:2304.13013, algorithm 2).
ModernBERT was trained with it. With moments m and v that are corrected by their weights,
beta' = beta (1 - beta^(step-1)) / (1 - beta^step), for each tensor

    m = beta1' * m + (1 - beta1') * g
    v = beta2' * v + (1 - beta2') * g^2
    rate' = rate / max(1, root of the mean of g^2 / max(v, epsilon^2))
    w = w - rate' * decay * w - rate' * m / (sqrt(v) + epsilon)

Muon is torch's own, for the matrices of the layers; everything else, embeddings and heads included,
has AdamW, as in Keller Jordan's post (kellerjordan.github.io/posts/muon): Nesterov momentum of 0.95,
five steps of Newton-Schulz. Updates are scaled by 0.2 * sqrt(max(rows, columns)), to the length of
AdamW's, so one learning rate and one weight decay serve both: Liu et al. 2025, "Muon is scalable for
LLM training" (arXiv:2502.16982). A shard of a matrix cannot be orthogonalized, so under FSDP2 each
process gathers the momentum of one matrix at a time and keeps its own rows of the update.
"""

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import ScaledOptimizer

EPSILON = 1e-6
ADAM_MOMENTS = ("exp_avg", "exp_avg_sq")

Groups = list[dict[str, Any]]


def build_optimizer(model: nn.Module, config: PretrainConfig) -> Optimizer:
    """Return the optimizer of a run.

    Biases and norms have no weight decay. They are the parameters of one dimension, and XLNet's biases
    of heads.

    Args:
        model: model whose parameters are updated; shared ones are updated once.
        config: options of the run.
    """
    parameters = dict(model.named_parameters())
    is_muon = config.optimizer == "muon"
    small = {p for name, p in parameters.items() if p.dim() == 1 or name.endswith("bias")}
    hidden = [
        p for name, p in parameters.items() if "layers." in name and p.dim() == 2 and p not in small
    ]
    matrices = {*hidden} if is_muon else set()
    groups: Groups = [
        {
            "params": [p for p in parameters.values() if p not in small | matrices],
            "weight_decay": config.weight_decay,
        },
        {
            "params": [p for p in parameters.values() if p in small],
            "weight_decay": 0.0,
            "adapt": False,  # which only LAMB reads
        },
    ]
    if is_muon:
        groups.append({"params": hidden, "weight_decay": config.weight_decay})
    build = BUILDERS[config.optimizer]
    return build(groups, lr=0.0, betas=(config.betas[0], config.betas[1]), eps=EPSILON)


def _build_muon(groups: Groups, **options: Any) -> Optimizer:
    *others, matrices = groups
    return MuonAdamW([matrices], _build_adamw(others, **options))


# Fused AdamW updates all parameters in one call. For ``tiny`` on a CPU that took 1.3 ms per step, where
# one call per parameter took 5.6 and ``foreach`` 4.7. All devices that we train on support it.
_build_adamw = partial(torch.optim.AdamW, fused=True)


class AdamFamily(torch.optim.Optimizer):
    """What LAMB and StableAdamW share: two moments of fp32 parameters, sharded by FSDP2 or not.

    Each parameter's state has AdamW's names: ``step``, ``exp_avg``, ``exp_avg_sq``.

    They update one tensor at a time: for LAMB ``torch._foreach_*`` took 25% longer for ``base`` on a
    CPU, and needs memory for another copy of all weights. Fewer launches on a GPU would save
    milliseconds of the seconds that a step over thousands of sequences takes.

    Args:
        params: parameters, or groups of them with options of their own.
        options: ``lr``, the learning rate; ``betas``, decay rates of the two moments; ``eps``, added to
            the denominator, for weights that have never had a gradient; ``weight_decay``, share of the
            weight that a step of rate 1 takes away; and those of a subclass.
    """

    def __init__(self, params: Iterable[Any], **options: Any) -> None:
        defaults = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": EPSILON, "weight_decay": 0.01}
        super().__init__(params, defaults | options)

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    state = self.state[parameter]
                    if not state:
                        state["step"] = torch.zeros((), device=parameter.device)
                        state["exp_avg"] = torch.zeros_like(parameter)
                        state["exp_avg_sq"] = torch.zeros_like(parameter)
                    state["step"] += 1
                    self._update(parameter, parameter.grad, group)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        raise NotImplementedError


class Lamb(AdamFamily):
    """LAMB; ``adapt=False``, an option of a group, leaves out the trust ratio, which makes it AdamW."""

    def __init__(self, params: Any, *, adapt: bool = True, **options: Any) -> None:
        super().__init__(params, adapt=adapt, **options)

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        # In place: for base on one thread of a CPU 0.44 s a step, with another temporary 0.73.
        update = (square / _correction(beta2, state["step"])).sqrt_().add_(group["eps"])
        update.reciprocal_().mul_(mean).div_(_correction(beta1, state["step"]))
        update.add_(parameter, alpha=group["weight_decay"])
        if group["adapt"]:
            update.mul_(_trust_ratio(parameter, update))
        parameter.sub_(update, alpha=group["lr"])


class StableAdamW(AdamFamily):
    """StableAdamW; see the module."""

    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state, (beta1, beta2) = self.state[parameter], group["betas"]
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        # 1 - beta' is (1 - beta) / (1 - beta^step). Not as moment + share * (new - moment), which
        # loses what is small next to the moment.
        share = (1 - beta1) / _correction(beta1, state["step"])
        mean.mul_(1 - share).add_(gradient * share)
        share = (1 - beta2) / _correction(beta2, state["step"])
        square.mul_(1 - share).add_((gradient * gradient).mul_(share))
        root = square.sqrt()
        excess = torch.linalg.vector_norm(gradient / root.clamp(min=group["eps"]))
        rate = group["lr"] / (excess / math.sqrt(parameter.numel())).clamp(min=1)
        update = root.add_(group["eps"]).reciprocal_().mul_(mean)
        parameter.sub_(update.add_(parameter, alpha=group["weight_decay"]).mul_(rate))


class MuonAdamW(torch.optim.Optimizer):
    """torch's Muon for matrices and another optimizer for everything else, as one optimizer.

    Args:
        groups: groups of matrices, with their weight decay.
        others: optimizer of the other parameters.
    """

    def __init__(self, groups: Groups, others: Optimizer) -> None:
        self._others = others
        self._muon = torch.optim.Muon(groups, lr=0.0, adjust_lr_fn="match_rms_adamw")
        for group in self._muon.param_groups:
            group["moments"] = ("momentum_buffer",)
        super().__init__([*self._muon.param_groups, *others.param_groups], {})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        # Loading a state replaces these objects.
        first = len(self._muon.param_groups)
        self._muon.param_groups = self.param_groups[:first]
        self._others.param_groups = self.param_groups[first:]
        self._muon.state = self._others.state = self.state
        self._others.step()
        for group in self._muon.param_groups:
            for parameter in group["params"]:
                if isinstance(parameter.grad, DTensor):
                    self._update_rows(parameter, parameter.grad, group)
                    parameter.grad = None
        self._muon.step()  # type: ignore[no-untyped-call]

    def _update_rows(self, parameter: Tensor, gradient: DTensor, group: dict[str, Any]) -> None:
        """Update this process's rows of a sharded matrix.

        The update is a step of torch's Muon without momentum on a matrix of zeros.
        """
        state = self.state[parameter]
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - group["momentum"])
        averaged = cast("DTensor", gradient.lerp(buffer, group["momentum"]))
        update = nn.Parameter(torch.zeros(averaged.shape, device=averaged.device))
        update.grad = averaged.full_tensor()
        options = {name: group[name] for name in ("lr", "ns_steps", "adjust_lr_fn")}
        muon = torch.optim.Muon([update], weight_decay=0, momentum=0, nesterov=False, **options)
        muon.step()  # type: ignore[no-untyped-call]
        rows = distribute_tensor(
            update.data, gradient.device_mesh, gradient.placements, src_data_rank=None
        )
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(rows)


def _correction(beta: float, step: Tensor) -> Tensor:
    """Return 1 - beta^step, on the step's device, as reading the step would wait for a GPU.

    A power in fp32 would be off by 1e-5 at first, since beta is near 1.
    """
    return -torch.expm1(step * (math.log(beta) if beta else -math.inf))


def _trust_ratio(parameter: Tensor, update: Tensor) -> Tensor:
    """Return |w| / |u|, or 1 if either norm is 0."""
    lengths = torch.linalg.vector_norm(parameter), torch.linalg.vector_norm(update)
    ratio = lengths[0] / lengths[1]
    return torch.where((lengths[0] > 0) & (lengths[1] > 0), ratio, torch.ones_like(ratio))


# By the names of ``--optimizer``.
BUILDERS: dict[str, Callable[..., Optimizer]] = {
    "adamw": _build_adamw,
    "lamb": Lamb,
    "stable-adamw": StableAdamW,
    "muon": _build_muon,
}


def name_moments(optimizer: Optimizer) -> dict[Tensor, tuple[str, ...]]:
    """Return the names of the tensors that an optimizer keeps for each parameter, in its shape.

    A checkpoint holds them besides the weights.
    """
    return {
        parameter: group.get("moments", ADAM_MOMENTS)
        for group in optimizer.param_groups
        for parameter in group["params"]
    }


def clip_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Scale gradients down to a total norm of ``max_norm`` if theirs is larger; 0 does not clip.

    Returns:
        The total norm before clipping, 0-dimensional, on the gradients' device.
    """
    parameters = list(model.parameters())
    norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    if max_norm > 0:
        nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return norm


def update_weights(optimizer: Optimizer | ScaledOptimizer, rate: float) -> None:
    """Update the weights with a learning rate of ``rate``, and drop the gradients."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
