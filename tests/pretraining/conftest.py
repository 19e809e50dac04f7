"""What tests of training share."""

from collections.abc import Iterator

import pytest
from smallpresets import shrink_presets


@pytest.fixture(scope="module")
def small_presets() -> Iterator[None]:
    """Small models under the names of presets, for all tests of a module that asks for it."""
    with pytest.MonkeyPatch.context() as patched:
        shrink_presets(patched)
        yield
