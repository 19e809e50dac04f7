"""Folders that tests of remedies copy."""

from pathlib import Path

import pytest
from commandremedies import make_folders


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working folder with folders of all kinds."""
    return make_folders(tmp_path_factory.mktemp("made"))
