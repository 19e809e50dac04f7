"""SIGINT and SIGTERM end work in order: the folder stays one that resumes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from tokkit.errors import Interrupted


@contextmanager
def interruptible(folder: Path) -> Iterator[None]:
    """Turn both signals, while the block runs, into an ``Interrupted`` that names ``folder``.

    Signals reach the main thread only; in another thread the block runs as it is.
    """

    def interrupt(number: int, _frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        raise Interrupted(
            f"{folder}: stopped by {name}; run the same command again to go on",
            exit_status=128 + number,
        )

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    caught = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, interrupt) for number in caught]
    try:
        yield
    finally:
        for number, handler in zip(caught, before, strict=True):
            signal.signal(number, handler)
