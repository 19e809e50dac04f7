"""Test statistics in standard deviations, so that no table is needed."""

import numpy as np
from numpy.typing import ArrayLike


def chi_square_z(observed: ArrayLike, expected: ArrayLike) -> float:
    """Return (chi-square - df) / sqrt(2 df), about normal where df is 20 or more.

    ``expected`` is one number for all cells or one per cell. Tests allow 4. Their seeds are fixed,
    so they are not flaky; a correct program fails for one seed in 5,000 with 100 cells, and for one
    in 240 with five.
    """
    seen = np.asarray(observed, np.float64)
    means = np.broadcast_to(np.asarray(expected, np.float64), seen.shape)
    degrees = seen.size - 1
    return float((((seen - means) ** 2 / means).sum() - degrees) / np.sqrt(2 * degrees))


def share_z(successes: int, trials: int, probability: float) -> float:
    """Return the distance of a share from its probability, in standard errors."""
    error = np.sqrt(trials * probability * (1 - probability))
    return float((successes - trials * probability) / error)
