"""Fixtures that tests of several rooms use."""

from pathlib import Path

import pytest
from hypothesis import settings

# The first call of a kernel compiles it, which takes seconds.
settings.register_profile("tokkit", deadline=None)
settings.load_profile("tokkit")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="compare everything: all code points and all corpora, which takes long",
    )


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to compare everything rather than a sample."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real corpora and vocabularies beside the repository, where there is one."""
    folder = ROOT.parent / "shared"
    if not (folder / "corpora").is_dir():
        pytest.skip("the folder of real corpora is not beside the repository")
    return folder
