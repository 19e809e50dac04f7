"""Several processes, on one machine or on many, write one folder: the same command, or another one."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tokenfolders import write_token_folder

from tokkit.engine import files
from tokkit.engine.files import draft_path, remove_drafts
from tokkit.engine.folder import FolderLock, is_being_written
from tokkit.engine.manifest import MANIFEST
from tokkit.engine.receipts import Statement, read_receipts, write_statement
from tokkit.errors import TokkitError
from tokkit.shards.reader import ShardFolder
from toystage import contents, done, run, squares, start, wait_for


@pytest.mark.parametrize("workers", [0, 2])
def test_the_same_command_twice_at_once_ends_in_the_same_bytes(
    tmp_path: Path, workers: int
) -> None:
    first, second = (start(tmp_path, workers, seconds=0.1) for _ in range(2))
    for process in (first, second):
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error.decode()
    assert len(done(tmp_path / "log")) > 6  # both worked
    run(squares(tmp_path / "whole", tmp_path / "log"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_another_command_is_refused_while_one_works(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    process = start(tmp_path, 0, seconds=60)
    wait_for(output / ".tokkit" / "stage.json", process)
    # No unit is finished, so that nothing but the running process would be lost.
    for stage, overwrite in ((squares(output, log, power=3), False), (squares(output, log), True)):
        with pytest.raises(
            TokkitError, match=f"process {process.pid} on .* is writing this folder"
        ):
            run(stage, overwrite=overwrite)
    process.kill()
    process.communicate()
    run(squares(output, log, power=3))


def test_two_commands_that_begin_at_once_cannot_both_have_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    other = squares(output, tmp_path / "log", power=3).describe()

    def be_late(folder: Path, statement: Statement, *, only_new: bool) -> None:
        write_statement(folder, other, only_new=True)
        write_statement(folder, statement, only_new=only_new)

    monkeypatch.setattr("tokkit.engine.spec.write_statement", be_late)
    with pytest.raises(TokkitError, match="holds another run"):
        run(squares(output, tmp_path / "log"))


def test_nothing_gets_its_name_in_a_folder_that_another_machine_has_replaced(
    tmp_path: Path,
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    process = start(tmp_path, 0, seconds=0.4)
    wait_for(log, process)
    other = squares(output, log, power=3)
    write_statement(output, other.describe(), only_new=False)  # its lock is not ours
    _, error = process.communicate(timeout=300)
    assert process.returncode == 1
    assert b"another command has replaced what this one wrote" in error
    assert len(contents(output)) < 6


def test_a_folder_that_an_error_leaves_empty_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "a" / "b"
    with pytest.raises(TokkitError), FolderLock(output):
        raise TokkitError
    assert not output.parent.exists()

    def remove_then_lock(descriptor: int, mode: int) -> None:
        """Lock a file that its last holder has just removed."""
        monkeypatch.undo()
        shutil.rmtree(output)
        fcntl.flock(descriptor, mode)

    monkeypatch.setattr(fcntl, "flock", remove_then_lock)
    with FolderLock(output):
        assert is_being_written(output)


def test_file_systems_without_locks_and_links_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", refuse)
    monkeypatch.setattr(Path, "hardlink_to", refuse)
    with pytest.raises(TokkitError, match="cannot be squared"):
        run(squares(tmp_path / "out", tmp_path / "log", fail=3))
    run(squares(tmp_path / "out", tmp_path / "log"))
    monkeypatch.undo()
    run(squares(tmp_path / "whole", tmp_path / "log"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_only_drafts_that_nobody_writes_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = draft_path(tmp_path / "own")
    machine, _, number = own.name.split(".")[1].split("-")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    dead, alive = (
        tmp_path / f"shard.{machine}-{process}-{number}.tmp"
        for process in (ended.pid, os.getppid())
    )
    monkeypatch.setattr(files, "_identify_machine", lambda: "0" * 8)
    elsewhere, abandoned = draft_path(tmp_path / "new"), draft_path(tmp_path / "old")
    monkeypatch.undo()
    others = tmp_path / "of-another-program.tmp"
    for path in (own, dead, alive, elsewhere, abandoned, others):
        path.touch()
    os.utime(abandoned, (0, time.time() - files.LEASE_SECONDS - 60))
    remove_drafts(tmp_path)
    assert {*tmp_path.iterdir()} == {alive, elsewhere, others}


def test_a_finished_unit_has_a_receipt_of_its_own(tmp_path: Path) -> None:
    stage = squares(tmp_path / "out", tmp_path / "log")
    run(stage)
    receipts = tmp_path / "out" / ".tokkit" / "done"
    assert {path.name for path in receipts.iterdir()} == {
        f"{key}.json" for key in map(stage.unit_key, stage.units)
    }
    names = [
        read_receipts(tmp_path / "out")[key]["name"] for key in map(stage.unit_key, stage.units)
    ]
    assert names == [f"square-0000{number}.txt" for number in range(6)]


def test_folders_of_the_first_format_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tokkit.shards.schema.FORMAT_VERSION", 1)
    folder = write_token_folder(tmp_path / "tokens", [[[10] * 5, [20] * 4]] * 12, shards=[[12]])
    monkeypatch.undo()
    new, old = (folder / f"shard-{digits}.arrow" for digits in ("0000000", "00000"))
    new.rename(old)
    manifest = (folder / MANIFEST).read_text().replace(new.name, old.name)
    assert '"format_version": 2' in manifest
    (folder / MANIFEST).write_text(manifest.replace('"format_version": 2', '"format_version": 1'))
    assert [ref.rows for ref in ShardFolder.open(folder, "tokens").batch_refs()] == [12]


def test_a_folder_that_an_earlier_release_began_is_refused_and_stays(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(TokkitError):
        run(squares(output, log, fail=3))
    shutil.rmtree(output / ".tokkit")
    (output / ".tokkit").mkdir()
    (output / ".tokkit" / "journal.jsonl").write_text("{}\n")
    with pytest.raises(TokkitError, match=r"of an earlier release.*--overwrite"):
        run(squares(output, log))
    assert (output / "square-00002.txt").exists()
