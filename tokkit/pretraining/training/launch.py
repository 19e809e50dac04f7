"""``--nproc-per-node``: the ranks of this machine, started and watched by torchrun's agent.

``torch.distributed.launcher`` is the library behind the command ``torchrun``. Its agent starts the
ranks with torchrun's variables, and ends all of them when one fails. It reports a failure as a table on
standard error and status 1. So each rank also writes the error that ended it to a temporary folder, and
the parent raises the one that caused the others: the command ends with the same line and status as a
single process.

    parent, main thread     SIGTERM ──▶ pipes to the ranks        reports ──▶ the error to raise
    parent, agent's thread  start ranks, poll; one failed: SIGTERM to the others, SIGKILL after 30 s
    rank 0                  finish the step, save, report "stopped by SIGTERM after step 7", exit 1
    rank 1                  (the same)

When one rank fails, others fail because of it: they lose the connection (``RankLost``) or are
stopped by the agent (``Interrupted``). Neither is raised if there is a report of the cause.

The agent runs in a thread of its own because of signals. In the main thread it would install handlers
for good, and would kill the ranks 30 seconds after a signal, however long the last checkpoint takes.
The thread blocks signals, and its children inherit that: a signal waits until a rank has imported torch
and can handle it. A terminal sends Ctrl-C to the ranks as well, see
``tokkit.pretraining.training.stopping``. Ranks end with their parent, because their pipe closes.
"""

import logging
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import TYPE_CHECKING

from tqdm import tqdm

from tokkit.engine.folder import interruptible
from tokkit.engine.progress import LineHandler
from tokkit.engine.stage_config import count_processors
from tokkit.engine.worker_pool import WorkerError
from tokkit.errors import Interrupted, TokkitError
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.launch_info import RankLost
from tokkit.pretraining.training.stopping import SIGNALS

if TYPE_CHECKING:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

HOST = "127.0.0.1"
TORCHRUN_LOGGERS = (
    "torch.distributed.elastic",
    "torch.distributed.launcher",
    "torch.multiprocessing",
)
# The agent polls ten times a second, so it sees a rank that fails before the ranks that lose their
# connection to it, which wait this long.
CAUSE_SECONDS = 1.0

Work = Callable[[PretrainConfig], object]


def launch(work: Work, config: PretrainConfig) -> None:
    """Run a function in ``nproc_per_node`` processes on this machine.

    The processes are started with ``spawn``, so a program's main module needs the usual guard.

    Args:
        work: module-level function that calls ``detect_launcher`` to find its rank.
        config: its argument, but with ``nproc_per_node`` None, and the machine's cores divided among
            the ranks unless ``threads`` or ``OMP_NUM_THREADS`` is set.

    Raises:
        TokkitError: the error of a rank, or one that names a rank that was killed.
        Interrupted: after a signal, when all ranks have stopped.
        WorkerError: if there is a bug in a rank; it has the traceback.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    size = config.nproc_per_node or 1
    threads = config.threads
    if threads is None and "OMP_NUM_THREADS" not in os.environ:
        threads = max(1, count_processors() // size)
    config = replace(config, nproc_per_node=None, threads=threads)
    resource_tracker.ensure_running()  # when it starts, it unblocks signals in its thread
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="tokkit-")))
        receivers, senders = zip(
            *(multiprocessing.Pipe(duplex=False) for _ in range(size)), strict=True
        )
        for connection in (*receivers, *senders):
            stack.callback(connection.close)
        stack.enter_context(_forwarded_signals(senders))
        stack.enter_context(_silenced_torchrun())
        agent = elastic_launch(
            LaunchConfig(
                min_nodes=1,
                max_nodes=1,
                nproc_per_node=size,
                run_id=folder.name,
                rdzv_backend="c10d",
                rdzv_endpoint=f"{HOST}:0",
                local_addr=HOST,
                max_restarts=0,
                logs_specs=DefaultLogsSpecs(log_dir=str(folder)),
            ),
            _run_rank,
        )
        level = logging.getLogger("tokkit").getEffectiveLevel()
        executor = stack.enter_context(
            ThreadPoolExecutor(
                1, initializer=signal.pthread_sigmask, initargs=(signal.SIG_BLOCK, SIGNALS)
            )
        )
        try:
            executor.submit(agent, work, config, folder, receivers, level).result()
        except ChildFailedError as failed:
            raise _find_cause(folder, failed) from None


@contextmanager
def _forwarded_signals(senders: Sequence[Connection]) -> Iterator[None]:
    """Send the number of each signal to all ranks; signals reach the main thread only."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def forward(number: int, _frame: FrameType | None) -> None:
        for sender in senders:
            with suppress(OSError):  # the rank has ended
                sender.send(number)

    before = [signal.signal(number, forward) for number in SIGNALS]
    try:
        yield
    finally:
        for number, handler in zip(SIGNALS, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _silenced_torchrun() -> Iterator[None]:
    """Keep the agent's log lines and tracebacks off standard error."""
    loggers = [logging.getLogger(name) for name in TORCHRUN_LOGGERS]
    before = [(logger.handlers, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], False
    try:
        yield
    finally:
        for logger, (handlers, propagate) in zip(loggers, before, strict=True):
            logger.handlers, logger.propagate = handlers, propagate


def _find_cause(folder: Path, failed: "ChildFailedError") -> Exception:
    """Return the error that caused the others, from the reports of the ranks."""
    reports = [pickle.loads(path.read_bytes()) for path in folder.glob("*.report")]  # noqa: S301  our own
    rank, failure = failed.get_first_failure()
    if not _report_path(folder, rank).exists():
        ended = f"ended with status {failure.exitcode}"
        if failure.exitcode < 0:
            ended = f"was killed by {failure.signal_name()}"
        hint = "; it may have run out of memory" if failure.exitcode == -signal.SIGKILL else ""
        reports.append(
            TokkitError(
                f"rank {rank}: the process {ended}{hint}; "
                f"run the same command again to continue from the last checkpoint"
            )
        )
    cause: Exception = min(reports, key=_severity)
    return cause


def _severity(error: Exception) -> int:
    """Return how unlikely an error is to be the cause of the others; 0 for a cause."""
    consequences = (WorkerError, Interrupted, RankLost)
    return max((n for n, kind in enumerate(consequences, 1) if isinstance(error, kind)), default=0)


def _report_path(folder: Path, rank: int) -> Path:
    return folder / f"{rank}.report"


def _run_rank(
    work: Work, config: PretrainConfig, folder: Path, receivers: Sequence[Connection], level: int
) -> None:
    """Do the work of a rank; report an error and exit with status 1.

    The agent would wait forever for a function that ends the process with status 0.
    """
    rank = int(os.environ["RANK"])
    threading.Thread(target=_follow_parent, args=(receivers[rank],), daemon=True).start()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    # tqdm's default lock is a named semaphore, which a killed rank would leave behind.
    tqdm.set_lock(threading.RLock())
    logger = logging.getLogger("tokkit")
    logger.handlers, logger.propagate = [LineHandler()], False
    logger.setLevel(level)
    try:
        with interruptible(config.output):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            try:
                work(config)
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    except TokkitError as error:
        report: Exception = error
    except BaseException:  # noqa: BLE001  whatever it is, the parent must raise it
        report = WorkerError(f"rank {rank}\n\n{traceback.format_exc()}")
    else:
        return
    path = _report_path(folder, rank)
    path.with_suffix(".part").write_bytes(pickle.dumps(report))
    path.with_suffix(".part").rename(path)
    sys.stdout.flush()
    sys.stderr.flush()
    if isinstance(report, RankLost):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # so that the agent can end the wait
        time.sleep(CAUSE_SECONDS)
    # The interpreter's shutdown would wait for the threads of broken connections.
    os._exit(1)


def _follow_parent(receiver: Connection) -> None:
    """Raise the signals that the parent forwards; end the process when the parent ends."""
    with suppress(EOFError, OSError):
        while True:
            os.kill(os.getpid(), receiver.recv())
    os._exit(1)
