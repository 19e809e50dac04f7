"""StableAdamW as in algorithm 2 of Wortsman et al. 2023 (arXiv:2304.13013), for one layer, in fp64."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
EPSILON = 1e-6


def follow_stably(
    weights: Array,
    gradients: Sequence[Array],
    *,
    rate: float,
    betas: tuple[float, float],
    decay: float,
) -> Array:
    """Return the weights after a step on each gradient."""
    mean = np.zeros_like(weights)
    square = np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        beta1, beta2 = (beta * (1 - beta ** (step - 1)) / (1 - beta**step) for beta in betas)
        mean = beta1 * mean + (1 - beta1) * gradient
        square = beta2 * square + (1 - beta2) * gradient**2
        rms = np.sqrt((gradient**2 / np.maximum(square, EPSILON**2)).mean())
        own_rate = rate / max(1.0, rms)
        update = mean / (np.sqrt(square) + EPSILON)
        weights = weights - own_rate * decay * weights - own_rate * update
    return weights
