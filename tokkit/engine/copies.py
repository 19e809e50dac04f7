"""Copies of this process, which do what takes memory that would stay.

Libraries do not give back what they have imported: transformers takes 200 MB, and the compiler of
kernels 300. A copy does the same work, sends its result, and ends.
"""

import os
import pickle
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tokkit.errors import TokkitError
from tokkit.kernels.compiled import find_folder
from tokkit.kernels.jit import NotCompiledError, refuse_to_compile

Result = TypeVar("Result")


def has_one_thread() -> bool:
    """Return whether this process can be copied; on macOS none can, whatever threads it has.

    Another thread may hold a lock, which would stay locked in the copy.
    """
    threads = Path("/proc/self/task")
    return sys.platform == "linux" and threads.is_dir() and len([*threads.iterdir()]) == 1


def call_in_copy(function: Callable[[], Result]) -> Result:
    """Call a function in a copy of this process, or here where there can be none, or it fails.

    Args:
        function: changes nothing in this process; its result is picklable.

    Raises:
        TokkitError: raised by the function.
    """
    if not has_one_thread():
        return function()
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    copy = os.fork()
    if not copy:
        os.close(reader)
        _send_result(function, writer)
    os.close(writer)
    try:
        with os.fdopen(reader, "rb") as file:
            data = file.read()
    except BaseException:
        os.kill(copy, signal.SIGKILL)
        raise
    finally:
        _, status = os.waitpid(copy, 0)
    if status:
        return function()  # which shows what is wrong
    result, error = pickle.loads(data)  # noqa: S301  from this process's own copy
    if error is not None:
        raise error
    return result  # type: ignore[no-any-return]


def _send_result(function: Callable[[], object], writer: int) -> None:
    """Be the copy: write what a function returns or raises, and end."""
    status = 1
    try:
        # The other process gets it, too, and ends this one.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        result: object = None
        error: TokkitError | None = None
        try:
            result = function()
        except TokkitError as caught:
            error = caught
        with os.fdopen(writer, "wb") as file:
            pickle.dump((result, error), file, pickle.HIGHEST_PROTOCOL)
        status = 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def load_kernels(load: Callable[[], None], compile_all: Callable[[], None]) -> None:
    """Load what needs kernels, which a copy of this process compiles if they are missing.

    Args:
        load: loads them into this process.
        compile_all: calls all kernels that may be needed later, too.
    """
    try:
        with refuse_to_compile():
            load()
    except NotCompiledError:
        if find_folder() is not None:
            call_in_copy(compile_all)
        load()
