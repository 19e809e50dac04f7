"""Progress bars and log lines share a terminal: a bar makes room for a line from any thread."""

import logging
import sys
import time
from contextlib import AbstractContextManager
from typing import Any

from tokkit.errors import format_line

LOG_SECONDS = 60.0

log = logging.getLogger(__name__)


def open_bar(
    description: str, unit: str, *, total: int | None = None, initial: int = 0, show: bool
) -> Any:
    """Return a tqdm bar on standard error, or a log of progress if that is no terminal.

    The time left follows from the mean speed, so it does not jump from unit to unit. A bar has no
    thread that looks after slow bars, so a process of one thread can still be copied.
    """
    if not show or not sys.stderr.isatty():
        return ProgressLog(description, total, initial, show=show)
    from tqdm import tqdm  # takes 30 ms

    class Bar(tqdm):  # type: ignore[misc]  # tqdm has no annotations
        monitor_interval = 0

    return Bar(
        desc=description,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=True,
        miniters=1,
        smoothing=0,
    )


class ProgressLog(AbstractContextManager["ProgressLog"]):
    """Logs a line every minute where there is no terminal for a bar.

        tokkit: tokens: 34% done, about 12 min left

    The time left is the time so far, divided in proportion, so it does not jump.

    Args:
        description: of the work.
        total: of what ``update`` is called with; None if unknown.
        initial: what was done before.
        show: log a line; else only count.
    """

    def __init__(
        self, description: str, total: float | None, initial: float = 0, *, show: bool = True
    ) -> None:
        self._description, self._total, self._initial = description, total, initial
        self._show = show
        self.done = initial
        self._start = self._last = time.monotonic()

    def update(self, advance: float, words: str = "") -> None:
        """Count what was done, and log a line if a minute has passed since the last one.

        Args:
            advance: since the last call.
            words: more to say in the line.
        """
        self.done += advance
        now = time.monotonic()
        if self._show and now - self._last >= LOG_SECONDS:
            self._last = now
            log.info(
                "%s: %s", self._description, ", ".join(filter(None, (self._state(now), words)))
            )

    def _state(self, now: float) -> str:
        elapsed, gained = now - self._start, self.done - self._initial
        if not self._total or gained <= 0:
            return f"{describe_duration(elapsed)} so far"
        left = elapsed * max(self._total - self.done, 0) / gained
        share = min(self.done / self._total, 1.0)
        return f"{share:.0%} done, about {describe_duration(left)} left"

    def __exit__(self, *exception: object) -> None:
        pass


def describe_duration(seconds: float) -> str:
    """Return a duration in its two largest units, such as ``1 d 3 h`` or ``12 s``."""
    left = round(seconds)
    numbers: list[tuple[int, str]] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or numbers or unit == "s":
            numbers.append((number, unit))
    return " ".join(f"{n} {unit}" for place, (n, unit) in enumerate(numbers[:2]) if n or not place)


def send_logs(handler: logging.Handler) -> None:
    """Let the log lines of tokkit in this process, which another one shows, go to a handler."""
    logger = logging.getLogger("tokkit")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


class LineHandler(logging.StreamHandler):  # type: ignore[type-arg]  # no type argument at run time
    """Writes log lines to standard error."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("tokkit: %(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without what a terminal would obey."""
        return format_line(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, without a bar in it."""
        if "tqdm" not in sys.modules:  # so there is no bar
            super().emit(record)
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)
