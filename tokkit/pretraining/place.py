"""Which of how many processes this one is, as told by what started it.

Three ways lead to a run of several processes, and all of them speak through the environment:

    torchrun, tokkit --nproc-per-node   RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT
    srun                                SLURM_PROCID SLURM_NTASKS SLURM_LOCALID SLURM_STEP_NODELIST …

Rank 0 listens at the master's address, where the others find it. Slurm names no port, so one is
made from the numbers of job and step, which all ranks know. For ``gpu[03-05,9]`` and job 4217 the
master is ``gpu03:16217``.
"""

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from tokkit.errors import TokkitError, UsageError

RANK_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
MASTER_NAMES = ("MASTER_ADDR", "MASTER_PORT")
FIRST_PORT, NUM_PORTS = 12_000, 20_000  # below those that systems hand out for a moment
FIRST_SPECIAL_STEP = 0xFFFF_FFF0  # of Slurm's steps; above are the batch script, a shell, …

log = logging.getLogger(__name__)


class RankLost(TokkitError):  # noqa: N818  it is what became of another
    """Another rank ended, or cannot be reached."""


@dataclass(frozen=True)
class Place:
    """One process among several.

    Attributes:
        rank: its number.
        size: of how many.
        local_rank: its number on its machine.
        master_addr: the host of rank 0; empty where there is one process.
        master_port: at which it listens.
        by_slurm: whether Slurm started it, which may have given it a device for itself.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    master_addr: str = ""
    master_port: int = 0
    by_slurm: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, logs and shows a bar."""
        return self.rank == 0

    @property
    def variables(self) -> dict[str, str]:
        """The environment from which ``find_place`` makes the same."""
        values = (self.rank, self.size, self.local_rank, self.master_addr, self.master_port)
        return dict(zip(RANK_NAMES + MASTER_NAMES, map(str, values), strict=True))


ALONE = Place()


def find_place(environment: Mapping[str, str], nproc_per_node: int | None = None) -> Place:
    """Find out which process this is.

    Args:
        environment: variables, such as ``os.environ``.
        nproc_per_node: the option of that name, which goes with no other launcher.

    Raises:
        TokkitError: where variables are missing or contradict each other.
        UsageError: where both a launcher and the option start processes.
    """
    if any(name in environment for name in RANK_NAMES):
        place, launcher = _read_torchrun(environment), "WORLD_SIZE"
    elif _is_in_step(environment):
        place, launcher = _read_slurm(environment), "SLURM_NTASKS"
    else:
        if _number(environment, "SLURM_NTASKS", default=1) > 1 and nproc_per_node is None:
            log.info(
                "SLURM_NTASKS is %s, but srun did not start this process: it trains alone",
                environment["SLURM_NTASKS"],
            )
        return ALONE
    if nproc_per_node is not None:
        raise UsageError(
            f"--nproc-per-node {nproc_per_node}: {launcher} is set, so a launcher has started "
            f"{place.size} of us; leave the option out"
        )
    return place


@contextmanager
def only_first_speaks(place: Place) -> Iterator[None]:
    """Keep all but errors out of the logs of every process but the first."""
    logger = logging.getLogger("tokkit")
    level = logger.level
    if not place.is_first:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def first_host(nodes: str) -> str:
    """The first host of a Slurm list: of ``a[03-05,9]-x[1,2],b`` it is ``a03-x1``.

    Raises:
        TokkitError: where it is no such list.
    """
    first = re.match(r"(?:[^][,]|\[\w+[^][]*\])+(?=,|$)", nodes)
    if first is None:
        raise TokkitError(f"{nodes!r}: is no list of Slurm nodes; set MASTER_ADDR to rank 0's host")
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", first[0])


def _read_torchrun(environment: Mapping[str, str]) -> Place:
    for name in RANK_NAMES + MASTER_NAMES:
        if not environment.get(name):
            there = next(other for other in RANK_NAMES if other in environment)
            raise TokkitError(
                f"{name} is not set, though {there} is; start by torchrun, which sets both, "
                f"or unset {there}"
            )
    rank, size, local_rank = (_number(environment, name) for name in RANK_NAMES)
    _check_rank(rank, size, RANK_NAMES)
    return Place(
        rank, size, local_rank, environment["MASTER_ADDR"], _number(environment, "MASTER_PORT")
    )


def _is_in_step(environment: Mapping[str, str]) -> bool:
    """Whether srun started this process as one of several.

    The script that sbatch runs, and the shell that salloc opens, have the variables of a job too,
    but are one process, whatever number of tasks the job may start.
    """
    step = _number(environment, "SLURM_STEP_ID", default=FIRST_SPECIAL_STEP)
    return step < FIRST_SPECIAL_STEP and _num_tasks(environment) > 1


def _num_tasks(environment: Mapping[str, str]) -> int:
    """Tasks of the step; ``SLURM_NTASKS`` may be those of the whole job."""
    default = _number(environment, "SLURM_NTASKS", default=1)
    return _number(environment, "SLURM_STEP_NUM_TASKS", default=default)


def _read_slurm(environment: Mapping[str, str]) -> Place:
    names = ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID")
    rank, local_rank = (_number(environment, name) for name in (names[0], names[2]))
    size = _num_tasks(environment)
    _check_rank(rank, size, names)
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST") or ""
    host = environment.get("MASTER_ADDR") or first_host(nodes)
    if "MASTER_PORT" in environment:
        port = _number(environment, "MASTER_PORT")
    else:
        job, step = (_number(environment, name) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
        port = FIRST_PORT + (job + 101 * step) % NUM_PORTS
    return Place(rank, size, local_rank, host, port, by_slurm=True)


def _check_rank(rank: int, size: int, names: tuple[str, ...]) -> None:
    if rank >= size:
        raise TokkitError(
            f"{names[0]} is {rank}, but {names[1]} is {size}; ranks count from 0, start again by "
            f"torchrun or srun"
        )


def _number(environment: Mapping[str, str], name: str, default: int | None = None) -> int:
    """A variable's value."""
    value = environment.get(name)
    if value is None and default is not None:
        return default
    if value is None or not (value.isascii() and value.isdecimal()):
        is_what = "not set" if value is None else f"{value!r}, not a number"
        raise TokkitError(
            f"{name} is {is_what}; start again by torchrun or srun, or unset the rest"
        )
    return int(value)
