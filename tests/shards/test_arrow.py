"""Arrays between NumPy and Arrow, and the memory that they are in."""

import subprocess
import sys
import weakref
from typing import Any

import numpy as np
import pyarrow as pa

from tokkit.shards.arrow import SpareMemory, call_compute, string_array


def test_memory_is_used_again_once_nobody_refers_to_it() -> None:
    memory = SpareMemory(100)
    first = memory.take(50)
    address = first.ctypes.data
    view = first[10:20].view(np.uint16)
    assert memory.take(50).ctypes.data != address
    del first
    assert memory.take(50).ctypes.data != address  # a view still needs it
    texts = string_array(view.view(np.uint8), np.array([0, 3, 10]))
    del view
    assert memory.take(50).ctypes.data != address  # as a column does
    del texts
    again = memory.take(40)
    assert (again.ctypes.data, len(again)) == (address, 40)


def test_memory_above_the_limit_is_not_kept() -> None:
    memory = SpareMemory(100)
    kept, larger = memory.take(100), memory.take(101)
    owners: list[Any] = [weakref.ref(kept.base), weakref.ref(larger)]
    del kept, larger
    assert [owner() is None for owner in owners] == [False, True]


def test_few_buffers_are_kept() -> None:
    memory = SpareMemory(100)
    taken = [memory.take(100) for _ in range(20)]
    owners: list[Any] = [weakref.ref(array.base) for array in taken]
    taken.clear()
    assert sum(owner() is not None for owner in owners) == 8


def test_functions_of_arrow_are_called_without_the_module_that_imports_slowly() -> None:
    script = (
        "import sys\n"
        "from tokkit.engine.local import import_single_threaded\n"
        "import_single_threaded()  # else the first array imports pandas, and that the module\n"
        "import pyarrow as pa\n"
        "from tokkit.shards.arrow import call_compute\n"
        "names = pa.array(['a', None, 'c'])\n"
        "kept = call_compute('filter', names, pa.array([True, True, False]))\n"
        "print(call_compute('coalesce', kept, pa.array(['x', 'y'])).to_pylist())\n"
        "print('pyarrow.compute' in sys.modules)\n"
    )
    shown = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert shown.stdout.decode().splitlines() == ["['a', 'y']", "False"]
    assert call_compute("take", pa.array([5, 6]), pa.array([1])).to_pylist() == [6]
