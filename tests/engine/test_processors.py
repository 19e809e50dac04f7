"""The number of workers is the number of processors that the process may use."""

import os
from pathlib import Path

import pytest

from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.stage_config import count_processors


def write(root: Path, group: str, **files: str) -> None:
    (root / "proc/self").mkdir(parents=True, exist_ok=True)
    (root / "proc/self/cgroup").write_text(group + "\n")
    for name, text in files.items():
        path = root / "sys/fs/cgroup" / name.replace("__", "/")
        path = path.with_name(
            {"max": "cpu.max", "quota": "cpu.cfs_quota_us"}.get(path.name, path.name)
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
        (path.parent / "cpu.cfs_period_us").write_text("100000\n")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of 16 processors without control groups."""
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(16)}, raising=False)
    return tmp_path


def test_without_limits_all_processors_are_used(root: Path) -> None:
    assert count_processors(root) == 16
    write(root, "0::/", max="max 100000")
    assert count_processors(root) == 16


def test_affinity_is_honoured(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5}, raising=False)
    assert count_processors(root) == 2


@pytest.mark.parametrize(
    ("text", "number"), [("400000 100000", 4), ("150000 100000", 2), ("50 100", 1)]
)
def test_the_quota_of_a_control_group_is_honoured(root: Path, text: str, number: int) -> None:
    write(root, "0::/", max=text)
    assert count_processors(root) == number


def test_the_quota_of_a_group_above_is_honoured(root: Path) -> None:
    write(root, "0::/a/b", a__b__max="max 100000", a__max="300000 100000")
    assert count_processors(root) == 3


def test_a_container_that_sees_the_hosts_path_has_its_quota_at_the_top(root: Path) -> None:
    write(root, "0::/docker/4711", max="200000 100000")
    assert count_processors(root) == 2


def test_version_1_is_honoured(root: Path) -> None:
    write(root, "4:cpu,cpuacct:/job", **{"cpu,cpuacct__job__quota": "250000"})
    assert count_processors(root) == 3
    write(root, "4:cpu,cpuacct:/job", **{"cpu,cpuacct__job__quota": "-1"})
    assert count_processors(root) == 16


def test_stages_use_them_by_default() -> None:
    config = EncodeConfig(inputs=("a",), tokenizer=Path("t"), output=Path("o"))
    assert config.workers == count_processors()
