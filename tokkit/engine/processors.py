"""How many processors this process may use.

Three things bound it: the machine, the process's affinity (``taskset``, Slurm), and the quota of its
control group (containers), which affinity does not show: with ``docker run --cpus 2`` a process sees
all of the machine's processors, and 64 workers would wait for each other.

    /sys/fs/cgroup/cpu.max                      150000 100000       version 2: 1.5 processors
    /sys/fs/cgroup/cpu/cpu.cfs_quota_us         150000              version 1, with cpu.cfs_period_us
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def count_processors(root: Path = Path("/")) -> int:
    """Return the number of processors that this process may use, at least 1.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    number = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    quotas = [math.ceil(quota) for quota in _read_quotas(root)]
    return max(1, min([number, *quotas]))


def _read_quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of the process's control group and of those above it, in processors."""
    groups = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            base = groups / controllers if controllers else groups
            # In a container the path may be the host's; its own group is then at the top.
            for place in (base / path.lstrip("/"), *(base / path.lstrip("/")).parents):
                if base in (place, *place.parents):
                    yield from _read_quota(place)


def _read_quota(place: Path) -> Iterator[float]:
    """Yield the quota of one control group, of either version; nothing if there is none."""
    with suppress(OSError, ValueError):
        quota, period = (place / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max" is no number
    with suppress(OSError, ValueError):
        quota = (place / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            yield int(quota) / int((place / "cpu.cfs_period_us").read_text())
