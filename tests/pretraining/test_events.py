import logging
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tokkit.errors import TokkitError, require_library
from tokkit.pretraining.training.trackers import EventLog


def train(step: int, loss: float) -> dict[str, Any]:
    return {"kind": "train", "step": step, "loss": loss, "tokens": 100 * step}


def evaluation(step: int, loss: float) -> dict[str, Any]:
    return {"kind": "eval", "step": step, "loss": loss, "perplexity": 10 * loss}


def read(folder: Path, kind: str) -> dict[str, list[tuple[int, float]]]:
    """The scalars as TensorBoard takes them from a folder."""
    events = EventAccumulator(str(folder / "tensorboard" / kind))
    events.Reload()
    return {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
    }


def test_every_figure_of_every_line_is_a_scalar(tmp_path: Path) -> None:
    with EventLog(tmp_path, 0) as events:
        events.write(evaluation(0, 8.0))
        events.write(train(10, 7.5))
        assert read(tmp_path, "train")["loss"] == [(10, 7.5)]  # at once
        events.write(train(20, 7.0))
        events.write(evaluation(20, 6.5))
    assert read(tmp_path, "train") == {
        "loss": [(10, 7.5), (20, 7.0)],
        "tokens": [(10, 1000), (20, 2000)],
    }
    assert read(tmp_path, "eval") == {
        "loss": [(0, 8.0), (20, 6.5)],
        "perplexity": [(0, 80), (20, 65)],
    }


def test_a_resumed_run_drops_what_is_done_again(tmp_path: Path) -> None:
    """As in metrics.jsonl: the training line of the checkpoint's step stands, its evaluation not."""
    with EventLog(tmp_path, 0) as events:
        for step in (10, 20, 30):
            events.write(evaluation(step - 10, 8.0))
            events.write(train(step, 7.0))
    with EventLog(tmp_path, 20) as events:
        events.write(evaluation(20, 4.0))
        events.write(train(30, 3.0))
    assert read(tmp_path, "train")["loss"] == [(10, 7), (20, 7), (30, 3)]
    assert read(tmp_path, "eval")["loss"] == [(0, 8), (10, 8), (20, 4)]
    with EventLog(tmp_path, 20, evaluated=True):
        assert read(tmp_path, "eval")["loss"] == [(0, 8), (10, 8), (20, 4)]

    with EventLog(tmp_path, 0) as events:
        events.write(evaluation(0, 2.0))
    assert read(tmp_path, "train").get("loss", []) == []
    assert read(tmp_path, "eval")["loss"] == [(0, 2)]


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond ``room`` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_neither_the_run_nor_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with EventLog(tmp_path, 0) as events, caplog.at_level(logging.WARNING):
        events.write(train(10, 7.0))
        (path,) = (tmp_path / "tensorboard" / "train").iterdir()
        size = path.stat().st_size
        with full_disk(size + 20):
            events.write(train(20, 6.0))
            events.write(train(30, 5.0))
        assert path.stat().st_size == size
        events.write(train(40, 4.0))
    assert read(tmp_path, "train")["loss"] == [(10, 7), (40, 4)]
    (warned,) = caplog.messages
    assert "tensorboard: larger than the file system or a limit" in warned


def test_a_missing_library_is_reported_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    require_library("tensorboard", "--tracker tensorboard", "tensorboard")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(TokkitError, match=r"pip install 'tokkit\[tensorboard\]'"):
        require_library("tensorboard", "--tracker tensorboard", "tensorboard")
