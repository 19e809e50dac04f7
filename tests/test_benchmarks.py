"""Every benchmark behind a figure of the README runs from an empty cache.

They train models of a few dimensions, and but for two of them, which measure commands, their
processes are copies.
"""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import forkserver
import pytest
from benchmarks import measuring, peers, planning
from benchmarks.measuring import Command, Usage
from benchmarks.pretrain import OUT_OF_MEMORY, run_apart
from smallpresets import shrink_presets


def run_copy(command: Command) -> Usage:
    """Run a command of the benchmark of planning in a copy; it takes no time."""
    forkserver.run(command, check=True, capture_output=True)
    return Usage(0.0, 0.0)


@pytest.mark.parametrize(
    "name",
    [
        *("compile", "encode", "train", "instances", "loading"),
        *("pretrain", "lengths", "learning", "planning"),
    ],
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
    if name not in {"compile", "planning"}:
        arguments += ["--rounds", "1"]
    if name in {"compile", "encode", "train", "instances", "learning"}:
        arguments += ["--cache", str(tmp_path), "--shared", str(tmp_path / "missing")]
    import_module(f"benchmarks.{name}").main(arguments)
    assert json.loads((tmp_path / "figures.json").read_text())


@pytest.mark.parametrize(
    ("function", "name", "value"),
    [
        (partial(dict, seconds=1.0), "seconds", "1.0"),
        (partial(signal.raise_signal, signal.SIGKILL), "note", "left out: BrokenProcessPool"),
        (partial(bytearray, 1 << 62), "note", OUT_OF_MEMORY),
        (partial(int, "one"), "note", "left out: ValueError: invalid literal"),
        (partial(sys.exit, "no driver"), "note", "left out: SystemExit: no driver"),
    ],
)
def test_a_peer_that_dies_costs_no_figures(
    function: Callable[[], Any], name: str, value: str
) -> None:
    found = run_apart(function)
    assert list(found) == [name]
    assert str(found[name]).startswith(value)
