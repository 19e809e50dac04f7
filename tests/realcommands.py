"""The real command, started as a user starts it, and what the runs of it come to."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokkit.engine.files import hash_file
from tokkit.pretraining.training.run_record import read_metrics

PATIENCE = 120.0  # of a machine that has other work
FROM_CLOCK = {"tokens_per_second", "data_wait", "elapsed"}


def pretrain_arguments(instances: Sequence[Path], output: Path, **options: Any) -> list[str]:
    """What stands behind ``tokkit``; True is a flag."""
    spelled = [*map(str, instances), "-o", str(output)]
    for name, value in options.items():
        spelled.append(f"--{name.replace('_', '-')}")
        spelled += [] if value is True else [str(value)]
    return ["pretrain", *spelled]


def start_command(
    arguments: Sequence[str], program: Sequence[str] = (sys.executable, "-m", "tokkit")
) -> subprocess.Popen[str]:
    """Start a command in a session of its own, as a terminal's shell does."""
    return subprocess.Popen(
        [*program, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end_command(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    """Wait for a command; its status and its lines of output and errors."""
    try:
        output, errors = process.communicate(timeout=PATIENCE)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output.splitlines(), errors.splitlines()


def wait_until(is_so: Callable[[], bool]) -> None:
    """Look until it is."""
    deadline = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trained_steps(folder: Path) -> int:
    """How far a run's log has got."""
    return max((line["step"] for line in read_metrics(folder / "metrics.jsonl")), default=-1)


def timeless_lines(folder: Path) -> list[dict[str, Any]]:
    """The metrics of a run without what the clock says."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: line[name] for name in line.keys() - FROM_CLOCK} for line in lines]


def outcome(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """All that two runs that are the same have in common: the weights' SHA-256, and metrics."""
    return hash_file(folder / "export" / "model.safetensors"), timeless_lines(folder)
