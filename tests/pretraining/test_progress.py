import io
import logging
import sys
from pathlib import Path
from typing import Any

import pytest

from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.metrics import MetricSums, TrainingState
from tokkit.pretraining.training.reporting import Reporter, summarize_line

LINE = {
    "kind": "train",
    "step": 25,
    "loss": 2.134567,
    "mlm_loss": 2.0,
    "mlm_accuracy": 0.581,
    "nsp_loss": 0.134567,
    "nsp_accuracy": 0.972,
    "tokens_per_second": 802_123,
    "data_wait": 0.002,
    "mfu": 0.553,
    "elapsed": 30.0,
}


def make_reporter(folder: Path, **options: Any) -> Reporter:
    """The reporter of a run that resumes at step 20, after 24.5 seconds."""
    config = PretrainConfig(instances=(folder,), output=folder, **options)
    return Reporter(config, TrainingState(step=20, elapsed=24.5), config.num_steps)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_speed_is_that_of_all_processes_over_the_interval() -> None:
    sums = MetricSums(tokens=10_000, seconds=4.0, waited=0.1)
    assert sums.speed(60.0, flops_per_token=8e8, peak_flops=4e12) == {
        "tokens_per_second": 2500,
        "data_wait": 0.025,
        "elapsed": 60.0,
        "mfu": 0.5,
    }


def test_there_is_no_mfu_without_a_known_peak() -> None:
    speed = MetricSums(tokens=9).speed(0.0, flops_per_token=1e9)
    assert "mfu" not in speed
    assert speed["data_wait"] == 0


def test_a_line_names_what_the_objective_has() -> None:
    words = "loss 2.135 mlm 58.1% nsp 97.2% 802k tokens/s mfu 55.3% wait 0.2%"
    assert summarize_line(LINE) == words
    causal = {name: value for name, value in LINE.items() if "_" not in name and name != "mfu"}
    causal |= {"clm_accuracy": 0.25, "tokens_per_second": 950, "data_wait": 0.0}
    assert summarize_line(causal) == "loss 2.135 clm 25.0% 950 tokens/s wait 0.0%"


def test_a_run_by_steps_has_a_bar_of_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with make_reporter(tmp_path, max_steps=100) as reporter:
        reporter.advance(24, 28.8)
        reporter.write(LINE)
    last = terminal.getvalue().strip().rpartition("\r")[2]
    assert " 25%|" in last
    assert "| 25/100 " in last
    assert last.strip().endswith(" left, " + summarize_line(LINE))


def test_a_run_by_the_clock_has_a_bar_of_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with make_reporter(tmp_path, max_time=59.5) as reporter:
        reporter.write(LINE)
        reporter.advance(40, 70.0)
    assert "100%|" in terminal.getvalue()
    assert "| 60/60 s " in terminal.getvalue()
    assert ", step 25 loss 2.135" in terminal.getvalue()


@pytest.mark.parametrize("enabled", [True, False])
def test_no_bar_without_a_terminal_or_a_wish(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, enabled: bool
) -> None:
    there = io.StringIO() if enabled else Terminal()
    monkeypatch.setattr(sys, "stderr", there)
    with make_reporter(tmp_path, progress=enabled) as reporter:
        reporter.write(LINE)
    assert not there.getvalue()


def test_a_run_without_a_terminal_logs_a_line_every_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr("tokkit.engine.progress.time.monotonic", lambda: now[0])
    with make_reporter(tmp_path, max_steps=100) as reporter:
        reporter.write(LINE)
        for step in (26, 30, 31):
            now[0] += 50
            reporter.advance(step, 30.0)
    assert caplog.messages == [
        f"{tmp_path}: 30% done, about 11 min 40 s left, {summarize_line(LINE)}"
    ]
