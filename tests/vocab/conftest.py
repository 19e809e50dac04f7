"""Corpora that the tests of ``train`` learn from."""

from pathlib import Path

import pytest
from trainruns import SENTENCES


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("\n\n".join(SENTENCES * 5) + "\n")
    return path


@pytest.fixture(scope="module")
def languages(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A few hundred kilobytes in many scripts, so that many pairs occur as often as others."""
    path = tmp_path_factory.mktemp("corpus") / "languages.txt"
    files = sorted((shared / "corpora" / "multi-udhr").glob("*.txt"))[::24]
    path.write_bytes(b"\n\n".join(file.read_bytes() for file in files))
    return path
