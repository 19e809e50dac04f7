"""Ranks that fail, are killed and are stopped; their work here is to wait, so they are quick."""

import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import forkserver
import psutil
import pytest

from tokkit.engine.worker_pool import WorkerError
from tokkit.errors import Interrupted, TokkitError, UsageError
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.launch import launch
from tokkit.pretraining.training.launch_info import RankLost, detect_launcher

TIMEOUT_SECONDS = 120.0  # long, because the machine may have other work

log = logging.getLogger("tokkit.pretraining.test")


def make_config(folder: Path) -> PretrainConfig:
    return PretrainConfig(instances=(Path("instances"),), output=folder, nproc_per_node=2)


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def announce(config: PretrainConfig) -> int:
    """Write the process id to a file of the rank, and return the rank."""
    rank = detect_launcher(os.environ).rank
    path = config.output / f"rank-{rank}"
    path.with_suffix(".tmp").write_text(str(os.getpid()))
    path.with_suffix(".tmp").rename(path)
    return rank


def pids_in(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in sorted(folder.glob("rank-?"))]


def have_ended(pids: list[int]) -> bool:
    for pid in pids:
        with suppress(psutil.NoSuchProcess):
            if psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                return False
    return True


def await_others(config: PretrainConfig) -> int:
    rank = announce(config)
    wait_until(lambda: len(pids_in(config.output)) == 2)
    return rank


def log_and_write(config: PretrainConfig) -> None:
    launch_info = detect_launcher(os.environ)
    assert config.nproc_per_node is None
    log.info("a line of rank %d", launch_info.rank)
    (config.output / f"{launch_info.rank}").write_text(f"{launch_info.size} {config.threads}")


def raise_in_rank_1(config: PretrainConfig) -> None:
    if await_others(config) == 1:
        raise UsageError("--batch-size must be at least 2")
    time.sleep(TIMEOUT_SECONDS)


def lose_rank_1_late(config: PretrainConfig) -> None:
    if await_others(config) == 1:
        time.sleep(0.5)
        raise TokkitError("the cause")
    raise RankLost("what follows")


def crash_in_rank_0(config: PretrainConfig) -> None:
    if await_others(config) == 0:
        raise ZeroDivisionError("a bug")
    time.sleep(TIMEOUT_SECONDS)


def finish_step(config: PretrainConfig) -> None:
    """Do as training does: note a signal, finish the step, and report it."""
    from tokkit.pretraining.training.stopping import hold_signals

    with hold_signals() as stop:
        rank = announce(config)
        wait_until(lambda: stop.signal is not None)
        time.sleep(0.3 * rank)  # one takes longer, and is waited for
        assert stop.signal is not None
        (config.output / f"saved-{rank}").touch()
        raise Interrupted(f"stopped by {stop.signal.name} after step 7", 128 + stop.signal)


def test_ranks_do_the_work_and_log_at_the_level_of_the_parent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    logger = logging.getLogger("tokkit")
    monkeypatch.setattr(logger, "level", logging.INFO)
    launch(log_and_write, make_config(tmp_path))
    written = {(tmp_path / rank).read_text() for rank in "01"}
    size, num_threads = map(int, written.pop().split())
    assert not written
    assert size == 2
    assert num_threads in range(1, max(2, (os.cpu_count() or 1) // 2 + 1))
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == ["tokkit: a line of rank 0", "tokkit: a line of rank 1"]
    monkeypatch.setattr(logger, "level", logging.WARNING)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch(log_and_write, replace(make_config(tmp_path), nproc_per_node=1))
    assert (tmp_path / "0").read_text() == "1 None"
    assert capfd.readouterr().err == ""


def test_the_error_of_one_rank_ends_all_and_nothing_else_is_printed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(UsageError, match=r"^--batch-size must be at least 2$") as caught:
        launch(raise_in_rank_1, make_config(tmp_path))
    assert caught.value.exit_status == 2
    assert have_ended(pids_in(tmp_path))
    assert capfd.readouterr() == ("", "")
    assert handlers == [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_the_cause_is_raised_though_another_rank_lost_the_connection_first(tmp_path: Path) -> None:
    with pytest.raises(TokkitError, match=r"^the cause$"):
        launch(lose_rank_1_late, make_config(tmp_path))


def test_a_bug_in_a_rank_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(
        WorkerError, match=r"(?s)rank 0\n.*crash_in_rank_0.*ZeroDivisionError: a bug"
    ):
        launch(crash_in_rank_0, make_config(tmp_path))


SCRIPT = """
    import sys
    from pathlib import Path
    from test_launch import finish_step, make_config
    from tokkit.errors import TokkitError
    from tokkit.pretraining.training.launch import launch

    if __name__ == "__main__":
        try:
            launch(finish_step, make_config(Path(sys.argv[1])))
        except TokkitError as error:
            print(error)
            sys.exit(error.exit_status)
"""


def start_script(folder: Path, *, copy_ranks: bool = True) -> subprocess.Popen[str]:
    """Start a program, in a session of its own as a terminal does, whose ranks wait for a signal."""
    script = folder / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    return forkserver.Popen(
        [sys.executable, script, folder],
        env={
            **os.environ,
            **({forkserver.COPY_SPAWNED: "1"} if copy_ranks else {}),
            "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)]),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, signal.SIGTERM), (os.killpg, signal.SIGINT)],
    ids=["SIGTERM to the parent", "Ctrl-C to all"],
)
def test_a_signal_lets_all_ranks_finish_the_step(
    tmp_path: Path, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    process = start_script(tmp_path)
    wait_until(lambda: len(pids_in(tmp_path)) == 2)
    send(process.pid, number)
    printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert printed == f"stopped by {number.name} after step 7\n"
    assert process.returncode == 128 + number
    assert (tmp_path / "saved-0").exists()
    assert (tmp_path / "saved-1").exists()


def test_a_signal_waits_until_a_rank_can_handle_it(tmp_path: Path) -> None:
    process = start_script(tmp_path, copy_ranks=False)  # whose ranks import torch
    wait_until(lambda: len(ranks_of(process.pid)) == 2)
    process.terminate()  # they have only started to import
    printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    assert "stopped by SIGTERM" in printed
    assert process.returncode == 128 + signal.SIGTERM


def ranks_of(parent: int) -> list[psutil.Process]:
    children = psutil.Process(parent).children()
    return [child for child in children if "spawn_main" in " ".join(child.cmdline())]


def test_ranks_end_with_their_parent(tmp_path: Path) -> None:
    process = start_script(tmp_path)
    wait_until(lambda: len(pids_in(tmp_path)) == 2)
    process.kill()
    process.communicate()
    wait_until(lambda: have_ended(pids_in(tmp_path)))
