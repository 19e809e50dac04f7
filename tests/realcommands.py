"""Starts the real command as a user does, and reads what its runs wrote."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forkserver

from tokkit.engine.files import hash_file
from tokkit.pretraining.training.run_record import read_metrics

TIMEOUT = 120.0  # seconds; enough on a busy machine
CLOCK_FIELDS = {"tokens_per_second", "data_wait", "elapsed"}


def pretrain_arguments(instances: Sequence[Path], output: Path, **options: Any) -> list[str]:
    """Return the arguments of ``tokkit pretrain``; an option that is True is a flag."""
    arguments = [*map(str, instances), "-o", str(output)]
    for name, value in options.items():
        arguments.append(f"--{name.replace('_', '-')}")
        arguments += [] if value is True else [str(value)]
    return ["pretrain", *arguments]


def start_command(
    arguments: Sequence[str], program: Sequence[str] = (sys.executable, "-m", "tokkit")
) -> subprocess.Popen[str]:
    """Start a command in a new session, as a terminal does."""
    return forkserver.Popen(
        [*program, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", forkserver.COPY_SPAWNED: "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def end_command(process: subprocess.Popen[str]) -> tuple[int, list[str], list[str]]:
    """Wait for a command; return its exit status and the lines of its two outputs."""
    try:
        output, errors = process.communicate(timeout=TIMEOUT)
    finally:
        if process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output.splitlines(), errors.splitlines()


def wait_until(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def trained_steps(folder: Path) -> int:
    """Return the last step in a run's metrics."""
    return max((line["step"] for line in read_metrics(folder / "metrics.jsonl")), default=-1)


def timeless_lines(folder: Path) -> list[dict[str, Any]]:
    """Return the metrics of a run without times and rates."""
    lines = read_metrics(folder / "metrics.jsonl")
    return [{name: line[name] for name in line.keys() - CLOCK_FIELDS} for line in lines]


def outcome(folder: Path) -> tuple[str, list[dict[str, Any]]]:
    """Return what two equal runs have in common: the SHA-256 of the weights, and the metrics."""
    return hash_file(folder / "export" / "model.safetensors"), timeless_lines(folder)
