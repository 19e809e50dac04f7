import contextlib
import json
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from tokkit.pretraining.training.reporting import MetricsLog
from tokkit.pretraining.training.run_record import read_metrics

LINES = [
    {"kind": "eval", "step": 0, "loss": 1.5},
    {"kind": "train", "step": 10, "loss": 1.5},
    {"kind": "eval", "step": 10, "loss": 1.5},
    {"kind": "train", "step": 20, "loss": 1.5},
    {"kind": "eval", "step": 20, "loss": 1.5},
]


def write_lines(path: Path, tail: str = "") -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES) + tail)


def test_what_lies_behind_the_checkpoint_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for step, kept in ((0, 0), (9, 1), (10, 2), (15, 3), (20, 4), (21, 5)):
        write_lines(path)
        with MetricsLog(path, step):
            assert read_metrics(path) == LINES[:kept]


def test_lines_are_appended_and_readable_at_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as metrics:
        for line in LINES:
            metrics.write(line)
        assert read_metrics(path) == LINES
        metrics.sync()
    assert path.read_text().count("\n") == len(LINES)


def test_a_line_that_a_crash_cut_short_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for tail in ('{"kind": "tr', '{"kind": "tr\n'):
        write_lines(path, tail)
        assert read_metrics(path) == LINES
        with MetricsLog(path, 21) as metrics:
            metrics.write({"kind": "train", "step": 30, "loss": 1.5})
        assert read_metrics(path) == [*LINES, {"kind": "train", "step": 30, "loss": 1.5}]


def test_there_are_none_without_a_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []


@contextlib.contextmanager
def limited_size(num_bytes: int) -> Iterator[None]:
    """A disk that is full when a file has so many bytes: what fits in is written, like there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_lines_that_do_not_fit_wait_until_they_do(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsLog(path, 0) as metrics:
        metrics.write(LINES[0])
        size = path.stat().st_size
        with limited_size(size + 7):
            for line in LINES[1:3]:
                metrics.write(line)
                assert read_metrics(path) == LINES[:1]
            metrics.sync()
            assert path.stat().st_size == size
        assert len(caplog.messages) == 1
        assert "metrics.jsonl: not written (file too large); training continues" in caplog.text
        metrics.write(LINES[3])
        assert read_metrics(path) == LINES[:4]
        with limited_size(path.stat().st_size):
            metrics.write(LINES[4])
        assert len(caplog.messages) == 2
    assert read_metrics(path) == LINES
    assert path.read_text().count("\n") == len(LINES)


def test_lines_that_are_lost_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "metrics.jsonl"
    with contextlib.ExitStack() as stack:
        metrics = stack.enter_context(MetricsLog(path, 0))
        metrics.write(LINES[0])
        with limited_size(path.stat().st_size):
            metrics.write(LINES[1])
            metrics.write(LINES[2])
            stack.close()
    assert "its last 2 lines are lost" in caplog.text
    assert read_metrics(path) == LINES[:1]
