import io
import logging
import sys

import pytest
from tqdm import tqdm

from tokkit.engine.progress import LineHandler, open_bar


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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which a test sets."""
    now = [1000.0]
    monkeypatch.setattr("tokkit.engine.progress.time.monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_line_is_logged_every_minute(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with open_bar("tokens", "B", total=1000, initial=100, show=True) as bar:
        for _ in range(9):
            clock[0] += 20
            bar.update(50)
    assert caplog.messages == [
        "tokens: 25% done, about 5 min left",  # 150 in 60 s, 750 to go
        "tokens: 40% done, about 4 min left",
        "tokens: 55% done, about 3 min left",
    ]


def test_a_line_without_a_known_end_says_how_long_it_has_taken(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with open_bar("corpus", "B", show=True) as bar:
        clock[0] += 90
        bar.update(7)
    with open_bar("corpus", "B", show=False) as bar:
        clock[0] += 90
        bar.update(7)
    assert caplog.messages == ["corpus: 1 min 30 s so far"]


def test_the_time_left_does_not_jump_with_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with open_bar("tokens", "B", total=1000, show=True) as bar:
        bar.start_t -= 100  # as if it had begun then
        bar.update(500)
        before = bar.format_dict["rate"] or bar.n / bar.format_dict["elapsed"]
        bar.update(100)  # at once
        after = bar.format_dict["rate"] or bar.n / bar.format_dict["elapsed"]
    assert after == pytest.approx(before * 1.2, rel=0.05)
