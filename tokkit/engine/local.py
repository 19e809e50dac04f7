"""Units done by processes of this machine.

A worker gets a unit when it has written the one before. The parent watches their pipes and their
lives: a worker that dies is an error that names the unit it had. Each worker watches the parent
too, and ends with it.

A parent of one thread, on Linux, loads what the units need and then copies itself (``fork``). No
other thread can hold a lock then that would stay locked in the copy. Any other parent starts its
workers by ``spawn``, each of which loads everything again: about 1 s of a core for ``encode``.
Allocators that keep freed memory (``MALLOC_MMAP_THRESHOLD_`` and its like) saved a quarter of the
page faults, and no time.

What a worker process does: one unit after the other, from a pipe to a disk.

    this thread    unit 0 │ unit 1         │ unit 2
    another                │ sync, rename 0 │ sync, rename 1

To wait for the disk took a fifth of ``encode``'s time, so a unit is begun while the shard of the
one before is on its way. One at the most is: a slow disk slows down the work.
"""

import gc
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn, Self, cast

from tokkit.engine.unit import Outcome, Task, Unit, Written
from tokkit.errors import TokkitError

REPORT_SECONDS = 0.1
HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def out_of_memory(unit: Unit) -> TokkitError:
    """Say which unit did not fit into memory."""
    return TokkitError(
        f"{unit.name}: out of memory; pass fewer --workers, or smaller units where it can be cut"
    )


def work(task: Task, pipe: Connection) -> None:
    """Do units from the pipe until it closes: the life of a worker.

    What it says is pairs of a kind and a content. Of each unit the parent hears in the end

    - ``written``: the next may be sent; then ``outcome``, when it is on the disk,
    - or ``error``, a ``TokkitError``, or ``bug``, a traceback,

    in the order of the units; ``progress`` and ``message`` come in between.
    """
    gc.freeze()  # what was loaded before a fork need not be looked at again
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it too, and ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has the parent's handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, HELD_SIGNALS)
    threading.Thread(target=exit_with_parent, daemon=True).start()
    mouth = _Mouth(pipe)
    logger = logging.getLogger("tokkit")
    logger.handlers = [_Forwarder(mouth)]
    logger.propagate = False
    logger.setLevel(logging.INFO)
    reporter = _Reporter(mouth)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk") as disk:
        kept: Future[None] = disk.submit(lambda: None)
        while True:
            try:
                unit = pipe.recv()
            except EOFError:
                return
            with _faults_told(mouth, unit, after=kept):
                written = task.write(unit, reporter.report)
                kept.result()
                reporter.flush()
                mouth.say("written", None)
                kept = disk.submit(_keep, written, unit, mouth)


def _keep(written: Written, unit: Unit, mouth: "_Mouth") -> None:
    with _faults_told(mouth, unit):
        mouth.say("outcome", written.keep())


def exit_with_parent() -> None:
    """End this process when its parent is gone, so that no shard is written behind its back."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Mouth:
    """The pipe to the parent, for two threads."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe
        self._lock = threading.Lock()

    def say(self, kind: str, content: Any) -> None:
        """Send a message."""
        with self._lock:
            self._pipe.send((kind, content))


@contextmanager
def _faults_told(
    mouth: _Mouth, unit: Unit, *, after: "Future[None] | None" = None
) -> Iterator[None]:
    """Tell the parent of whatever is raised, after what is said of another unit."""
    try:
        yield
    except TokkitError as error:
        fault: tuple[str, Any] = ("error", error)
    except MemoryError:
        fault = ("error", out_of_memory(unit))
    except BaseException:  # noqa: BLE001  whatever it is, the parent must be told
        fault = ("bug", traceback.format_exc())
    else:
        return
    if after is not None:
        after.result()
    mouth.say(*fault)


class _Forwarder(logging.Handler):
    """Sends the messages of a worker to the parent, whose standard error it is."""

    def __init__(self, mouth: _Mouth) -> None:
        super().__init__()
        self._mouth = mouth

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message."""
        self._mouth.say("message", record.getMessage())


class _Reporter:
    """Sends progress to the parent, a few times a second at the most."""

    def __init__(self, mouth: _Mouth) -> None:
        self._mouth = mouth
        self._pending = 0
        self._sent = time.monotonic()

    def report(self, advance: int) -> None:
        """Count progress, and send what is pending if it is time to."""
        self._pending += advance
        if time.monotonic() - self._sent >= REPORT_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what is pending."""
        if self._pending:
            self._mouth.say("progress", self._pending)
        self._pending = 0
        self._sent = time.monotonic()


log = logging.getLogger(__name__)


class WorkerError(RuntimeError):
    """A bug in a worker; its text is the traceback from there."""


def run_units(
    task: Task, units: Sequence[Unit], workers: int, report: Callable[[int], Any]
) -> Generator[tuple[Unit, Outcome], None, None]:
    """Run ``task`` on each unit, yielding outcomes as they come.

    Args:
        task: what is done; picklable if there are workers.
        units: in the order in which they are taken up.
        workers: processes; 0 works in this one.
        report: called with the progress made, in the units' sizes.

    The processes end when the generator is closed.

    Raises:
        TokkitError: that a unit raised, or that names the unit whose worker died.
    """
    away = [unit for unit in units if not unit.local] if workers else []
    for unit in units:
        if unit.local or not workers:
            try:
                outcome = task.write(unit, report).keep()
            except MemoryError as error:
                raise out_of_memory(unit) from error
            yield unit, outcome
    if away:
        with _Pool(task, min(workers, len(away))) as pool:
            yield from pool.run(away, report)


class _Pool:
    """A few processes, each with a pipe, a life to watch, and its units in hand.

    These are at most two: one that is done but for the disk, and one to do.
    """

    def __init__(self, task: Task, num_workers: int) -> None:
        self._processes: dict[Connection, BaseProcess] = {}
        self._in_hand: dict[Connection, deque[Unit]] = {}
        self._said: set[str] = set()
        context = _choose_start(task)
        # A signal would tear the start of a process, or print a traceback from within a child that
        # is not ready to ignore it; children inherit the mask and lift it when they are.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, HELD_SIGNALS)
        try:
            for _ in range(num_workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=work, args=(task, theirs), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        for pipe, process in self._processes.items():
            pipe.close()
            process.terminate()
        for process in self._processes.values():
            process.join()

    def run(
        self, units: Sequence[Unit], report: Callable[[int], Any]
    ) -> Iterator[tuple[Unit, Outcome]]:
        """Hand out the units and yield what comes back."""
        waiting = deque(units)
        for pipe in self._processes:
            self._in_hand[pipe] = deque()
            self._hand_out(pipe, waiting)
        while busy := [pipe for pipe, held in self._in_hand.items() if held]:
            for pipe in cast("list[Connection]", wait(busy)):
                kind, content = self._receive(pipe)
                if kind == "progress":
                    report(content)
                elif kind == "message":
                    self._say(content)
                elif kind == "written":
                    self._hand_out(pipe, waiting)
                elif kind == "outcome":
                    yield self._in_hand[pipe].popleft(), content
                elif kind == "error":
                    raise content
                else:
                    raise WorkerError(f"{self._in_hand[pipe][0].name}\n\n{content}")

    def _say(self, message: str) -> None:
        """Pass on what a worker has to say, once where several say the same."""
        if message not in self._said:
            log.info("%s", message)
        self._said.add(message)

    def _hand_out(self, pipe: Connection, waiting: deque[Unit]) -> None:
        if waiting:
            self._in_hand[pipe].append(unit := waiting.popleft())
            try:
                pipe.send(unit)
            except BrokenPipeError:
                self._raise_death(pipe)

    def _receive(self, pipe: Connection) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = pipe.recv()
        except (EOFError, ConnectionResetError):
            self._raise_death(pipe)
        return message

    def _raise_death(self, pipe: Connection) -> NoReturn:
        """Say which unit a dead worker had, and how it died."""
        process = self._processes[pipe]
        process.join()
        killed = process.exitcode == -signal.SIGKILL
        remedy = "; was memory short? pass fewer --workers" if killed else ""
        raise TokkitError(
            f"{self._in_hand[pipe][-1].name}: the worker process {describe_exit(process)}{remedy}; what "
            f"other units finished stays, run the same command again to go on"
        )


def describe_exit(process: BaseProcess) -> str:
    """Say how a process ended that was not asked to."""
    code = process.exitcode or 0
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def _choose_start(task: Task) -> ForkContext | SpawnContext:
    """How to start processes; before a fork, what the task needs is loaded for all of them."""
    if _has_one_thread():
        task.load()
        if _has_one_thread():
            return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


def _has_one_thread() -> bool:
    """Whether this process can be copied; those of macOS cannot, whatever threads they have."""
    threads = Path("/proc/self/task")
    return sys.platform == "linux" and threads.is_dir() and len([*threads.iterdir()]) == 1
