"""Runs work units in this process, in worker processes of this machine, or on a Ray cluster."""

import os
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from tokkit.engine.unit import Outcome, Task, Unit, UnitStream, out_of_memory
from tokkit.errors import require_library

# What a unit takes, approximately, which the scheduler of a cluster counts.
UNIT_MEMORY = 1 << 30


def import_single_threaded() -> None:
    """Import NumPy and pyarrow without the threads that they would start, and no stage uses.

    A process of one thread starts its workers by copying itself; see ``tokkit.engine.worker_pool``. The
    environment stays as it was: torch may come with an OpenBLAS of its own, which needs its threads.
    pyarrow looks for pandas when it makes its first array, and finds none here: every worker would
    import it, which takes 0.3 s.
    """
    settings = {
        "OPENBLAS_NUM_THREADS": "1",  # NumPy's
        "JE_ARROW_MALLOC_CONF": "background_thread:false",  # pyarrow's
    }
    added = settings.keys() - os.environ.keys()
    os.environ.update({name: settings[name] for name in added})
    for library in ("numpy", "pyarrow"):
        import_module(library)
    for name in added:
        del os.environ[name]
    no_pandas = _NoPandas()
    sys.meta_path.insert(0, no_pandas)
    import_module("pyarrow").array([])
    sys.meta_path.remove(no_pandas)


class _NoPandas:
    """Finds no pandas, and leaves other modules to other finders."""

    def find_spec(self, fullname: str, _path: object, _target: object = None, /) -> None:
        """Raise ImportError for pandas."""
        if fullname == "pandas":
            raise ImportError(fullname)


@contextmanager
def share_cluster(clusters: Iterable[str | None]) -> Iterator[None]:
    """Let stages inside the block share a connection with Ray, if any of them has a cluster."""
    if not any(clusters):
        yield
        return
    require_library("ray", "--engine ray", "ray")
    from tokkit.engine.ray import share_connection

    with share_connection():
        yield


def run_units(
    task: Task,
    units: Sequence[Unit],
    workers: int,
    report: Callable[[int], Any],
    stream: UnitStream | None = None,
    *,
    cluster: str | None = None,
) -> Generator[tuple[Unit, Outcome], None, None]:
    """Run ``task`` on each unit, yielding outcomes as they come.

    Args:
        task: what to do; picklable if there are workers.
        units: in the order in which they are started.
        workers: number of processes; 0 works in this one.
        report: called with the progress, in terms of the units' sizes.
        stream: units that are done after the others.
        cluster: address of a Ray cluster that does all units but those of this process and of the
            stream; None for none.

    The processes end when the generator is closed.

    Raises:
        TokkitError: raised by a unit, or naming the unit whose worker died.
    """
    is_remote = cluster is not None
    if not (workers or is_remote) and (units or stream is not None):
        task.load()
    for unit in units:
        if unit.in_parent or not (workers or is_remote):
            yield unit, _run_here(task, unit, report)
    distributed = [unit for unit in units if not unit.in_parent] if workers or is_remote else []
    if distributed and cluster is not None:
        require_library("ray", "--engine ray", "ray")
        from tokkit.engine.ray import run_on_ray

        yield from run_on_ray(task, distributed, cluster, workers, report)
        distributed = []
    if distributed or (stream is not None and workers):
        from tokkit.engine.worker_pool import (
            WorkerPool,  # imports multiprocessing, which takes 15 ms
        )

        num_workers = workers if stream is not None else min(workers, len(distributed))
        with WorkerPool(task, num_workers) as pool:
            yield from pool.run(distributed, report, stream)
    while stream is not None and not stream.ended:
        for unit in stream.read():
            yield unit, _run_here(task, unit, report)


def _run_here(task: Task, unit: Unit, report: Callable[[int], Any]) -> Outcome:
    """Run a unit in this process."""
    try:
        return task.write(unit, report).commit()
    except MemoryError as error:
        raise out_of_memory(unit) from error
