"""Mutants of folders, and runs on a failing disk; more of both by hand, see the scripts."""

import subprocess
import sys
from pathlib import Path

import forkserver
import pytest

TESTS = Path(__file__).resolve().parent

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and forks")


def run_script(name: str, *arguments: object) -> str:
    done = forkserver.run(
        [sys.executable, TESTS / name, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return str(done.stdout)


def test_every_reader_of_a_mutant_gives_its_result_or_one_line() -> None:
    assert "200 mutants, 0 faults" in run_script(
        "fuzz.py", "--mutants", 200, "--seed", 1, "--quick"
    )


def test_a_disk_that_fails_ends_a_stage_with_one_line_and_it_resumes() -> None:
    stages = [f"--stage={stage}" for stage in ("train", "encode", "build")]
    assert "0 went wrong" in run_script("faults.py", *stages, "--every", 41)
