"""Compiled kernels are kept, also where several processes compile them at the same time."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
import toykernels

from tokkit.kernels import compiled
from tokkit.kernels.jit import kernel

SIGNED, UNSIGNED = ("int16",), ("uint32",)


def double_in_processes(cache: Path, *types_of_processes: Sequence[str]) -> list[str]:
    """Run the toy kernels in processes that start to compile at the same time.

    Returns:
        What each process logged; nothing if it did not import Numba.
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
        *lines, has_numba = out.splitlines()
        assert lines == [f"{name} [0, 2, 4]" for name in types]
        is_compiled = bool(log) or not cache.is_dir()
        assert has_numba == str(is_compiled)
        logs.append(log)
    return logs


def test_first_runs_at_the_same_time_share_what_they_compile(tmp_path: Path) -> None:
    said = "compiling kernels, once, which takes 3 to 15 seconds; storing them in"
    for log in double_in_processes(tmp_path, SIGNED, UNSIGNED):
        assert log.startswith(f"{said} {tmp_path}")
        assert log.count(said) == 1
    assert double_in_processes(tmp_path, (*SIGNED, *UNSIGNED)) == [""]


def test_a_kernel_that_several_processes_need_is_compiled_by_one_of_them(tmp_path: Path) -> None:
    logs = double_in_processes(tmp_path, SIGNED, SIGNED)
    assert sorted(log.count("compiling kernels") for log in logs) == [0, 1]


def test_threads_may_store_the_same_kernel_at_the_same_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(compiled, "_list_folders", lambda: (tmp_path,))
    file = compiled.KernelFile("toy.add-1-2.kernel", ())
    header = compiled.KernelHeader("add", "", returns_tuple=False, seconds=0.1)
    with ThreadPoolExecutor(4) as pool:
        for _ in range(200):
            pool.submit(file.write, header, b"code")
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert not caplog.records


def test_a_damaged_file_is_compiled_again(tmp_path: Path) -> None:
    double_in_processes(tmp_path, SIGNED)
    (path,) = tmp_path.rglob("*.kernel")
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    double_in_processes(tmp_path, SIGNED)
    code = content.partition(b"\n")[2]  # what is before it says how long this took
    assert path.read_bytes().partition(b"\n")[2] == code


def test_where_kernels_cannot_be_kept_they_are_compiled_every_time(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("no folder")
    assert double_in_processes(occupied / "cache", SIGNED) == [""]


def test_kernels_can_be_kept_on_a_machine_of_a_cluster(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kept(folder: Path) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in folder.rglob("*.kernel")}

    largest(1)  # is compiled
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    before = compiled.find_folder()
    assert before is not None
    try:
        compiled.keep_kernels_on_machine()
        folder = tmp_path / f"tokkit-kernels-{os.getuid()}"
        assert folder in (compiled.find_folder() or Path()).parents
        assert folder.stat().st_mode & 0o077 == 0
        assert kept(folder).items() >= kept(before).items() > {}.items()
    finally:
        compiled._list_folders.cache_clear()


class Pair(NamedTuple):
    values: npt.NDArray[np.int64]
    rest: tuple[npt.NDArray[np.float32], int]


@kernel
def sum_all(
    pair: Pair, grid: npt.NDArray[np.uint16], number: int, is_large: bool, share: float
) -> tuple[int, float, bool]:
    total = pair.rest[1] + grid[1, 2] + number
    for place in range(len(pair.values)):
        total += pair.values[place]
    return total, pair.rest[0][1] + share, is_large


@kernel
def largest(number: int) -> int:
    return number


@kernel
def double_at(values: npt.NDArray[np.int64], place: int) -> int:
    values[place] *= 2
    return values.size


def test_kernels_take_and_return_numbers_and_tuples() -> None:
    pair = Pair(np.array([0, 2, 4]), (np.array([0.5, 1.5], np.float32), 100))
    grid = np.arange(6, dtype=np.uint16).reshape(2, 3)
    assert sum_all(pair, grid, -7, True, 0.25) == (104, 1.75, True)
    assert largest((1 << 64) - 1) == (1 << 64) - 1
    assert largest(-1) == -1


def test_kernels_take_arrays_at_any_address_but_no_strides() -> None:
    values = np.zeros(33, np.uint8)[1:].view(np.int64)
    values[2] = 21
    assert not values.flags.aligned
    assert double_at(values, 2) == len(values)
    assert values.tolist() == [0, 0, 42, 0]
    with pytest.raises(ValueError, match=r"no array for a kernel: \(2,\), \(16,\)"):
        double_at(values[::2], 0)
    for shape in ((), (1, 1, 1)):
        with pytest.raises(ValueError, match="no array for a kernel"):
            double_at(np.zeros(shape, np.int64), 0)


def test_kernels_do_not_write_to_read_only_arrays() -> None:
    out = np.zeros(3, np.int64)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="double_all writes to an array that is read-only"):
        toykernels.double_all(out, out)


def test_indices_are_checked_where_the_environment_says_so(tmp_path: Path) -> None:
    program = "import numpy, toykernels; toykernels.double_all(numpy.arange(3), numpy.arange(2))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_BOUNDSCHECK": "1"},
        cwd=Path(toykernels.__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr.splitlines()[-1].endswith(": exception 1 in a kernel")
