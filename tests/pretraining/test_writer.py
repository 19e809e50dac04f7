import errno
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forkserver
import pytest
import torch

from tokkit.engine.files import HashedFile
from tokkit.pretraining.models.model_files import write_tensors
from tokkit.pretraining.training import checkpoints as checkpoint
from tokkit.pretraining.training.checkpoint_writer import CheckpointWriter
from tokkit.pretraining.training.checkpoints import Snapshot, load_newest_checkpoint
from tokkit.pretraining.training.run_record import BestCheckpoint, list_checkpoints


def make_tensors(step: int, num_elements: int = 100) -> Snapshot:
    """Tensors that all say the step."""
    full = torch.full((num_elements,), float(step))
    return {"model.safetensors": {"a": full, "b": full[:3]}, "optimizer.safetensors": {"m": full}}


EXPECTED = make_tensors(0)


def save(writer: CheckpointWriter, step: int, loss: float | None = None) -> None:
    writer.save(make_tensors(step), {"step": step}, loss=loss)


def steps(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in list_checkpoints(folder)]


def assert_whole(folder: Path, step: int) -> None:
    """The newest checkpoint is that of the step, and there is nothing half beside it."""
    loaded = load_newest_checkpoint(folder, EXPECTED)
    assert loaded is not None
    assert loaded.state["step"] == step
    for tensors in loaded.tensors.values():
        assert all(torch.all(tensor == step) for tensor in tensors.values())
    assert [path.name for path in folder.iterdir() if path.suffix == ".tmp"] == []


def refuse(*_arguments: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_training_continues_while_a_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, threads = threading.Event(), set[str]()

    def write_slowly(*arguments: Any) -> Any:
        threads.add(threading.current_thread().name)
        assert gate.wait(60)
        return write_tensors(*arguments)

    monkeypatch.setattr(checkpoint, "write_tensors", write_slowly)
    with CheckpointWriter(tmp_path, 2) as writer:
        tensors, state = make_tensors(1), {"step": 1, "sums": [1]}
        writer.save(tensors, state)
        tensors["model.safetensors"]["a"].zero_()
        state["sums"] = [2]
        assert writer.saved_step == 0
        assert steps(tmp_path) == []
        second = threading.Thread(target=save, args=(writer, 2))
        second.start()
        second.join(0.1)
        assert second.is_alive()  # there is memory for one copy, which is still needed
        gate.set()
        second.join()
        writer.wait()
        assert writer.saved_step == 2
        assert_whole(tmp_path, 2)
        shutil.rmtree(tmp_path / "step-00000002")
    assert_whole(tmp_path, 1)
    loaded = load_newest_checkpoint(tmp_path, EXPECTED)
    assert loaded is not None
    assert loaded.state["sums"] == [1]
    assert threads == {"checkpoint_0"}


def test_the_best_is_kept_and_a_run_that_resumes_knows_it(tmp_path: Path) -> None:
    def train(steps_and_losses: dict[int, float | None]) -> BestCheckpoint | None:
        resumed = load_newest_checkpoint(tmp_path, EXPECTED)
        with CheckpointWriter(tmp_path, 2, resumed) as writer:
            for step, loss in steps_and_losses.items():
                save(writer, step, loss)
        return writer.best

    assert train({1: None, 2: 5.0}) == BestCheckpoint(2, 5.0)
    assert train({3: 4.0, 4: 4.5, 5: None, 6: 4.0}) == BestCheckpoint(3, 4.0)
    assert steps(tmp_path) == [3, 5, 6]
    assert train({7: 6.0}) == BestCheckpoint(3, 4.0)
    assert train({8: 3.0, 9: 7.0}) == BestCheckpoint(8, 3.0)
    assert steps(tmp_path) == [8, 9]


def test_the_run_continues_whichever_call_the_full_disk_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    countdown = 0

    def may_fail(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal countdown
            countdown -= 1
            return refuse() if countdown == 0 else function(*arguments, **options)

        return call

    with CheckpointWriter(tmp_path, 2) as writer:
        save(writer, 1)
        writer.wait()
        for owner, name in (
            (HashedFile, "write"),
            (Path, "mkdir"),
            (Path, "open"),
            (Path, "write_text"),
            (os, "fsync"),
        ):
            monkeypatch.setattr(owner, name, may_fail(getattr(owner, name)))
        num_calls = 0
        while writer.saved_step == 1:
            countdown = num_calls = num_calls + 1
            save(writer, 2, loss=0.5)
            writer.wait()
            countdown = 0
            if writer.saved_step == 1 and steps(tmp_path) == [1]:
                assert_whole(tmp_path, 1)
                assert writer.fault == "no space left on device"
                assert writer.best is None
                message = caplog.messages[-1]
                assert f"{tmp_path}/step-00000002: not written (no space left" in message
                assert "the last checkpoint is" in message
                assert "step-00000001" in message
        assert len(caplog.messages) == num_calls - 1 >= 15
        assert writer.fault is None
    assert_whole(tmp_path, 2)
    assert steps(tmp_path) == [1, 2]


@pytest.mark.skipif(sys.platform != "linux" or os.getuid() != 0, reason="mounts a file system")
def test_a_disk_that_is_full_for_a_while(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path],
        check=False,
        capture_output=True,
    )
    if mounted.returncode != 0:
        pytest.skip("may not mount a file system")
    try:
        with CheckpointWriter(tmp_path / "run", 2) as writer:
            for step in range(1, 4):  # of 70 kB each
                writer.save(make_tensors(step, 8_500), {"step": step})
            writer.wait()
            (tmp_path / "else").write_bytes(bytes(70_000))
            writer.save(make_tensors(4, 8_500), {"step": 4})
            writer.wait()
            assert writer.saved_step == 3
            assert "step-00000004: not written (no space left on device)" in caplog.messages[-1]
            assert len(list((tmp_path / "run").iterdir())) == 2
            (tmp_path / "else").unlink()
            writer.save(make_tensors(5, 8_500), {"step": 5})
        assert steps(tmp_path / "run") == [3, 5]
        assert len(caplog.messages) == 1
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_a_limit_on_the_size_of_files_fails_the_write_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    faults = []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with CheckpointWriter(tmp_path, 2) as writer:
            for step, limit in ((1, before[0]), (2, 100_000), (3, before[0])):
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
                writer.save(make_tensors(step, 50_000), {"step": step})
                writer.wait()
                faults.append(writer.fault)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert faults == [None, "file too large", None]
    assert steps(tmp_path) == [1, 3]
    assert "step-00000002: not written (file too large)" in caplog.text


def test_a_bug_is_not_taken_for_a_full_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(checkpoint, "STATE")
    with CheckpointWriter(tmp_path, 2) as writer:
        save(writer, 1)
        with pytest.raises(NameError):
            save(writer, 2)
    assert list(tmp_path.iterdir()) == []


# A run that does nothing but write checkpoints, of 4 MB, and say which are safe. It is forked
# rather than started, since importing torch takes longer than all else, and syncs nothing: that is
# for power cuts, and in the time of one there are ten moments more to be killed at.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from tokkit.pretraining.training.checkpoint_writer import CheckpointWriter
from tokkit.pretraining.training.checkpoints import load_newest_checkpoint
from tokkit.pretraining.training.run_record import BestCheckpoint, list_checkpoints

def make_tensors(step):
    full = torch.full((500_000,), float(step))
    return {"model.safetensors": {"a": full}, "optimizer.safetensors": {"m": full}}

def run(folder, resumed, pipe):
    step = resumed.state["step"] if resumed else 0
    with CheckpointWriter(folder, 2, resumed) as writer:
        while True:
            step += 1
            writer.save(make_tensors(step), {"step": step}, loss=abs(step % 7 - 3) + 1 / step)
            os.write(pipe, b"%d " % writer.saved_step)

torch.set_num_threads(1)
os.fsync = lambda descriptor: None
folder, generator = Path(sys.argv[1]), random.Random(int(sys.argv[2]))
expected, announced, best, found = make_tensors(0), 0, None, 0
for attempt in range(250):
    if attempt >= 25 and found > 10:
        break
    reader, writer = os.pipe()
    resumed = load_newest_checkpoint(folder, expected)
    process = os.fork()
    if process == 0:
        run(folder, resumed, writer)
    os.close(writer)
    time.sleep(generator.uniform(0, 0.12 + 0.005 * attempt))  # more on a busy machine
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    with os.fdopen(reader) as file:
        announced = max([announced, *map(int, file.read().split()[:-1])])
    there = list_checkpoints(folder)
    assert len(there) <= 5, there
    resumed = load_newest_checkpoint(folder, expected)
    found = resumed.state["step"] if resumed else 0
    assert found >= announced, (found, announced)
    if resumed:
        assert there[-1].name == f"step-{found:08d}", "none is damaged"
        for tensors in resumed.tensors.values():
            assert all(torch.all(tensor == found) for tensor in tensors.values())
        assert resumed.best is not None
        assert best is None or resumed.best.loss <= best.loss
        best = resumed.best
print(found)
"""


def test_a_run_killed_at_any_moment_finds_its_last_checkpoint(tmp_path: Path) -> None:
    seed = os.getpid()  # another each time; it is in the error's command
    ended = forkserver.run(
        [sys.executable, "-W", "ignore", "-c", KILLED, tmp_path, str(seed)],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert int(ended.stdout) > 10
