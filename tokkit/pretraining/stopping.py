"""SIGINT and SIGTERM while a model trains: finish the step, save it, then stop.

Elsewhere a signal may end the work between any two lines; here that would leave a step half taken
and everything since the last checkpoint lost.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGTERM, Signals, getsignal
from signal import signal as set_handler
from types import FrameType

SIGNALS = (SIGINT, SIGTERM)


@dataclass
class StopRequest:
    """Which signal asked to stop; None while none did."""

    signal: Signals | None = None


@contextmanager
def hold_signals() -> Iterator[StopRequest]:
    """Note the first signal rather than act on it; a second one acts as it would outside.

    Signals reach the main thread only; in another thread the block runs as it is.

    Yields:
        What the block looks at between two steps.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: getsignal(number) for number in SIGNALS}

    def note(number: int, _frame: FrameType | None) -> None:
        request.signal = Signals(number)
        restore()

    def restore() -> None:
        for number, handler in before.items():
            set_handler(number, handler)

    for number in SIGNALS:
        set_handler(number, note)
    try:
        yield request
    finally:
        restore()
