"""The scale of the loss in fp16, which has no numbers below 6e-8, as many gradients would be.

The loss is multiplied by the scale before the backward pass, and the gradients are divided by it before
they are clipped. A scale that is too large makes a gradient infinite. Then the step changes no weights,
is counted as skipped, and the scale is halved; after 2,000 steps without one it is doubled (Micikevicius
et al. 2018, arXiv:1710.03740, section 3.2). This is torch's ``GradScaler``, whose state a checkpoint
holds as two numbers. In other precisions nothing is scaled.

The fused AdamW reads on the device whether to skip; before a step of another optimizer the process waits
for the device.
"""

from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from tokkit.pretraining.training.device import choose_precision

INITIAL_SCALE = 2.0**16


class LossScale:
    """An optimizer whose gradients are those of a scaled loss.

    Args:
        optimizer: of the weights.
        device: of the weights.
        precision: of the products; only in fp16 is the loss scaled.
    """

    def __init__(self, optimizer: Optimizer, device: torch.device, precision: str) -> None:
        enabled = choose_precision(precision, device) == "fp16"
        self._optimizer = optimizer
        self._scaler = torch.amp.GradScaler(device.type, init_scale=INITIAL_SCALE, enabled=enabled)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """Those of the optimizer."""
        return self._optimizer.param_groups

    @property
    def state(self) -> tuple[float, int] | None:
        """The scale and the number of steps since it last changed, from the device; None if disabled."""
        if not self._scaler.is_enabled():
            return None
        state = self._scaler.state_dict()
        return state["scale"], state["_growth_tracker"]

    def restore(self, state: tuple[float, int] | None) -> None:
        """Continue with a scale that was saved, if the loss is scaled."""
        if state is not None and self._scaler.is_enabled():
            scale, steps = state
            saved = {**self._scaler.state_dict(), "scale": scale, "_growth_tracker": steps}
            self._scaler.load_state_dict(saved)

    @property
    def can_shrink(self) -> bool:
        """Whether gradients that are not finite may be due to the scale."""
        return self._scaler.is_enabled() and self._scaler.get_scale() >= 1

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of a loss, times the scale, to those of the weights."""
        torch.autograd.backward(self._scaler.scale(loss))

    def unscale(self) -> None:
        """Divide the gradients by the scale."""
        self._scaler.unscale_(self._optimizer)

    def step(self) -> None:
        """Update the weights unless a gradient is not finite, then the scale."""
        self._scaler.step(self._optimizer)
        self._scaler.update()

    def zero_grad(self, *, set_to_none: bool) -> None:
        """Drop the gradients."""
        self._optimizer.zero_grad(set_to_none=set_to_none)
