import io
import logging
import sys

import pytest
from tqdm import tqdm

from tokkit.engine.progress import LineHandler


class Terminal(io.StringIO):
    """Keeps what is written to it, as a screen of lines shows it."""

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> list[str]:
        """Each line after its last return to the left, as far as that overwrites what was there."""
        lines = []
        for line in self.getvalue().split("\n"):
            cells = ""
            for part in line.split("\r"):
                cells = part + cells[len(part) :]
            lines.append(cells.rstrip())
        return lines


def test_a_bar_makes_room_for_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    logger = logging.getLogger("tokkit")
    monkeypatch.setattr(logger, "handlers", [LineHandler()])
    with tqdm(total=10, ncols=60, file=terminal) as bar:
        bar.update(3)
        logger.warning("the disk is full")
        bar.update(7)
    first, second, last = terminal.shown
    assert first == "tokkit: the disk is full"
    assert second.startswith("100%|")
    assert last == ""
