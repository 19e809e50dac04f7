"""``--nproc-per-node``: the ranks of this machine, started and watched by a parent that only waits.

Each rank does the same work with the variables that torchrun would have set, and tells its end
through a pipe: done, or by which error. The parent raises that error as if it were its own, so that
the command ends with the same line and the same status as one process would have.

    rank 0 ──"message" (a log line)──▶ parent ──▶ the log, then ◀── an answer, before the bar goes on
    rank 1 ──"error" TokkitError────▶ parent: kills the others and raises it
    rank 1 ──(the pipe closes)──────▶ parent: "rank 1: the process was killed by SIGKILL …"

When one rank fails, others fail of it, and may be heard first. So what follows from another's end
is raised only when no cause is told within a moment. Ranks that are left are killed outright: one
that waits for another in a collective never gets to a signal's handler, and there is nothing that
it could still save.

A signal is passed on; each rank finishes the step in hand, and the parent waits for their ends. A
Ctrl-C reaches them from the terminal as well, see ``tokkit.pretraining.training.stopping``. A rank whose
parent is gone ends too.

Why not a library: ``torch.distributed.run`` ends with a table of its own and status 1 whatever
ended the ranks, and kills them 30 seconds after a signal, however long the last checkpoint takes;
``torch.multiprocessing`` gives the text of a traceback in place of the error, and passes no signal
on. Both import torch into a process that needs none.

Which of how many processes this one is, as told by what started it.

Three ways lead to a run of several processes, and all of them speak through the environment:

    torchrun, tokkit --nproc-per-node   RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT
    srun                                SLURM_PROCID SLURM_NTASKS SLURM_LOCALID SLURM_STEP_NODELIST …

Rank 0 listens at the master's address, where the others find it. Slurm names no port, so one is
made from the numbers of job and step, which all ranks know. For ``gpu[03-05,9]`` and job 4217 the
master is ``gpu03:16217``.
"""

import logging
import multiprocessing
import os
import re
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any, cast

from tqdm import tqdm

from tokkit.engine.local import WorkerError, describe_exit, exit_with_parent
from tokkit.engine.progress import hide_bars
from tokkit.engine.signals import interruptible
from tokkit.errors import Interrupted, TokkitError, UsageError
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.stopping import SIGNALS

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
    place, launcher = _find_launched(environment)
    if not launcher:
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


def is_first(environment: Mapping[str, str]) -> bool:
    """Whether a launcher has started this process as the first of several, or alone."""
    return _find_launched(environment)[0].is_first


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


def _find_launched(environment: Mapping[str, str]) -> tuple[Place, str]:
    """The place that a launcher gave, and the variable that tells of it; empty where none did."""
    if any(name in environment for name in RANK_NAMES):
        return _read_torchrun(environment), "WORLD_SIZE"
    if _is_in_step(environment):
        return _read_slurm(environment), "SLURM_NTASKS"
    return ALONE, ""


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


HOST = "127.0.0.1"
CAUSE_SECONDS = 5.0  # after which a consequence is taken for the cause
# Which other ranks have to end after one has stopped for a signal: those that train have all saved
# their step by then, and one that waits in vain for it to join hears no signal.
STOP_SECONDS = 10.0


def launch(work: Callable[[PretrainConfig], object], config: PretrainConfig) -> None:
    """Do the same work in ``nproc_per_node`` processes of this machine.

    Processes are started by ``spawn``, so a program's main module needs the usual guard.

    Args:
        work: a function of a module, which finds its place in the environment.
        config: its argument; there, nothing is left to be started, and the machine's cores are
            divided among the ranks unless ``threads`` or ``OMP_NUM_THREADS`` says otherwise.

    Raises:
        TokkitError: that a rank raised, or that names the rank that died.
        Interrupted: after a signal, when all ranks have stopped.
        WorkerError: with the traceback of a bug in a rank.
    """
    with _caught_signals() as caught, _started(work, config) as ranks:
        faults = _watch(ranks, caught)
    if faults:
        raise min(faults, key=_distance)


@dataclass(frozen=True)
class _Rank:
    number: int
    process: BaseProcess

    def pass_on(self, number: int) -> None:
        """Send a signal, if there is still someone to send it to."""
        if self.process.is_alive() and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def describe_death(self) -> TokkitError:
        """Say how the process ended that told nothing of its end."""
        self.process.join()
        killed = self.process.exitcode == -signal.SIGKILL
        remedy = "; was memory short?" if killed else ""
        return TokkitError(
            f"rank {self.number}: the process {describe_exit(self.process)}{remedy}; "
            f"run the same command again to go on from the last checkpoint"
        )


@contextmanager
def _caught_signals() -> Iterator[Connection]:
    """Catch both signals, and yield the pipe through which their numbers come."""
    caught, catch = multiprocessing.Pipe(duplex=False)
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def note(number: int, _frame: FrameType | None) -> None:
        catch.send(number)

    before = [signal.signal(number, note) for number in SIGNALS]
    try:
        yield caught
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _started(
    work: Callable[[PretrainConfig], object], config: PretrainConfig
) -> Iterator[dict[Connection, _Rank]]:
    """Start the ranks, and end them with the block."""
    size = config.nproc_per_node or 1
    config = replace(config, nproc_per_node=None, threads=_divide_threads(config, size))
    context = multiprocessing.get_context("spawn")
    ranks: dict[Connection, _Rank] = {}
    with _held_port() as port:
        try:
            # It would lift the mask where the first child starts it.
            resource_tracker.ensure_running()
            # Children inherit the mask, and lift it when they know what to do with a signal.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
            try:
                for number in range(size):
                    ours, theirs = context.Pipe()
                    place = Place(number, size, number, HOST, port)
                    process = context.Process(target=_work, args=(work, config, place, theirs))
                    process.start()
                    theirs.close()
                    ranks[ours] = _Rank(number, process)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            yield ranks
        finally:
            for rank in ranks.values():
                rank.process.kill()
            for pipe, rank in ranks.items():
                rank.process.join()
                pipe.close()


def _divide_threads(config: PretrainConfig, size: int) -> int | None:
    if config.threads is not None or "OMP_NUM_THREADS" in os.environ:
        return config.threads
    has_affinity = hasattr(os, "sched_getaffinity")
    num_cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return max(1, num_cores // size)


@contextmanager
def _held_port() -> Iterator[int]:
    """A free port that stays ours: bound, but not listened at, until rank 0 does so."""
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((HOST, 0))
        yield held.getsockname()[1]


def _watch(ranks: dict[Connection, _Rank], caught: Connection) -> list[Exception]:
    """Wait until all ranks have ended, or one by a fault; returns the faults there were."""
    running = dict(ranks)
    faults: list[Exception] = []
    deadline = float("inf")
    while running:
        left = deadline - time.monotonic()
        if left <= 0:
            break
        for pipe in cast("list[Connection]", wait([*running, caught], min(left, 3600.0))):
            if pipe is caught:
                number = caught.recv()
                for rank in running.values():
                    rank.pass_on(number)
                continue
            fault, has_ended = _hear(pipe, running[pipe])
            if has_ended:
                del running[pipe]
            if fault is not None:
                faults.append(fault)
                deadline = min(deadline, time.monotonic() + _patience(fault))
    return faults


def _hear(pipe: Connection, rank: _Rank) -> tuple[Exception | None, bool]:
    """Take what a rank has to say: its fault, and whether it has ended."""
    try:
        kind, content = pipe.recv()
    except (EOFError, ConnectionResetError):
        return rank.describe_death(), True
    if kind == "message":
        name, level, text = content
        logging.getLogger(name).log(level, "%s", text)
        with suppress(OSError):  # it may have died since; that is heard next
            pipe.send(None)
        return None, False
    if kind == "bug":
        return WorkerError(f"rank {rank.number}\n\n{content}"), True
    return content, True


def _distance(fault: Exception) -> int:
    """How far a fault is from being the cause of the others."""
    if isinstance(fault, RankLost):
        return 3
    if isinstance(fault, Interrupted):
        return 2
    return 1 if isinstance(fault, WorkerError) else 0


def _patience(fault: Exception) -> float:
    """Seconds to wait for the other ranks."""
    return (0.0, CAUSE_SECONDS, STOP_SECONDS, CAUSE_SECONDS)[_distance(fault)]


def _work(
    work: Callable[[PretrainConfig], object],
    config: PretrainConfig,
    place: Place,
    pipe: Connection,
) -> None:
    """The life of a rank."""
    threading.Thread(target=exit_with_parent, daemon=True).start()
    os.environ.update(place.variables)
    # Its own lock is shared with other processes, and left behind by one that is killed.
    tqdm.set_lock(threading.RLock())
    forwarder = _Forwarder(pipe)
    logger = logging.getLogger("tokkit")
    logger.handlers = [forwarder]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    report: tuple[str, Any] = "done", None
    try:
        with interruptible(config.output):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            try:
                work(config)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    except TokkitError as error:
        report = "error", error
    except BaseException:  # noqa: BLE001  whatever it is, the parent must be told
        report = "bug", traceback.format_exc()
    with suppress(OSError):
        forwarder.send(report)
    sys.stdout.flush()
    sys.stderr.flush()
    # Not by way of the interpreter's end, which waits for threads of connections that are broken.
    os._exit(0)


class _Forwarder(logging.Handler):
    """Sends log lines to the parent, and goes on when they are written.

    Without the answer, the bar of rank 0 would be drawn again before the line that it made room for.
    """

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        with hide_bars():
            self._pipe.send(("message", (record.name, record.levelno, record.getMessage())))
            self._pipe.recv()

    def send(self, report: tuple[str, Any]) -> None:
        """Send what the rank ends with, when no thread is about to send a line."""
        with self.lock or threading.RLock():
            self._pipe.send(report)
