"""A copy of this process does what takes memory that would stay."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import os, sys, threading
from tokkit.engine.copies import call_in_copy
from tokkit.errors import TokkitError

def find():
    if os.getpid() != here:
        print("copy", flush=True)
    return 7, os.getpid() == here

def refuse():
    raise TokkitError(f"a.txt: damaged, {os.getpid() == here}")

def end():
    if os.getpid() != here:
        os._exit(3)
    return "here"

here = os.getpid()
print(call_in_copy(find))
try:
    call_in_copy(refuse)
except TokkitError as error:
    print(error)
print(call_in_copy(end))
done = threading.Event()
threading.Thread(target=done.wait).start()
print(call_in_copy(find))
done.set()
"""

COMPILING = """
import sys
from pathlib import Path
import numpy as np
from tokkit.engine.copies import load_kernels
from tokkit.kernels.scan import LF, count_byte

data = np.zeros(1, np.uint8)
data.flags.writeable = False
load_kernels(lambda: count_byte(data, LF), lambda: count_byte(data, LF))
print("numba" in sys.modules, len([*Path(sys.argv[1]).rglob("*.kernel")]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no process can be copied")
def test_a_copy_calls_a_function_unless_there_are_threads() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT], check=True, capture_output=True, text=True
    )
    assert ended.stdout.splitlines() == [
        *("copy", "(7, False)"),
        *("a.txt: damaged, False", "here", "(7, True)"),
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="no process can be copied")
def test_a_copy_compiles_what_this_process_loads(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", COMPILING, tmp_path],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
    )
    assert ended.stdout.splitlines() == ["False 1"]
