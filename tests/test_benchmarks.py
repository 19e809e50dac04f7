"""Every benchmark behind a figure of the README runs from an empty cache.

They train models of a few dimensions, and but for two of them, which measure commands, their
processes are copies.
"""

import json
import subprocess
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import forkserver
import pytest
from benchmarks import measuring, peers, planning
from benchmarks.measuring import Command, Usage
from smallpresets import shrink_presets


def run_copy(command: Command) -> Usage:
    """Run a command of the benchmark of planning in a copy; it takes no time."""
    forkserver.run(command, check=True, capture_output=True)
    return Usage(0.0, 0.0)


@pytest.mark.parametrize(
    "name",
    ["encode", "train", "instances", "loading", "pretrain", "lengths", "learning", "planning"],
)
def test_a_benchmark_runs_from_an_empty_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (measuring, peers):  # the cores are the test's own
        monkeypatch.setattr(module, "limit_cores", lambda: None)
    copied = SimpleNamespace(**{**vars(subprocess), "run": forkserver.run})
    monkeypatch.setattr(peers, "subprocess", copied)
    monkeypatch.setattr(planning, "run_measured", run_copy)
    shrink_presets(monkeypatch)
    arguments = ["--tiny", "--json", str(tmp_path / "figures.json")]
    if name != "planning":
        arguments += ["--rounds", "1"]
    if name in {"encode", "train", "instances", "learning"}:
        arguments += ["--cache", str(tmp_path), "--shared", str(tmp_path / "missing")]
    import_module(f"benchmarks.{name}").main(arguments)
    assert json.loads((tmp_path / "figures.json").read_text())
