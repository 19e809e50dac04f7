"""Worker processes, which are copies of their parent where possible.

A worker gets its next unit when it has written the one before. The parent watches the workers'
pipes and processes: a worker that dies is an error that names its unit. Each worker watches the
parent, too, and exits with it.

On Linux, a parent with one thread loads what the units need and then copies itself (``fork``),
since no other thread can hold a lock that would stay locked in the copy. Any other parent starts
its workers with ``spawn``, and each of them loads everything: about 0.5 s of CPU time for ``encode``.
Allocators that keep freed memory (``MALLOC_MMAP_THRESHOLD_`` and the like) saved a quarter of the
page faults, and no time.

A worker syncs the file of one unit to the disk while it works on the next:

    main thread    unit 0 │ unit 1         │ unit 2
    disk thread           │ sync, rename 0 │ sync, rename 1

Waiting for the disk took a fifth of the time of ``encode``. At most one file is in flight, so a
slow disk slows down the work.
"""

import gc
import logging
import multiprocessing
import os
import signal
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkContext, SpawnContext
from multiprocessing.process import BaseProcess
from typing import Any, NoReturn, Self, cast

from tokkit.engine.copies import has_one_thread
from tokkit.engine.progress import send_logs
from tokkit.engine.unit import (
    Outcome,
    Task,
    Unit,
    UnitStream,
    WrittenUnit,
    out_of_memory,
    send_aborts,
)
from tokkit.errors import TokkitError

log = logging.getLogger(__name__)

_REPORT_SECONDS = 0.1
_HELD_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class WorkerError(RuntimeError):
    """A bug in a worker; the message is the traceback from there."""


class WorkerPool:
    """A few worker processes, each with a pipe and the units that it was sent.

    A worker has at most two units: one of which the file is not on the disk yet, and one to do.
    """

    def __init__(self, task: Task, num_workers: int) -> None:
        self._processes: dict[Connection, BaseProcess] = {}
        self._sent: dict[Connection, deque[Unit]] = {}
        self._idle: deque[Connection] = deque()
        self._logged: set[str] = set()
        context = _choose_start(task)
        # A signal would break the start of a process, or print a traceback from a child that cannot
        # ignore it yet; children inherit the mask and lift it when they can.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HELD_SIGNALS)
        try:
            for _ in range(num_workers):
                ours, theirs = context.Pipe()
                process = context.Process(target=_work, args=(task, theirs), daemon=True)
                process.start()
                theirs.close()
                self._processes[ours] = process
                self._sent[ours] = deque()
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
        self, units: Sequence[Unit], report: Callable[[int], Any], stream: UnitStream | None = None
    ) -> Iterator[tuple[Unit, Outcome]]:
        """Send out the units, then those of the stream, and yield their outcomes.

        The stream is read when there is something to read, at most one unit ahead.
        """
        waiting = deque(units)
        self._idle.extend(self._processes)
        while True:
            while self._idle and waiting:
                self._send(self._idle.popleft(), waiting.popleft())
            sources: list[Any] = [pipe for pipe, sent in self._sent.items() if sent]
            if stream is not None and not stream.ended and not waiting:
                sources.append(stream)
            if not sources:
                return
            for source in cast("list[Any]", wait(sources)):
                if stream is not None and source is stream:
                    waiting.extend(stream.read())
                else:
                    yield from self._handle_message(source, report)

    def _handle_message(
        self, pipe: Connection, report: Callable[[int], Any]
    ) -> Iterator[tuple[Unit, Outcome]]:
        """Receive one message from a worker, and yield the outcome if it is one."""
        kind, content = self._receive(pipe)
        if kind == "progress":
            report(content)
        elif kind == "log":
            if content not in self._logged:  # once if several workers log the same
                log.info("%s", content)
            self._logged.add(content)
        elif kind == "written":
            self._idle.append(pipe)
        elif kind == "outcome":
            yield self._sent[pipe].popleft(), content
        elif kind == "error":
            raise content
        else:
            raise WorkerError(f"{self._sent[pipe][0].name}\n\n{content}")

    def _send(self, pipe: Connection, unit: Unit) -> None:
        self._sent[pipe].append(unit)
        try:
            pipe.send(unit)
        except (BrokenPipeError, ConnectionResetError):
            self._raise_death(pipe)

    def _receive(self, pipe: Connection) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = pipe.recv()
        except (EOFError, ConnectionResetError):
            self._raise_death(pipe)
        return message

    def _raise_death(self, pipe: Connection) -> NoReturn:
        """Raise an error that says which unit a dead worker had, and how it died."""
        process = self._processes[pipe]
        process.join()
        code = process.exitcode or 0
        end = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
        if code == -signal.SIGKILL:
            end += ". It may have run out of memory: use fewer --workers"
        raise TokkitError(
            f"{self._sent[pipe][-1].name}: the worker process {end}. Finished units are kept: "
            f"run the same command again to continue"
        )


def _choose_start(task: Task) -> ForkContext | SpawnContext:
    """Return how to start processes; before a fork, what the task needs is loaded for all."""
    if has_one_thread():
        task.load()
        if has_one_thread():
            return multiprocessing.get_context("fork")
    return multiprocessing.get_context("spawn")


def _work(task: Task, pipe: Connection) -> None:
    """Do units from the pipe until it closes: the main function of a worker.

    It sends pairs of a kind and a content. About each unit, in order, the last ones are

    - ``written``: the next unit may be sent; then ``outcome``, when the file is on the disk,
    - or ``error``, a ``TokkitError``, or ``bug``, a traceback.

    ``progress`` and ``log`` come in between.
    """
    gc.freeze()  # what was loaded before a fork need not be looked at again
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, too, and ends us
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has the parent's handler
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD_SIGNALS)
    threading.Thread(target=_exit_with_parent, daemon=True).start()
    messages = _Messages(pipe)
    send_aborts(messages.send)
    send_logs(messages)
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="disk") as disk:
        committed: Future[None] = disk.submit(lambda: None)
        while True:
            try:
                unit = pipe.recv()
            except EOFError:
                return
            with _report_errors(messages, unit, after=committed):
                written = task.write(unit, messages.report)
                committed.result()
                messages.send_progress()
                messages.send("written", None)
                committed = disk.submit(_commit, written, unit, messages)


def _commit(written: WrittenUnit, unit: Unit, messages: "_Messages") -> None:
    with _report_errors(messages, unit):
        messages.send("outcome", written.commit())


def _exit_with_parent() -> None:
    """Exit this process when its parent is gone, so that it writes nothing that nobody expects."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class _Messages(logging.Handler):
    """Sends messages to the parent, from two threads: also log lines, and progress now and then."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe
        self._sending = threading.Lock()
        self._progress = 0
        self._reported = time.monotonic()

    def send(self, kind: str, content: Any) -> None:
        """Send a message."""
        with self._sending:
            self._pipe.send((kind, content))

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log message to the parent, which owns standard error."""
        self.send("log", record.getMessage())

    def report(self, advance: int) -> None:
        """Add progress, and send it a few times a second at most."""
        self._progress += advance
        if time.monotonic() - self._reported >= _REPORT_SECONDS:
            self.send_progress()

    def send_progress(self) -> None:
        """Send the progress that was not sent yet."""
        if self._progress:
            self.send("progress", self._progress)
        self._progress, self._reported = 0, time.monotonic()


@contextmanager
def _report_errors(
    messages: _Messages, unit: Unit, *, after: "Future[None] | None" = None
) -> Iterator[None]:
    """Send whatever is raised inside to the parent, after the messages about another unit."""
    try:
        yield
    except TokkitError as error:
        message: tuple[str, Any] = ("error", error)
    except MemoryError:
        message = ("error", out_of_memory(unit))
    except BaseException:  # noqa: BLE001  whatever it is, the parent must know
        message = ("bug", traceback.format_exc())
    else:
        return
    if after is not None:
        after.result()
    messages.send(*message)
