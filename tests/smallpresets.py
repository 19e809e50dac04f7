"""Makes the smallest presets smaller, for tests of runs, whose properties do not depend on their size.

Half the time of a step is that of its matrix products: a step of eight sequences takes ``tiny`` 16 ms
on one core, and a model of 32 dimensions 9 ms.
"""

import pytest

from tokkit.pretraining.families import MODERNBERT_PRESETS, PRESETS

TINY = (2, 32, 2, 128)
SEVENTEEN = (4, 32, 2, 48)

# The first lines of a program that another process runs.
SHRINK_PRESETS = f"""
from tokkit.pretraining.families import PRESETS
PRESETS["tiny"] = {TINY}
"""


def shrink_presets(patched: pytest.MonkeyPatch) -> None:
    """Give ``tiny`` and ``17m`` these sizes."""
    patched.setitem(PRESETS, "tiny", TINY)
    patched.setitem(MODERNBERT_PRESETS, "17m", SEVENTEEN)
