"""Runs work units on a Ray cluster, where each unit is a task.

    driver               a process of node 1         a process of node 2
    put(task)
    unit 0, unit 1  ──▶  get(task), once
                         unit 0: a file              get(task), once
                         ▼                           unit 1: a file
    outcome 0  ◀───────── ready                      ▼
    outcome 1  ◀──────────────────────────────────── ready

Every node has the same release of tokkit and sees the folders under the same paths. About twice as
many units are submitted as the cluster has processors. A process keeps tokenizer and kernels.

A unit is a pure function, so that it may run again, even twice at a time. Ray would repeat a unit
that was killed for memory forever; the driver therefore does it: one that was lost with its process
or node runs up to four times, one that was killed for memory once more, with twice the memory. An
error of the unit itself ends the work, unless a file system of several machines gives it that may
be gone the next time.
"""

import logging
import os
import pickle
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import ray
from ray.exceptions import OutOfMemoryError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tokkit import __version__
from tokkit.engine.local import UNIT_MEMORY
from tokkit.engine.ray_worker import ANSWER_SECONDS, require_release, run_unit
from tokkit.engine.unit import Outcome, Task, Unit, out_of_memory
from tokkit.engine.worker_pool import WorkerError
from tokkit.errors import TokkitError, describe_os_error

log = logging.getLogger(__name__)

MAX_RUNS = 4
RUNS_PER_PROCESSOR = 2

_WAIT_SECONDS = 1.0
_CONNECT_SECONDS = 5.0
_OBJECT_STORE_BYTES = 256 << 20  # of a local instance: only the task is kept there
# What begins HTTP/2: the client's preface with empty settings, and the type of the server's first frame.
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))
_SETTINGS = 4


def run_on_ray(
    task: Task, units: Sequence[Unit], address: str, workers: int, report: Callable[[int], Any]
) -> Generator[tuple[Unit, Outcome], None, None]:
    """Run ``task`` on each unit, yielding outcomes as they come.

    Args:
        task: what to do; picklable.
        units: in order.
        address: ``HOST:PORT`` of the cluster; ``auto`` for the one of this machine, or if it has
            none, for an instance that is started here and stopped at the end.
        workers: number of processors of such an instance.
        report: called with the size of each finished unit.

    Raises:
        TokkitError: raised by a unit; or the cluster cannot be reached, has another release of
            tokkit, or has lost a unit too often.
    """
    with _interruptible(), _connect(address, workers):
        _refuse_other_releases()
        yield from _Driver(task).run(units, report)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Raise what a handler of a signal raises inside Ray's compiled code, which hides it."""
    try:
        yield
    except SystemError as error:  # "returned a result with an exception set"
        hidden = error.__cause__ or error.__context__
        if isinstance(hidden, TokkitError):
            raise hidden from None
        raise


@dataclass
class _SharedConnection:
    """The connection that the stages of this process share: whether they do, and its address."""

    is_open: bool = False
    address: str = ""


_shared = _SharedConnection()


@contextmanager
def share_connection() -> Iterator[None]:
    """Let the stages inside the block share a connection, and the instance that is started for it."""
    _shared.is_open = True
    try:
        yield
    finally:
        if _shared.address:
            ray.shutdown()
        _shared.is_open, _shared.address = False, ""


@contextmanager
def _connect(address: str, workers: int) -> Iterator[None]:
    """Connect this process with a cluster inside the block, unless it is connected already."""
    if _shared.address not in ("", address):
        ray.shutdown()  # the stage before had another cluster
    if ray.is_initialized():
        yield
        return
    try:
        _start(address, workers)
        _shared.address = address if _shared.is_open else ""
        yield
    finally:
        if not _shared.address:
            ray.shutdown()


def _start(given: str, workers: int) -> None:
    """Connect this process with a cluster, or start an instance where there is none."""
    address = os.environ.get("RAY_ADDRESS") or given if given == "auto" else given
    if address != "auto":
        _probe(address)
    options: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    # Ray replaces the handlers that turn signals into ``Interrupted``.
    in_main_thread = threading.current_thread() is threading.main_thread()
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        try:
            ray.init(address=address, **options)
        except ConnectionError:
            if address != "auto":
                raise
            log.info("no Ray cluster on this machine; starting an instance of its own")
            ray.init(
                num_cpus=max(1, workers),
                object_store_memory=_OBJECT_STORE_BYTES,
                include_dashboard=False,
                **options,
            )
    except SystemExit as error:  # from Ray's own handler, which is in force for a moment
        handler = handlers[signal.SIGTERM]
        if error.code == signal.SIGTERM and callable(handler):
            handler(signal.SIGTERM, None)
        raise
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().split("\n", 1)[0]
        raise TokkitError(
            f"--ray-address {address}: {reason}; run ray start on this machine, to join the cluster"
        ) from error
    if in_main_thread:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _probe(address: str) -> None:
    """Refuse an address where no Ray is, whose servers speak HTTP/2; Ray would try for minutes."""
    host, _, port = address.rpartition(":")
    remedy = "name HOST:PORT of a cluster's head, as ray status shows it, or leave it out"
    if not host or not port.isdigit():
        raise TokkitError(f"--ray-address {address}: not HOST:PORT; {remedy}")
    try:
        with socket.create_connection((host, int(port)), _CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0") != "0":
                return
            connection.sendall(_PREFACE)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        reason = describe_os_error(error) if isinstance(error, OSError) else str(error)
        raise TokkitError(f"--ray-address {address}: {reason}; {remedy}") from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise TokkitError(f"--ray-address {address}: what answers there is not Ray; {remedy}")


def _refuse_other_releases() -> None:
    """Refuse a cluster whose nodes have another release of tokkit, which may write other bytes."""

    def find_release() -> str:  # sent as code, since a node may have no tokkit
        try:
            from tokkit import __version__ as release
        except ImportError:
            return "none"
        return release

    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ask = ray.remote(num_cpus=0, max_retries=0, scheduling_strategy=there)(find_release)
        asked[ask.remote()] = node
    answered, _ = ray.wait([*asked], num_returns=len(asked), timeout=ANSWER_SECONDS)
    for answer in answered:
        with suppress(RayError):  # the node was lost; others are there, or nothing will be done
            node = asked[answer]
            name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            require_release(name, ray.get(answer), __version__)


@dataclass(frozen=True)
class _Submission:
    """A unit that was sent to the cluster: with how much memory, and how often so far."""

    unit: Unit
    memory: int
    number: int = 1


class _Driver:
    """Sends units to the cluster that this process is connected with."""

    def __init__(self, task: Task) -> None:
        self._task = ray.cloudpickle.dumps((ray.put(task), __version__))
        self._run_unit = ray.remote(num_cpus=1, max_retries=0)(run_unit)
        self._logged: set[str] = set()
        self._looked = -60.0
        self._look()

    def run(
        self, units: Sequence[Unit], report: Callable[[int], Any]
    ) -> Iterator[tuple[Unit, Outcome]]:
        """Send out the units, and yield their outcomes."""
        memory = min(UNIT_MEMORY, self._largest_memory)
        waiting = deque(_Submission(unit, memory) for unit in units)
        running: dict[Any, _Submission] = {}
        # What runs when this ends early is not cancelled: Ray 2.60 aborts where a unit's answer meets
        # its cancelling. It ends with the connection, or else writes the same files as the next run.
        while waiting or running:
            self._look()
            while waiting and len(running) < self._max_running:
                submission = waiting.popleft()
                running[self._submit(submission)] = submission
            for reference in ray.wait([*running], timeout=_WAIT_SECONDS)[0]:
                submission = running.pop(reference)
                outcome = self._receive(reference, submission)
                if isinstance(outcome, _Submission):
                    waiting.appendleft(outcome)
                else:
                    report(submission.unit.size)
                    yield submission.unit, outcome

    def _look(self) -> None:
        """Look how large the cluster is, every few seconds: nodes come and go."""
        if time.monotonic() - self._looked < 5 * _WAIT_SECONDS:
            return
        self._looked = time.monotonic()
        resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        workers = [each for each in resources if each.get("CPU")]
        num_processors = sum(each["CPU"] for each in workers)
        self._max_running = max(1, int(RUNS_PER_PROCESSOR * num_processors))
        self._largest_memory = int(max((each.get("memory", 0) for each in workers), default=0))

    def _submit(self, submission: _Submission) -> Any:
        run = self._run_unit.options(memory=submission.memory)
        return run.remote(self._task, pickle.dumps(submission.unit))

    def _receive(self, reference: Any, submission: _Submission) -> "Outcome | _Submission":
        """Return the outcome of a unit, or what is to be submitted again."""
        unit = submission.unit
        try:
            kind, content, messages = pickle.loads(ray.get(reference))  # noqa: S301  from a worker
        except OutOfMemoryError as error:
            return self._give_more_memory(submission, error)
        except RayTaskError as error:
            raise WorkerError(f"{unit.name}\n\n{error}") from error
        except RayError as error:
            if submission.number == MAX_RUNS:
                reason = str(error).strip().split("\n", 1)[0]
                raise TokkitError(
                    f"{unit.name}: its process or node was lost {MAX_RUNS} times ({reason}). It may "
                    f"have run out of memory. Finished units are kept: run the same command again"
                ) from error
            return replace(submission, number=submission.number + 1)
        self._log(messages)
        if kind == "memory":
            return self._give_more_memory(submission, content)
        if kind == "transient" and submission.number < MAX_RUNS:
            log.info("%s; running it again", content)
            return replace(submission, number=submission.number + 1)
        if kind in ("error", "transient"):
            raise content
        if kind == "bug":
            raise WorkerError(f"{unit.name}\n\n{content}")
        assert isinstance(content, Outcome)  # noqa: S101  the last kind
        return content

    def _log(self, messages: Sequence[str]) -> None:
        for message in messages:
            if message not in self._logged:  # several processes log the same
                self._logged.add(message)
                log.info("%s", message)

    def _give_more_memory(self, submission: _Submission, error: Exception) -> _Submission:
        more = min(2 * submission.memory, self._largest_memory)
        if submission.memory > UNIT_MEMORY or more <= submission.memory:
            raise out_of_memory(submission.unit) from error
        log.info("%s: out of memory; running it again with twice as much", submission.unit.name)
        return replace(submission, memory=more)
