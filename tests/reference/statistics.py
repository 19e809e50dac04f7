"""Chi-square without a table: how far it lies from its mean, in standard deviations."""

import numpy as np
from numpy.typing import ArrayLike


def chi_square_z(observed: ArrayLike, expected: ArrayLike) -> float:
    """(chi-square - df) / sqrt(2 df), about normal where df is 20 or more.

    ``expected`` is a number for all cells or one for each. Tests allow 4: their seeds are fixed, so
    they are not flaky; a right program is refused for one seed in 5,000 where there are 100 cells,
    and for one in 240 where there are five.
    """
    seen = np.asarray(observed, np.float64)
    wanted = np.broadcast_to(np.asarray(expected, np.float64), seen.shape)
    degrees = seen.size - 1
    return float((((seen - wanted) ** 2 / wanted).sum() - degrees) / np.sqrt(2 * degrees))


def share_z(successes: int, trials: int, probability: float) -> float:
    """How far a share lies from its probability, in standard errors."""
    error = np.sqrt(trials * probability * (1 - probability))
    return float((successes - trials * probability) / error)
