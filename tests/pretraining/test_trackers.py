"""The lines of ``metrics.jsonl`` reach every tracker, and no tracker stops a run."""

import json
import logging
import sys
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from click.testing import CliRunner
from instancefolders import write_instance_folder
from realcommands import pretrain_arguments

from tokkit.cli import cli
from tokkit.errors import TokkitError
from tokkit.pretraining.training import trackers
from tokkit.pretraining.training.run_record import read_metrics

pytestmark = pytest.mark.usefixtures("small_presets")

OPTIONS: dict[str, Any] = {
    "preset": "tiny",
    "batch_size": 4,
    "eval_every": 5,
    "device": "cpu",
    "threads": 1,
}
LIBRARIES = ("wandb", "trackio", "mlflow")


class RecordingLibrary:
    """A tracker's library whose functions, and those of what they return, note how they are called.

    Attributes:
        calls: name and arguments of each call.
        hangs: whether sending metrics takes forever.
        refuses: whether opening a run raises an error.
    """

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []
        self.hangs = self.refuses = False

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **options: Any) -> Any:
            self.calls.append((name, arguments or options))
            sys.stdout.write("hello from the library\n")
            if self.refuses:
                raise ConnectionError("nobody is there\nat all")
            if self.hangs and name.startswith("log"):
                Event().wait(30)
            return [] if name == "search_runs" else self

        return call

    def sent(self) -> list[Any]:
        return [rest for name, rest in self.calls if name in {"log", "log_metrics"}]


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_instance_folder(tmp_path_factory.mktemp("trackers") / "instances")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> RecordingLibrary:
    """The library of each tracker."""
    library = RecordingLibrary()
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, library)
    monkeypatch.setattr("tokkit.pretraining.pretrain.require_library", lambda *_: None)
    return library


def run(instances: Path, output: Path, tracker: str, max_steps: int = 5) -> str:
    """Run to an end; return what is printed as a result."""
    options = {**OPTIONS, "max_steps": max_steps, "tracker": tracker}
    result = CliRunner().invoke(
        cli, [*pretrain_arguments([instances], output, **options), "--json"]
    )
    if result.exception is not None:
        raise result.exception
    assert json.loads(result.stdout)["kind"] == "run"
    return result.stderr


@pytest.mark.parametrize("tracker", LIBRARIES)
def test_every_line_arrives_and_a_run_that_goes_on_is_the_same(
    tracker: str, instances: Path, tmp_path: Path, library: RecordingLibrary
) -> None:
    run(instances, tmp_path / "run", tracker)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    expected = [
        ({f"{line['kind']}/{key}": line[key] for key in line if key not in ("kind", "step")}, step)
        for line in lines
        for step in [line["step"]]
    ]
    assert library.sent() == expected
    assert library.calls[-1][0] in {"finish", "end_run"}
    opened = [rest for name, rest in library.calls if name in {"init", "start_run"}]
    run(instances, tmp_path / "run", tracker, max_steps=6)
    again = [rest for name, rest in library.calls if name in {"init", "start_run"}][1:]
    names = ("id", "name", "project", "run_name", "tags")
    assert [[o.get(n) for n in names] for o in opened] == [[o.get(n) for n in names] for o in again]


def test_a_tracker_that_cannot_be_reached_costs_a_warning(
    instances: Path, tmp_path: Path, library: RecordingLibrary, caplog: pytest.LogCaptureFixture
) -> None:
    library.refuses = True
    with caplog.at_level(logging.WARNING):
        run(instances, tmp_path / "run", "wandb")
    (warning,) = caplog.messages
    assert warning.startswith(
        "--tracker wandb: ConnectionError: nobody is there; training continues"
    )


def test_a_tracker_that_hangs_is_not_waited_for(
    instances: Path,
    tmp_path: Path,
    library: RecordingLibrary,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    library.hangs = True
    monkeypatch.setattr(trackers, "EXIT_SECONDS", 0.2)
    with caplog.at_level(logging.WARNING):
        run(instances, tmp_path / "run", "mlflow")
    (warning,) = caplog.messages
    assert "no answer for 0.2 seconds; its last lines may be missing" in warning
    assert len(read_metrics(tmp_path / "run" / "metrics.jsonl")) == 3


@pytest.mark.parametrize("tracker", [name for name in LIBRARIES if name not in sys.modules])
def test_a_tracker_that_is_not_installed_is_named_before_anything_is_read(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(TokkitError, match=rf"--tracker {tracker} needs it: pip install 'tokkit\["):
        run(tmp_path / "missing", tmp_path / "run", tracker)


@pytest.mark.parametrize("tracker", LIBRARIES)
def test_the_library_itself_takes_the_lines_without_a_network(
    tracker: str, instances: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path / 'mlruns'}")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    pytest.importorskip(tracker)  # some read the environment when they are imported
    assert "--tracker" not in run(instances, tmp_path / "run", tracker)
    pattern = {"wandb": "run/wandb/offline-run-*/*.wandb", "mlflow": "mlruns/*/*/metrics/eval/loss"}
    (written,) = tmp_path.glob(pattern.get(tracker, "trackio/*.db"))
    assert written.stat().st_size > 20
