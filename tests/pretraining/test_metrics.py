import json
from pathlib import Path

from tokkit.pretraining.metrics import MetricsLog, read_metrics

LINES = [
    {"kind": "eval", "step": 0},
    {"kind": "train", "step": 10},
    {"kind": "eval", "step": 10},
    {"kind": "train", "step": 20},
    {"kind": "eval", "step": 20},
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
            metrics.write({"kind": "train", "step": 30})
        assert read_metrics(path) == [*LINES, {"kind": "train", "step": 30}]


def test_there_are_none_without_a_file(tmp_path: Path) -> None:
    assert read_metrics(tmp_path / "metrics.jsonl") == []
