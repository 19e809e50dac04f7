import signal
from signal import SIGINT, SIGTERM, Signals

import pytest

from tokkit.pretraining.training import stopping
from tokkit.pretraining.training.stopping import StopRequest, find_agreed_signal, hold_signals


def test_ranks_agree_by_the_sums_of_their_flags() -> None:
    assert StopRequest().flags == [0.0, 0.0]
    for flags, agreed in (
        ([[0.0, 0.0], [0.0, 0.0]], None),
        ([StopRequest(SIGTERM).flags, StopRequest().flags], SIGTERM),
        ([StopRequest(SIGINT).flags, StopRequest(SIGINT).flags], SIGINT),
        ([StopRequest(SIGTERM).flags, StopRequest(SIGINT).flags], SIGINT),
    ):
        assert find_agreed_signal([sum(pair) for pair in zip(*flags, strict=True)]) is agreed


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
def test_an_echo_is_no_second_signal(number: Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    heard = []
    before = signal.signal(number, lambda *_: heard.append(now))
    try:
        with hold_signals() as stop:
            assert stop.signal is None
            for now in (100.0, 100.0 + stopping.ECHO_SECONDS / 2):  # noqa: B007  the clock reads it
                signal.raise_signal(number)
                assert stop.signal is number
                assert not heard
            now = 100.0 + 2 * stopping.ECHO_SECONDS
            signal.raise_signal(number)
            assert heard == [now]
            signal.raise_signal(number)
            assert len(heard) == 2
        signal.raise_signal(number)
        assert len(heard) == 3
    finally:
        signal.signal(number, before)
