"""Runs commands in copies of this process, which may crash, hang or ask for memory without end.

A copy has imported everything and loaded its kernels, so that it starts within milliseconds. It
gets what it prints into files, a limit for its memory, and a time after which it is killed.
"""

import os
import resource
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import BinaryIO

import forkserver
import psutil

from tokkit import cli
from tokkit.__main__ import _interrupt

CRASHED = 70  # an exception that is no end of a command


@dataclass(frozen=True)
class Ended:
    """How a copy ended.

    Attributes:
        status: its exit status, or minus the number of the signal that ended it.
        output: what it printed.
        errors: what it printed on standard error.
        seconds: how long it ran.
        hung: whether it was killed because it did not end.
    """

    status: int
    output: str
    errors: str
    seconds: float
    hung: bool = False

    @property
    def lines(self) -> list[str]:
        """The lines on standard error."""
        return self.errors.splitlines()

    def fault(self) -> str:
        """Return what is wrong with how a command ended; "" after success and after a refusal."""
        if self.hung:
            return f"did not end within {self.seconds:.0f} s"
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}: {self.errors}"
        if "Traceback" in self.errors:
            calls = [line for line in self.lines if "/tokkit/" in line]
            return "\n".join([f"ended with {self.status}:", *calls[-3:], self.lines[-1]])
        if self.status not in (0, 1, 130, 143):
            return f"ended with {self.status}: {self.errors or self.output}"
        if self.status and not (self.lines and self.lines[-1].startswith("tokkit: ")):
            return f"ended with {self.status} and no line that says why: {self.errors}"
        return ""


def start(function: Callable[[], object], *, memory: int = 0) -> "Copy":
    """Start a copy that calls a function and ends with the status that it returns or exits with.

    Args:
        function: what to do.
        memory: how many bytes of address space it may ask for; 0 for any number.
    """
    streams = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115  Copy closes them
    sys.stdout.flush()
    sys.stderr.flush()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    process = os.fork()
    if process:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        return Copy(process, streams)
    status = CRASHED
    try:
        os.setsid()
        # As that of a command which starts, so that it does not matter how soon a signal comes.
        signal.signal(signal.SIGINT, _interrupt)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        for descriptor, stream in enumerate(streams, 1):
            os.dup2(stream.fileno(), descriptor)
        if memory:
            used = psutil.Process().memory_info().vms
            resource.setrlimit(resource.RLIMIT_AS, (used + memory,) * 2)
        status = int(function() or 0)  # type: ignore[call-overload]
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else CRASHED
    except BaseException:  # noqa: BLE001  a copy never returns
        traceback.print_exc()
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # private
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


@dataclass
class Copy:
    """A process that was started.

    Attributes:
        pid: its process id, and that of its session.
        streams: files of its standard output and error.
    """

    pid: int
    streams: tuple[BinaryIO, BinaryIO]

    def send_signal(self, number: int) -> None:
        """Send a signal to it alone."""
        os.kill(self.pid, number)

    def wait(self, seconds: float = 60) -> Ended:
        """Wait for its end; after that many seconds kill it and all that it started."""
        took, before = 0.0, time.monotonic()
        pause = 0.001
        while not (ended := os.waitpid(self.pid, os.WNOHANG))[0]:
            if took > seconds:
                os.killpg(self.pid, signal.SIGKILL)
                ended = os.waitpid(self.pid, 0)
                break
            time.sleep(pause)
            pause = min(0.02, 1.3 * pause)
            now = time.monotonic()
            took += min(1.0, now - before)  # all processes may have been suspended meanwhile
            before = now
        texts = []
        for stream in self.streams:
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
            stream.close()
        output, errors = texts
        status = os.waitstatus_to_exitcode(ended[1])
        return Ended(status, output, errors, took, hung=took > seconds)


def run_command(*arguments: object) -> None:
    """Be the command line ``tokkit ARGUMENT…``, as its entry point is; ends the process."""
    sys.argv = ["tokkit", *map(str, arguments)]
    cli.main()


def call_command(*arguments: object) -> int:
    """Run a command line within a copy, and return its exit status."""
    cli._log_to_standard_error()
    status = cli._run([*map(str, arguments)])
    sys.stdout.flush()
    return status


def import_all() -> None:
    """Import everything that commands need, in one thread, so that copies can copy themselves."""
    forkserver._preload()
