"""Which process of a run this is, according to the environment variables of its launcher.

Several processes are started in one of these ways:

    torchrun, tokkit --nproc-per-node   RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT
    srun                                SLURM_PROCID SLURM_NTASKS SLURM_LOCALID SLURM_STEP_NODELIST …

The other ranks connect to rank 0 at the master's address. Slurm has no port, so each rank computes the
same one from the numbers of job and step. For ``gpu[03-05,9]`` and job 4217 it is ``gpu03:16217``.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tokkit.errors import TokkitError, UsageError

TORCHRUN_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
FIRST_PORT, NUM_PORTS = 12_000, 20_000  # below the ephemeral ports of all systems
FIRST_SPECIAL_STEP = 0xFFFF_FFF0  # Slurm's step ids from here on: the batch script, a shell, …

log = logging.getLogger(__name__)


class RankLost(TokkitError):  # noqa: N818  it reports the end of another rank
    """Another rank ended, or cannot be reached."""


@dataclass(frozen=True)
class LaunchInfo:
    """The position of this process among those of the run.

    Attributes:
        rank: number of the process, from 0.
        size: number of processes.
        local_rank: number of the process on this machine, from 0.
        master_addr: host of rank 0; empty for a single process.
        master_port: port on that host.
        by_slurm: whether Slurm started the process, and may have assigned a GPU to it.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    master_addr: str = ""
    master_port: int = 0
    by_slurm: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, logs and shows the progress bar."""
        return self.rank == 0


SINGLE_PROCESS = LaunchInfo()


def detect_launcher(
    environment: Mapping[str, str], nproc_per_node: int | None = None
) -> LaunchInfo:
    """Return which process this is, according to the launcher's variables.

    Args:
        environment: variables, such as ``os.environ``.
        nproc_per_node: value of ``--nproc-per-node``, which excludes any other launcher.

    Raises:
        TokkitError: if variables are missing or contradict each other.
        UsageError: if both a launcher and the option start processes.
    """
    launch_info, variable = _read_variables(environment)
    if variable and nproc_per_node is not None:
        raise UsageError(
            f"--nproc-per-node {nproc_per_node}: {variable} is set, so a launcher has already "
            f"started {launch_info.size} processes; leave the option out"
        )
    if not variable and nproc_per_node is None and _read_int(environment, "SLURM_NTASKS", 1) > 1:
        log.info(
            "SLURM_NTASKS is %s, but srun did not start this process: it trains alone",
            environment["SLURM_NTASKS"],
        )
    return launch_info


def is_first_process(environment: Mapping[str, str]) -> bool:
    """Return whether this process is rank 0, or was started without a launcher."""
    return _read_variables(environment)[0].is_first


@contextmanager
def log_on_first_rank(launch_info: LaunchInfo) -> Iterator[None]:
    """Log only errors on all ranks but the first."""
    logger = logging.getLogger("tokkit")
    level = logger.level
    if not launch_info.is_first:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def first_host(nodes: str) -> str:
    """Return the first host of a Slurm node list: ``a03-x1`` for ``a[03-05,9]-x[1,2],b``.

    Raises:
        TokkitError: if it is not a node list.
    """
    first = re.match(r"(?:[^][,]|\[\w+[^][]*\])+(?=,|$)", nodes)
    if first is None:
        raise TokkitError(
            f"{nodes!r}: not a list of Slurm nodes; set MASTER_ADDR to the host of rank 0"
        )
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", first[0])


def _read_variables(environment: Mapping[str, str]) -> tuple[LaunchInfo, str]:
    """Return the position, and the variable that identifies the launcher ("" without one)."""
    if any(name in environment for name in TORCHRUN_NAMES[:3]):
        return _read_torchrun(environment), "WORLD_SIZE"
    # A script run by sbatch and a shell opened by salloc also have a job's variables, but are a single
    # process, however many tasks the job may start.
    step = _read_int(environment, "SLURM_STEP_ID", FIRST_SPECIAL_STEP)
    if step < FIRST_SPECIAL_STEP and _count_tasks(environment) > 1:
        return _read_slurm(environment, step), "SLURM_NTASKS"
    return SINGLE_PROCESS, ""


def _read_torchrun(environment: Mapping[str, str]) -> LaunchInfo:
    for name in TORCHRUN_NAMES:
        if not environment.get(name):
            present = next(other for other in TORCHRUN_NAMES if other in environment)
            raise TokkitError(
                f"{name} is not set, although {present} is; start with torchrun, which sets both, "
                f"or unset {present}"
            )
    rank, size, local_rank = (_read_int(environment, name) for name in TORCHRUN_NAMES[:3])
    _check_rank(rank, size, "RANK", "WORLD_SIZE")
    port = _read_int(environment, "MASTER_PORT")
    return LaunchInfo(rank, size, local_rank, environment["MASTER_ADDR"], port)


def _count_tasks(environment: Mapping[str, str]) -> int:
    """Return the number of tasks of the step; ``SLURM_NTASKS`` may be that of the job."""
    default = _read_int(environment, "SLURM_NTASKS", 1)
    return _read_int(environment, "SLURM_STEP_NUM_TASKS", default)


def _read_slurm(environment: Mapping[str, str], step: int) -> LaunchInfo:
    rank, local_rank = (_read_int(environment, name) for name in ("SLURM_PROCID", "SLURM_LOCALID"))
    size = _count_tasks(environment)
    _check_rank(rank, size, "SLURM_PROCID", "SLURM_NTASKS")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    host = environment.get("MASTER_ADDR") or first_host(nodes)
    if "MASTER_PORT" in environment:
        port = _read_int(environment, "MASTER_PORT")
    else:
        port = FIRST_PORT + (_read_int(environment, "SLURM_JOB_ID") + 101 * step) % NUM_PORTS
    return LaunchInfo(rank, size, local_rank, host, port, by_slurm=True)


def _check_rank(rank: int, size: int, rank_name: str, size_name: str) -> None:
    if rank >= size:
        raise TokkitError(
            f"{rank_name} is {rank}, but {size_name} is {size}, and ranks count from 0; "
            f"start again with torchrun or srun"
        )


def _read_int(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """Return a variable's value, or the default if it is not set."""
    value = environment.get(name)
    if value is None and default is not None:
        return default
    if value is None or not (value.isascii() and value.isdecimal()):
        fault = "not set" if value is None else f"{value!r}, not a number"
        raise TokkitError(
            f"{name} is {fault}; start again with torchrun or srun, or unset the other variables"
        )
    return int(value)
