"""Compiled kernels are kept, also where several processes compile them at the same time."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import toykernels

SIGNED, UNSIGNED = ("int16",), ("uint32",)


def double_in_processes(cache: Path, *types_of_processes: Sequence[str]) -> list[str]:
    """Run the toy kernels in processes that start to compile at the same time.

    Returns:
        What each process logged.
    """
    processes = [
        subprocess.Popen(
            [sys.executable, toykernels.__file__, *types],
            env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for types in types_of_processes
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    logs = []
    for types, process in zip(types_of_processes, processes, strict=True):
        out, log = process.communicate(timeout=120)
        assert process.returncode == 0, log
        assert out == "".join(f"{name} [0, 2, 4]\n" for name in types)
        logs.append(log)
    return logs


def test_first_runs_at_the_same_time_share_what_they_compile(tmp_path: Path) -> None:
    said = "compiling kernels, once, which takes 10 to 30 seconds; storing them in"
    for log in double_in_processes(tmp_path, SIGNED, UNSIGNED):
        assert log.startswith(f"{said} {tmp_path}")
        assert log.count(said) == 1
    assert double_in_processes(tmp_path, (*SIGNED, *UNSIGNED)) == [""]


def test_a_kernel_that_several_processes_need_is_compiled_by_one_of_them(tmp_path: Path) -> None:
    logs = double_in_processes(tmp_path, SIGNED, SIGNED)
    assert sorted(log.count("compiling kernels") for log in logs) == [0, 1]


def test_where_kernels_cannot_be_kept_they_are_compiled_every_time(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("no folder")
    for _ in range(2):
        double_in_processes(occupied / "cache", SIGNED[:1])
