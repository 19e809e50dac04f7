"""Log lines and bars share a terminal: a bar makes room for a line, whichever thread writes it."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hide_bars() -> Iterator[None]:
    """Take the bars off the terminal for as long as the block writes to it."""
    if "tqdm" not in sys.modules:  # so there is no bar
        yield
        return
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stderr):
        yield


class LineHandler(logging.StreamHandler):  # type: ignore[type-arg]  # no type argument when it runs
    """Writes log lines to standard error."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter("tokkit: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line, where no bar stands."""
        with hide_bars():
            super().emit(record)
