"""A mapped file that is cut reads as zeros and is noted; other faults end the process as before."""

import mmap
import os
import signal
import sys
from pathlib import Path

import forkserver
import numpy as np

from tokkit.shards.shard_file import has_unreadable_pages, map_file

SIZE = 4 * mmap.PAGESIZE

OTHER_FAULT = """
import ctypes, mmap, os, sys
from pathlib import Path
from tokkit.shards.shard_file import map_file

ours = map_file(Path(sys.argv[1]))
with open(sys.argv[2], "r+b") as file:
    other = mmap.mmap(file.fileno(), 0)
os.truncate(sys.argv[2], 0)
other[0]
"""


def test_a_file_that_is_cut_reads_as_zeros_and_is_noted(tmp_path: Path) -> None:
    path, other = tmp_path / "a", tmp_path / "b"
    for file in (path, other):
        file.write_bytes(b"\1" * SIZE)
    values, others = (np.frombuffer(map_file(file), np.uint8) for file in (path, other))
    assert values.sum() == others.sum() == SIZE
    os.truncate(path, mmap.PAGESIZE)
    assert values.sum() == mmap.PAGESIZE
    assert others.sum() == SIZE
    assert has_unreadable_pages(path)
    assert has_unreadable_pages()
    assert not has_unreadable_pages(other)
    path.write_bytes(b"\2" * SIZE)
    assert np.frombuffer(map_file(path), np.uint8).sum() == 2 * SIZE
    assert not has_unreadable_pages(path)


def test_a_fault_of_other_memory_is_not_hidden(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"\1" * SIZE)
    arguments = [sys.executable, "-c", OTHER_FAULT, str(tmp_path / "a"), str(tmp_path / "b")]
    assert forkserver.run(arguments).returncode == -signal.SIGBUS
