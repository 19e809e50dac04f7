"""Plan, map, commit: the same bytes however the work is done, and no finished unit is done twice."""

import errno
import json
import os
import re
import shutil
import signal
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import forkserver
import pytest

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile
from tokkit.engine.manifest import Manifest
from tokkit.engine.receipts import seal, write_statement
from tokkit.engine.worker_pool import WorkerError
from tokkit.errors import TokkitError
from toystage import contents, done, run, squares, start, wait_for


@pytest.mark.parametrize("workers", [1, 4])
def test_the_bytes_do_not_depend_on_the_number_of_workers(tmp_path: Path, workers: int) -> None:
    run(squares(tmp_path / "a", tmp_path / "log"))
    run(squares(tmp_path / "b", tmp_path / "log"), workers=workers)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert len(contents(tmp_path / "a")) == 6 + 1


def test_a_second_run_does_nothing(tmp_path: Path) -> None:
    stage = squares(tmp_path / "out", tmp_path / "log")
    first = run(stage)
    assert run(stage) == first
    assert done(tmp_path / "log") == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("workers", [0, 2])
def test_what_was_finished_before_a_fault_stays(tmp_path: Path, workers: int) -> None:
    log = tmp_path / "log"
    with pytest.raises(TokkitError, match="number 3: cannot be squared"):
        run(squares(tmp_path / "out", log, fail=3), workers=workers)
    finished = done(log)
    assert finished
    assert not (tmp_path / "out" / "manifest.json").exists()
    with pytest.raises(TokkitError, match="unfinished"):
        Manifest.read(tmp_path / "out")
    run(squares(tmp_path / "out", log), workers=workers)
    assert len(done(log)) <= 6 + 2 * workers  # at most what was in hand when the fault came
    run(squares(tmp_path / "whole", log))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_a_worker_that_is_killed_is_an_error_that_names_its_unit(tmp_path: Path) -> None:
    with pytest.raises(TokkitError, match=r"number 2: .*killed by SIGKILL.*run the same command"):
        run(squares(tmp_path / "out", tmp_path / "log", die=2), workers=2)
    run(squares(tmp_path / "out", tmp_path / "log"), workers=2)


@pytest.mark.parametrize("workers", [0, 1])
def test_memory_that_runs_out_is_an_error_that_names_the_unit(tmp_path: Path, workers: int) -> None:
    with pytest.raises(TokkitError, match="number 1: out of memory"):
        run(squares(tmp_path / "out", tmp_path / "log", exhaust=1), workers=workers)


def test_a_bug_in_a_worker_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"(?s)number 2.*in square.*ZeroDivisionError: a bug"):
        run(squares(tmp_path / "out", tmp_path / "log", crash=2), workers=1)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_at_any_moment_resumes_to_the_same_bytes(tmp_path: Path, workers: int) -> None:
    for moment in (0.05, 0.12, 0.31):
        process = start(tmp_path, workers, seconds=0.2)
        wait_for(tmp_path / "out" / ".tokkit" / "stage.json", process)
        time.sleep(moment)
        process.kill()
        process.communicate()
    time.sleep(0.5)  # orphaned workers end by themselves, and write nothing afterwards
    run(squares(tmp_path / "out", tmp_path / "log"), workers=workers)
    run(squares(tmp_path / "whole", tmp_path / "log"))
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("workers", [0, 1])
def test_a_signal_ends_a_run_with_its_exit_status(
    tmp_path: Path, workers: int, number: signal.Signals
) -> None:
    process = start(tmp_path, workers, seconds=0.5)
    wait_for(tmp_path / "log", process)
    process.send_signal(number)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"stopped by {number.name}; run the same command again to continue" in error.decode()
    assert not list((tmp_path / "out").glob("*.tmp"))
    run(squares(tmp_path / "out", tmp_path / "log"))


def test_another_run_is_refused_naming_what_differs(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    run(squares(output, log))
    with pytest.raises(TokkitError, match=r"--power was 2, not 3.*--overwrite"):
        run(squares(output, log, power=3))
    with pytest.raises(TokkitError, match="its inputs were different"):
        run(squares(output, log, num_units=5))
    run(squares(output, log, num_units=5, power=3), overwrite=True)
    assert len(contents(output)) == 5 + 1


def test_an_unfinished_other_run_is_refused_too(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(TokkitError):
        run(squares(output, log, fail=4))
    with pytest.raises(TokkitError, match="--power was 2, not 3"):
        run(squares(output, log, power=3))


def test_a_run_that_finished_no_unit_may_be_replaced(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(TokkitError):
        run(squares(output, log, fail=0))
    run(squares(output, log, power=3))
    assert Manifest.read(output).options == {"power": 3}


def test_an_unfinished_folder_of_another_kind_is_refused(tmp_path: Path) -> None:
    output = tmp_path / "run"
    (output / ".tokkit").mkdir(parents=True)
    stage = squares(output, tmp_path / "log")
    write_statement(output, {**stage.describe(), "kind": "run"}, only_new=True)
    with pytest.raises(TokkitError, match="its kind is run, not squares"):
        run(stage)


def test_a_shard_that_a_finished_folder_lost_is_made_again(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    first = run(squares(output, log))
    (output / "square-00003.txt").unlink()
    log.unlink()
    assert run(squares(output, log)) == first
    assert done(log) == [3]


def test_shards_that_a_crash_left_behind_do_not_join_another_run(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(TokkitError):
        run(squares(output, log, fail=0))
    (output / "square-00007.txt").write_text("49")
    run(squares(output, log, num_units=2))
    assert len(contents(output)) == 2 + 1


def test_content_is_compared_where_the_receipts_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    run(squares(output, log))
    shutil.rmtree(output / ".tokkit")
    run(squares(output, log))
    assert len(done(log)) == 6
    monkeypatch.setattr("toystage.hash_inputs", lambda payload: [f"{payload + 1:064x}"])
    with pytest.raises(TokkitError, match="number 0 has changed since"):
        run(squares(output, log))


def test_a_touched_input_is_compared_once(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    run(squares(output, log))
    run(squares(output, log, stamp=2))

    def refuse(payload: int) -> list[str]:
        raise AssertionError(payload)

    run(replace(squares(output, log, stamp=2), hash_inputs=refuse))


def test_a_manifest_of_another_program_is_no_manifest(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"name": "a web application"}')
    with pytest.raises(TokkitError, match="not made by tokkit"):
        run(squares(tmp_path, tmp_path.parent / "log"), overwrite=True)
    assert (tmp_path / "manifest.json").exists()


def test_a_folder_that_tokkit_did_not_make_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("dear")
    for overwrite in (False, True):
        with pytest.raises(TokkitError, match="not made by tokkit"):
            run(squares(tmp_path, tmp_path.parent / "log"), overwrite=overwrite)
    assert (tmp_path / "thesis.tex").read_text() == "dear"
    with pytest.raises(TokkitError, match="is a file"):
        run(squares(tmp_path / "thesis.tex", tmp_path.parent / "log"))


@pytest.mark.parametrize("change", [b"", b"{}", b"\xff", b'{"rows": 2, '])
def test_a_receipt_that_has_changed_loses_one_unit_only(tmp_path: Path, change: bytes) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(TokkitError):
        run(squares(output, log, fail=5))
    (receipt,) = (
        path
        for path in (output / ".tokkit" / "done").iterdir()
        if b'"square-00004.txt"' in path.read_bytes()
    )
    receipt.write_bytes(change + receipt.read_bytes()[len(change) :] if change else b"")
    log.unlink()
    run(squares(output, log))
    assert done(log) == [4, 5]
    run(squares(tmp_path / "whole", log))
    assert contents(output) == contents(tmp_path / "whole")


def test_receipts_that_do_not_add_up_are_refused_until_the_work_is_done_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(TokkitError):
        run(squares(output, log, fail=5))
    for path in (output / ".tokkit" / "done").iterdir():
        receipt = json.loads(path.read_text())
        del receipt["checksum"]
        receipt["accounts"] = {"numbers": {"in": 1, "kept": 10**10, "dropped": {}}}
        path.write_bytes(seal(receipt))
    with pytest.raises(TokkitError, match=r"do not add up .*pass --overwrite"):
        run(squares(output, log))
    run(squares(output, log), overwrite=True)
    with monkeypatch.context() as patch:  # a bug keeps its traceback
        patch.setattr(Accounts, "keep", lambda *_: None)
        with pytest.raises(AssertionError, match="documents: "):
            run(squares(output, log), overwrite=True)


@pytest.mark.parametrize("content", [None, b"\x00\x00\n"])
def test_files_without_a_readable_statement_are_refused_and_stay(
    tmp_path: Path, content: bytes | None
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(TokkitError):
        run(squares(output, log, fail=5))
    statement = output / ".tokkit" / "stage.json"
    statement.unlink()
    if content is not None:
        statement.write_bytes(content)
    with pytest.raises(TokkitError, match=r"stage.json is missing, damaged or .*--overwrite"):
        run(squares(output, log))
    assert (output / "square-00004.txt").exists()
    run(squares(output, log), overwrite=True)
    assert len(contents(output)) == 6 + 1


def test_a_shard_that_is_missing_or_short_is_made_again(tmp_path: Path) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    with pytest.raises(TokkitError):
        run(squares(output, log, fail=5))
    (output / "square-00001.txt").unlink()
    (output / "square-00002.txt").write_bytes(b"4")
    log.unlink()
    run(squares(output, log))
    assert done(log) == [1, 2, 5]


def test_a_new_time_stamp_alone_does_not_make_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    run(squares(output, log))
    log.unlink()
    run(squares(output, log, stamp=2))
    assert done(log) == []
    monkeypatch.setattr("toystage.hash_inputs", lambda payload: [f"{payload + 1:064x}"])
    with pytest.raises(TokkitError, match="number 0 has changed since"):
        run(squares(output, log, stamp=3))


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_write_that_fails_leaves_no_half_and_what_was_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    output, log = tmp_path / "out", tmp_path / "log"
    write = HashedFile.write

    def fail(self: HashedFile, data: Any) -> int:
        if bytes(data).startswith(b"16"):
            raise OSError(code, os.strerror(code))
        return write(self, data)

    monkeypatch.setattr(HashedFile, "write", fail)
    with pytest.raises(TokkitError, match="square-00004"):
        run(squares(output, log))
    assert sorted(contents(output)) == [f"square-0000{i}.txt" for i in range(4)]
    monkeypatch.undo()
    log.unlink()
    run(squares(output, log))
    assert done(log) == [4, 5]


def test_a_file_size_limit_is_one_line(tmp_path: Path) -> None:
    script = tmp_path / "big.py"
    script.write_text(
        textwrap.dedent(
            """
            import resource, sys
            from pathlib import Path
            from tokkit.engine.files import write_atomically

            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, 1024))
            with write_atomically(Path(sys.argv[1])) as file:
                file.write(bytes(1 << 20))
            """
        )
    )
    target = tmp_path / "out" / "big"
    target.parent.mkdir()
    ended = forkserver.run([sys.executable, script, target], capture_output=True, text=True)
    assert f"TokkitError: {target}: larger than the file system or a limit" in ended.stderr
    assert list(target.parent.iterdir()) == []


def test_the_manifest_accounts_for_everything(tmp_path: Path) -> None:
    manifest = run(squares(tmp_path / "out", tmp_path / "log"))
    entry = manifest.accounts["documents"]
    assert entry["in"] == 12
    assert entry["dropped"] == {"even": 3, "odd": 3}
    assert entry["in"] - sum(entry["dropped"].values()) == entry["kept"]
    assert [row["name"] for row in manifest.shards] == [f"square-0000{i}.txt" for i in range(6)]
    assert all(re.fullmatch("[0-9a-f]{64}", row["sha256"]) for row in manifest.shards)
    assert Manifest.read(tmp_path / "out", "squares") == manifest


def test_a_manifest_of_another_version_or_kind_is_refused(tmp_path: Path) -> None:
    run(squares(tmp_path / "out", tmp_path / "log"))
    with pytest.raises(TokkitError, match="holds squares, but tokens are needed"):
        Manifest.read(tmp_path / "out", "tokens")
    path = tmp_path / "out" / "manifest.json"
    form = json.loads(path.read_text())
    path.write_text(json.dumps({**form, "format_version": 99}))
    with pytest.raises(TokkitError, match="unknown format version 99"):
        Manifest.read(tmp_path / "out")
    path.write_text(json.dumps({**form, "seed": "1"}))
    with pytest.raises(TokkitError, match=r"damaged.*\$.seed"):
        Manifest.read(tmp_path / "out")
    path.write_text("{")
    with pytest.raises(TokkitError, match="Input data was truncated"):
        Manifest.read(tmp_path / "out")
    with pytest.raises(TokkitError, match="no such folder"):
        Manifest.read(tmp_path / "missing")
