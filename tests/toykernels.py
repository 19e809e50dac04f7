"""A small kernel for the tests of the kernels' cache, run in processes of their own.

    python tests/toykernels.py int16

prints that it is ready, waits for a line, then prints the doubles of a few numbers in that type.
Between reading and writing an index of the cache it waits a while for another process to have read
it too, as it can where nothing locks the cache.
"""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.core.caching import IndexDataCacheFile

from tokkit.kernels.jit import inline, kernel

Array = npt.NDArray[Any]
SECONDS_TO_WAIT = 0.75


@inline
def double(value: int) -> int:
    return 2 * value


@kernel
def double_all(values: Array, out: Array) -> None:
    for index in range(len(values)):
        out[index] = double(values[index])


def wait_for_another_process(index: str) -> None:
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    (folder / f"{index}-{os.getpid()}").touch()
    deadline = time.monotonic() + SECONDS_TO_WAIT
    while len(list(folder.glob(f"{index}-*"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)


def main() -> None:
    save_index = IndexDataCacheFile._save_index

    def save_late(cache: IndexDataCacheFile, overloads: Any) -> None:
        wait_for_another_process(Path(cache._index_path).name)
        save_index(cache, overloads)

    IndexDataCacheFile._save_index = save_late
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for name in sys.argv[1:]:
        out = np.zeros(3, name)
        double_all(np.arange(3, dtype=name), out)
        sys.stdout.write(f"{out.dtype} {out.tolist()}\n")


if __name__ == "__main__":
    main()
