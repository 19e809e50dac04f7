"""A process of a Ray cluster that runs units; see ``tokkit.engine.ray``."""

import errno
import logging
import pickle
import socket
import threading
import time
import traceback
from functools import cache
from queue import SimpleQueue
from typing import Any

import ray

from tokkit import __version__
from tokkit.engine.progress import send_logs
from tokkit.engine.unit import Task, send_aborts
from tokkit.errors import TokkitError
from tokkit.kernels.compiled import keep_kernels_on_machine

ANSWER_SECONDS = 60.0  # in which a node starts a process
_TRANSIENT = (errno.ESTALE, errno.EIO, errno.ETIMEDOUT, errno.ECONNRESET, errno.EAGAIN)


def require_release(node: str, release: str, of_driver: str) -> None:
    """Refuse a node that has another release than the driver.

    Raises:
        TokkitError: naming the node.
    """
    if release != of_driver:
        raise TokkitError(
            f"Ray node {node} has tokkit {release}, and the driver {of_driver}; "
            f"install the same release on all nodes"
        )


class _MessageList(logging.Handler):
    """Keeps the messages of a unit, which the driver logs."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


# What became of a unit, with the messages: ``outcome`` with one, ``error`` or ``transient`` with a
# ``TokkitError``, ``memory`` with a ``MemoryError``, or ``bug`` with a traceback.
Answer = tuple[str, Any, list[str]]


class _Worker:
    """Runs units in a process of the cluster, with what all units of the last task need.

    Units run in a thread, since work that neither returns nor can be interrupted is answered for by
    another. It is one thread for all, because to start one takes as long as a tiny unit.
    """

    def __init__(self) -> None:
        self._task_data = b""
        self._units: SimpleQueue[tuple[bytes, bytes]] = SimpleQueue()
        self._answers: SimpleQueue[Answer] = SimpleQueue()
        self._log = _MessageList()
        send_logs(self._log)
        send_aborts(self._send_abort)
        threading.Thread(target=self._work, daemon=True).start()

    def run(self, task: bytes, unit: bytes) -> Answer:
        """Run one unit."""
        self._units.put((task, unit))
        return self._answers.get()

    def _send_abort(self, kind: str, error: TokkitError) -> None:
        self._answers.put((kind, error, []))
        time.sleep(ANSWER_SECONDS)  # before this process is ended, the driver gets the answer

    def _work(self) -> None:
        while True:
            task, unit = self._units.get()
            self._log.messages = []
            self._answers.put((*self._try(task, unit), self._log.messages))

    def _try(self, task: bytes, unit: bytes) -> tuple[str, Any]:
        """Run one unit, and return what became of it."""
        try:
            if task != self._task_data:
                self._load(task)
            return "outcome", self._task.write(pickle.loads(unit), lambda _: None).commit()  # noqa: S301  from the driver
        except TokkitError as error:
            cause = error.__cause__
            is_transient = isinstance(cause, OSError) and cause.errno in _TRANSIENT
            return "transient" if is_transient else "error", error
        except MemoryError as error:
            return "memory", error
        except Exception:  # noqa: BLE001  whatever it is, the driver must know
            return "bug", traceback.format_exc()

    def _load(self, data: bytes) -> None:
        """Get the task, and load what all units need, once in a process."""
        self._task_data = b""
        reference, release = ray.cloudpickle.loads(data)
        require_release(socket.gethostname(), __version__, release)  # it may have come later
        keep_kernels_on_machine()
        self._task: Task = ray.get(reference)
        self._task.load()
        self._task_data = data


@cache
def _start_worker() -> _Worker:
    """Return the worker of this process."""
    return _Worker()


def run_unit(task: bytes, unit: bytes) -> bytes:
    """Run one unit in a process of the cluster.

    Ray passes bytes on as they are; to pickle other objects takes it as long as a tiny unit.

    Args:
        task: reference of the task, and the driver's release of tokkit, pickled.
        unit: to run, pickled.

    Returns:
        The ``Answer``, pickled.
    """
    return pickle.dumps(_start_worker().run(task, unit))
