"""What a worker process does: one unit after the other, from a pipe to a disk.

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
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

from tokkit.engine.unit import Task, Unit, Written
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
    threading.Thread(target=end_with_parent, daemon=True).start()
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


def end_with_parent() -> None:
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
