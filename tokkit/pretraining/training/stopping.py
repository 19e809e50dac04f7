"""SIGINT and SIGTERM while a model trains: finish the step, save it, then stop.

Elsewhere a signal may end the work between any two lines; here that would leave a step half taken
and everything since the last checkpoint lost.
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

# One Ctrl-C, or one scancel, may reach a process twice: directly, and through what started it.
ECHO_SECONDS = 1.0


@dataclass
class StopRequest:
    """Which signal asked to stop; None while none did."""

    signal: Signals | None = None

    @property
    def flags(self) -> list[float]:
        """1 for the signal that came, of ``SIGNALS``: what ranks add up to agree on a step."""
        return [float(self.signal == signal) for signal in SIGNALS]


def agreed_signal(sums: Sequence[float]) -> Signals | None:
    """The signal for which all ranks stop, from the sums of their flags.

    A signal reaches ranks at different moments, some before a step and some after it; by the sums,
    which are the same everywhere, all of them stop after the same step.
    """
    return next((signal for signal, total in zip(SIGNALS, sums, strict=True) if total), None)


@contextmanager
def hold_signals() -> Iterator[StopRequest]:
    """Note the first signal rather than act on it; a second one acts as it would outside.

    What comes within a second of the first is taken for the same. Signals reach the main thread
    only; in another thread the block runs as it is.

    Yields:
        What the block looks at between two steps.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: getsignal(number) for number in SIGNALS}
    noted_at = 0.0

    def note(number: int, _frame: FrameType | None) -> None:
        nonlocal noted_at
        if request.signal is None:
            request.signal, noted_at = Signals(number), time.monotonic()
        elif time.monotonic() - noted_at > ECHO_SECONDS:
            restore()
            raise_signal(number)

    def restore() -> None:
        for number, handler in before.items():
            set_handler(number, handler)

    for number in SIGNALS:
        set_handler(number, note)
    try:
        yield request
    finally:
        restore()
