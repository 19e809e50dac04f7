"""Progress bars and log lines share a terminal: a bar makes room for a line from any thread."""

import logging
import sys
from contextlib import AbstractContextManager
from typing import Any

from tokkit.errors import escape_controls


def open_bar(
    description: str, unit: str, *, total: int | None = None, initial: int = 0, show: bool
) -> Any:
    """Return a tqdm bar on standard error, or one that shows nothing unless that is a terminal.

    It has no thread that looks after slow bars, so a process of one thread can still be copied.
    """
    if not (show and sys.stderr.isatty()):
        return _HiddenBar()
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
    )


class _HiddenBar(AbstractContextManager["_HiddenBar"]):
    """What stages need of a bar, without showing it."""

    def update(self, advance: int) -> None:
        """Do nothing."""

    def __exit__(self, *exception: object) -> None:
        pass


class LineHandler(logging.StreamHandler):  # type: ignore[type-arg]  # no type argument at run time
    """Writes log lines to standard error."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("tokkit: %(message)s"))

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, without what a terminal would obey."""
        return escape_controls(super().format(record))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, without a bar in it."""
        if "tqdm" not in sys.modules:  # so there is no bar
            super().emit(record)
            return
        from tqdm import tqdm

        with tqdm.external_write_mode(file=sys.stderr):
            super().emit(record)
