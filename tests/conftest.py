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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the README's tests first: the quickstart takes longest, and others wait for it."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to compare everything instead of a sample."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real corpora and vocabularies next to the repository; skip without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "corpora").is_dir():
        pytest.skip("there is no folder of real corpora next to the repository")
    return folder
