"""A small kernel for the tests of stored kernels, run in processes of their own.

    python tests/toykernels.py int16

prints that it is ready, waits for a line, then prints the doubles of a few numbers in that type,
and whether Numba was imported for it.
"""

import logging
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.kernels.jit import inline, kernel

Array = npt.NDArray[Any]


@inline
def double(value: int) -> int:
    return 2 * value


@kernel
def double_all(values: Array, out_values: Array) -> None:
    for index in range(len(values)):
        out_values[index] = double(values[index])


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    for name in sys.argv[1:]:
        out = np.zeros(3, name)
        double_all(np.arange(3, dtype=name), out)
        sys.stdout.write(f"{out.dtype} {out.tolist()}\n")
    sys.stdout.write(f"{'numba' in sys.modules}\n")


if __name__ == "__main__":
    main()
