"""LAMB as in the paper's algorithm 2, for one layer, in fp64."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


def follow_gradients(
    weights: Array,
    gradients: Sequence[Array],
    *,
    rate: float,
    betas: tuple[float, float],
    decay: float,
    is_adaptive: bool,
) -> Array:
    """Return the weights after a step on each gradient."""
    mean = np.zeros_like(weights)
    square = np.zeros_like(weights)
    for step, gradient in enumerate(gradients, start=1):
        mean = betas[0] * mean + (1 - betas[0]) * gradient
        square = betas[1] * square + (1 - betas[1]) * gradient * gradient
        unbiased_mean = mean / (1 - betas[0] ** step)
        unbiased_square = square / (1 - betas[1] ** step)
        update = unbiased_mean / (np.sqrt(unbiased_square) + 1e-6) + decay * weights
        ratio = 1.0
        lengths = np.sqrt((weights**2).sum()), np.sqrt((update**2).sum())
        if is_adaptive and lengths[0] > 0 and lengths[1] > 0:
            ratio = lengths[0] / lengths[1]
        weights = weights - rate * ratio * update
    return weights
