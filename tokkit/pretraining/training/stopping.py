"""SIGINT and SIGTERM during training: finish the step, save it, then stop.

Stopping at once, as other stages do, would lose everything since the last checkpoint.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from signal import SIGINT, SIGTERM, Signals, getsignal, raise_signal
from signal import signal as set_handler
from types import FrameType

SIGNALS = (SIGINT, SIGTERM)

# A single Ctrl-C or scancel may reach a process twice: directly, and through its launcher.
ECHO_SECONDS = 1.0


@dataclass
class StopRequest:
    """The signal that asked the run to stop, if any."""

    signal: Signals | None = None

    @property
    def flags(self) -> list[float]:
        """A 1 for the received signal among ``SIGNALS``; ranks sum these to agree on a step."""
        return [float(self.signal == signal) for signal in SIGNALS]


def find_agreed_signal(sums: Sequence[float]) -> Signals | None:
    """Return the signal for which all ranks stop, from the sums of their flags.

    A signal may reach some ranks before a step and others after it. The sums are the same on all
    ranks, so all of them stop after the same step.
    """
    return next((signal for signal, total in zip(SIGNALS, sums, strict=True) if total), None)


@contextmanager
def hold_signals() -> Iterator[StopRequest]:
    """Record the first signal instead of acting on it; a second one acts as it would outside.

    A signal within a second of the first counts as the same one. Signals reach only the main thread;
    in another thread this has no effect.

    Yields:
        The request to check between two steps.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: getsignal(number) for number in SIGNALS}
    received_at = 0.0

    def record(number: int, _frame: FrameType | None) -> None:
        nonlocal received_at
        if request.signal is None:
            request.signal, received_at = Signals(number), time.monotonic()
        elif time.monotonic() - received_at > ECHO_SECONDS:
            restore()
            raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            set_handler(number, handler)

    for number in SIGNALS:
        set_handler(number, record)
    try:
        yield request
    finally:
        restore()
