"""Every benchmark behind a figure of the README runs from an empty cache."""

import json
from importlib import import_module
from pathlib import Path

import pytest
from benchmarks import measuring, peers


@pytest.mark.parametrize(
    "name",
    ["encode", "train", "instances", "loading", "pretrain", "lengths", "learning", "planning"],
)
def test_a_benchmark_runs_from_an_empty_cache(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (measuring, peers):  # the cores are the test's own
        monkeypatch.setattr(module, "limit_cores", lambda: None)
    arguments = ["--tiny", "--json", str(tmp_path / "figures.json")]
    if name != "planning":
        arguments += ["--rounds", "1"]
    if name in {"encode", "train", "instances", "learning"}:
        arguments += ["--cache", str(tmp_path), "--shared", str(tmp_path / "missing")]
    import_module(f"benchmarks.{name}").main(arguments)
    assert json.loads((tmp_path / "figures.json").read_text())
