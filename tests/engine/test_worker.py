"""A worker starts a unit while the shard of the one before is being written to the disk."""

import subprocess
import sys
import textwrap
from pathlib import Path

import forkserver
import pytest

from tokkit.engine.receipts import read_receipts
from tokkit.engine.stage import run_stage
from tokkit.errors import TokkitError
from toystage import squares

TESTS = Path(__file__).resolve().parent.parent

# Changes how shards are committed, in the process that imports it, however it was started.
SCRIPT = """
    import errno, os, sys, time
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from tokkit.engine.stage import run_stage
    from tokkit.engine.unit import WrittenUnit
    from tokkit.errors import TokkitError
    from toystage import squares

    here = Path({here!r})
    commit = WrittenUnit.commit

    def wait_for_the_next(written):
        number = int(written.file.path.stem.removeprefix("square-"))
        deadline = time.monotonic() + 20
        while number < 5 and str(number + 1) not in (here / "log").read_text().split():
            if time.monotonic() > deadline:
                raise OSError(errno.ETIMEDOUT, "the next unit was not started")
            time.sleep(0.01)
        return commit(written)

    def take_time(written):
        time.sleep(0.5)
        return commit(written)

    def fill_the_disk(written):
        if written.file.path.name == "square-00002.txt":
            def full(descriptor):
                raise OSError(errno.ENOSPC, "No space left on device")
            os.fsync = full
        return commit(written)

    WrittenUnit.commit = {change}
    if __name__ == "__main__":
        try:
            run_stage(
                squares(here / "out", here / "log", **{context!r}),
                workers=1, overwrite=False, progress=False,
            )
        except TokkitError as error:
            sys.stderr.write(str(error))
            sys.exit(error.exit_status)
"""


def run(here: Path, change: str, **context: int) -> subprocess.CompletedProcess[str]:
    (here / "log").touch()
    script = here / "script.py"
    text = textwrap.dedent(SCRIPT)
    script.write_text(text.format(tests=str(TESTS), here=str(here), change=change, context=context))
    return forkserver.run([sys.executable, script], capture_output=True, text=True)


def finished(folder: Path) -> list[str]:
    return sorted(receipt["input"] for receipt in read_receipts(folder).values())


def test_the_next_unit_is_done_while_a_shard_is_committed(tmp_path: Path) -> None:
    ended = run(tmp_path, "wait_for_the_next")
    assert ended.returncode == 0, ended.stderr
    run_stage(
        squares(tmp_path / "plain", tmp_path / "log"), workers=0, overwrite=False, progress=False
    )
    for path in (tmp_path / "plain").glob("square-*"):
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()


def test_an_error_does_not_overtake_the_shard_before_it(tmp_path: Path) -> None:
    ended = run(tmp_path, "take_time", fail=2)
    assert ended.returncode == 1
    assert ended.stderr == "number 2: cannot be squared"
    assert finished(tmp_path / "out") == ["number 0", "number 1"]


def test_a_disk_that_fills_while_a_shard_is_committed_is_an_error(tmp_path: Path) -> None:
    ended = run(tmp_path, "fill_the_disk")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"{tmp_path}/out/square-00002.txt: no space left on the device")
    assert finished(tmp_path / "out") == ["number 0", "number 1"]
    assert sorted(path.name for path in (tmp_path / "out").glob("square-*")) == [
        "square-00000.txt",
        "square-00001.txt",
    ]


def test_work_that_cannot_be_interrupted_ends_the_worker_with_one_line_and_resumes(
    tmp_path: Path,
) -> None:
    def run(workers: int, **context: int) -> None:
        stage = squares(tmp_path / "out", tmp_path / "log", **context)
        run_stage(stage, workers=workers, overwrite=False, progress=False)

    with pytest.raises(TokkitError, match=r"^number 3: does not return$"):
        run(1, hang=3)
    run(0)
    assert {*(tmp_path / "log").read_text().split()} == {*"012345"}
