"""A Ray cluster gives the files of one process, whatever becomes of its nodes and of the driver."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import forkserver
import pytest
from click.testing import CliRunner

from tokkit.cli import cli
from tokkit.encoding.encode import encode
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.accounts import Accounts
from tokkit.engine.local import share_cluster
from tokkit.engine.stage import Stage, run_stage
from tokkit.engine.unit import Task, Unit, UnitResult
from tokkit.engine.worker_pool import WorkerError
from tokkit.errors import TokkitError, UsageError, wrap_os_errors
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.vocab.train import train
from tokkit.vocab.train_config import TrainConfig
from toystage import squares

ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402  after the check that it is there

from tokkit.engine import ray as engine  # noqa: E402  same

ROOT = Path(__file__).resolve().parents[2]
NODE = {"num_cpus": 1, "memory": 4 << 30, "object_store_memory": 80 << 20}
# Tests kill drivers, processes and nodes. By default, Ray takes 15 s to see that a node is lost, waits
# up to 60 s for what was killed, and ends a process that has had nothing to do for a second.
WAITING = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "raylet_rpc_server_reconnect_timeout_max_s": 5,
    "core_worker_rpc_server_reconnect_timeout_max_s": 5,
    "worker_register_timeout_seconds": 20,
    "num_workers_soft_limit": 4,
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A cluster of two nodes of one processor each, to which this process is connected."""
    # Names of sockets are short, so that Ray's files cannot be where pytest's are.
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory(prefix="ray") as folder:
        patch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")
        patch.chdir(
            tmp_path_factory.mktemp("driver")
        )  # nodes import from the driver's folder first
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        # The file with the cluster's address goes there, too; by default into /tmp/ray, if that exists.
        patch.setenv("RAY_TMPDIR", folder)
        head = {**NODE, "include_dashboard": False, "_system_config": WAITING}
        made = Cluster(initialize_head=True, head_node_args=head)
        try:
            made.add_node(**NODE)
            ray.init(address=made.address, log_to_driver=False)
            yield made
        finally:
            ray.shutdown()
            made.shutdown()


def test_stages_give_the_same_bytes_on_one_machine_and_on_a_cluster(
    cluster: Any, tmp_path: Path
) -> None:
    corpus = tmp_path / "corpus.txt"
    texts = [f"Word {n * 7919 % 997} of line {n}.\nAnd more: {n % 89}." for n in range(4000)]
    corpus.write_text("\n\n".join(texts))
    files = []
    for name, engine_options in {"here": {}, "ray": {"engine": "ray"}}.items():
        folder = tmp_path / name
        options: dict[str, Any] = {"workers": 0, "progress": False, **engine_options}
        inputs = (str(corpus),)
        train(TrainConfig(inputs=inputs, output=folder / "tokenizer", vocab_size=300, **options))
        encode(
            EncodeConfig(
                inputs=inputs,
                tokenizer=folder / "tokenizer",
                output=folder / "tokens",
                unit_bytes=40_000,
                **options,
            )
        )
        build(
            BuildConfig(
                tokens=folder / "tokens", output=folder / "out", unit_tokens=10_000, **options
            )
        )
        files.append(
            {
                str(path.relative_to(folder)): path.read_bytes()
                for path in folder.rglob("*")
                if path.is_file() and ".tokkit" not in path.parts
            }
        )
    assert len([name for name in files[0] if name.endswith(".arrow")]) > 5
    assert files[0] == files[1]
    assert cluster.address


def run(stage: Stage, *, cluster: str | None = "auto") -> dict[str, bytes]:
    run_stage(replace(stage, cluster=cluster), workers=0, overwrite=False, progress=False)
    return {path.name: path.read_bytes() for path in stage.output.iterdir() if path.is_file()}


def done(log: Path) -> list[int]:
    """The units that ended, as often as they did."""
    return sorted(int(line) for line in log.read_text().split()) if log.exists() else []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_what_was_finished_is_not_done_again_when_the_driver_was_ended(
    cluster: Any, tmp_path: Path, number: int
) -> None:
    """At most the units that were running, one a processor, are done twice."""
    log = tmp_path / "log"
    script = (
        "import sys; from dataclasses import replace; from pathlib import Path\n"
        "from toystage import squares\n"
        "from tokkit.engine.stage import run_stage\n"
        "from tokkit.errors import TokkitError\n"
        "stage = squares(Path(sys.argv[1]), Path(sys.argv[2]), num_units=12, seconds=0.3)\n"
        "stage = replace(stage, cluster=sys.argv[3])\n"
        "try: run_stage(stage, workers=0, overwrite=False, progress=False)\n"
        "except TokkitError as error: sys.stderr.write(str(error)); sys.exit(error.exit_status)\n"
    )
    output = tmp_path / "out"
    driver = forkserver.Popen(
        [sys.executable, "-c", script, output, log, cluster.address],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
    )
    while len(done(log)) < 5:
        assert driver.poll() is None, driver.communicate()[1].decode()
        time.sleep(0.02)
    driver.send_signal(number)
    message = driver.communicate()[1].decode()
    if number == signal.SIGINT:
        assert driver.returncode == 130, message
        assert "run the same command again to continue" in message
    time.sleep(0.5)  # what was running has ended
    first = Counter(done(log))
    assert 5 <= len(first) < 12
    expected = run(squares(tmp_path / "here", tmp_path / "log0", num_units=12), cluster=None)
    assert run(squares(output, log, num_units=12)) == expected
    times = Counter(done(log))
    assert set(times) == set(range(12))
    assert sum(times.values()) <= 12 + 2 + 2  # two more may have ended before they were reported


UNIT = Unit(name="a unit", shard="file", identity={}, stamp=0, size=7, payload=None)


def test_an_error_of_a_unit_is_not_tried_again(cluster: Any, tmp_path: Path) -> None:
    def fail(log: Path, *_: object) -> UnitResult:
        with log.open("a") as file:
            file.write("tried\n")
        raise TokkitError("a unit: no good")

    assert cluster.address
    log = tmp_path / "log"
    with pytest.raises(TokkitError, match=r"^a unit: no good$"):
        [*engine.run_on_ray(Task(fail, log, tmp_path), [UNIT], "auto", 1, print)]
    assert log.read_text() == "tried\n"
    with pytest.raises(WorkerError, match=r"number 3\n\n(.*\n)*ZeroDivisionError: a bug"):
        run(squares(tmp_path / "crash", log, crash=3))


@pytest.mark.parametrize(("num_faults", "num_runs"), [(2, 3), (9, 4)])
def test_what_a_shared_file_system_may_not_say_again_is_tried_again(
    cluster: Any, tmp_path: Path, num_faults: int, num_runs: int
) -> None:
    def read(log: Path, *_: object) -> UnitResult:
        with log.open("a") as file:
            file.write("tried\n")
        if log.read_text().count("tried") <= num_faults:
            with wrap_os_errors("input"):
                raise OSError(errno.ESTALE, "Stale file handle")
        return UnitResult(rows=1, tokens=0, accounts=Accounts())

    assert cluster.address
    log = tmp_path / "log"
    with (
        nullcontext() if num_faults < num_runs else pytest.raises(TokkitError, match="input: stale")
    ):
        assert len([*engine.run_on_ray(Task(read, log, tmp_path), [UNIT], "auto", 1, print)]) == 1
    assert log.read_text().count("tried") == num_runs
    assert (tmp_path / "file").exists() == (num_faults < num_runs)


def test_a_unit_that_kills_its_process_is_given_up(cluster: Any, tmp_path: Path) -> None:
    assert cluster.address
    with pytest.raises(
        TokkitError, match=r"^number 1: its process or node was lost 4 times"
    ) as error:
        run(squares(tmp_path / "out", tmp_path / "log", num_units=2, die=1))
    assert "\n" not in str(error.value)


def test_a_unit_gets_twice_the_memory_once(cluster: Any, tmp_path: Path) -> None:
    def need(least: int, _payload: object, sink: Any, _report: object) -> UnitResult:
        memory = int(ray.get_runtime_context().get_assigned_resources()["memory"])
        if memory < least:
            raise MemoryError
        sink.write(b"%d" % memory)
        return UnitResult(rows=1, tokens=0, accounts=Accounts())

    assert cluster.address
    reported: list[int] = []
    task = Task(need, 2 << 30, tmp_path)
    assert len([*engine.run_on_ray(task, [UNIT], "auto", 1, reported.append)]) == 1
    assert (tmp_path / "file").read_bytes() == b"%d" % (2 << 30)
    assert reported == [7]
    with pytest.raises(TokkitError, match="a unit: out of memory"):
        [*engine.run_on_ray(Task(need, 3 << 30, tmp_path), [UNIT], "auto", 1, reported.append)]


def test_units_of_a_node_that_is_lost_are_done_by_others(cluster: Any, tmp_path: Path) -> None:
    """It comes late: until Ray takes the node for lost, a run waits for its release."""
    expected = run(squares(tmp_path / "here", tmp_path / "log0", num_units=12), cluster=None)
    log = tmp_path / "log"
    node = cluster.add_node(**NODE)

    def lose() -> None:
        while len(done(log)) < 4:
            time.sleep(0.02)
        cluster.remove_node(node, allow_graceful=False)

    thread = threading.Thread(target=lose, daemon=True)
    thread.start()
    files = run(squares(tmp_path / "out", log, num_units=12, seconds=0.3))
    thread.join()
    assert files == expected
    assert set(done(log)) == set(range(12))


def test_a_node_with_another_release_is_refused_before_the_first_unit(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = tmp_path / "other" / "tokkit"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("__version__ = '0.0.9'\n")
    node = cluster.add_node(**NODE, env_vars={"PYTHONPATH": str(fake.parent)})
    try:
        with pytest.raises(
            TokkitError, match=r"has tokkit 0\.0\.9, and the driver .* on all nodes"
        ):
            run(squares(tmp_path / "out", tmp_path / "log"))
    finally:
        cluster.remove_node(node, allow_graceful=True)
    assert not done(tmp_path / "log")
    monkeypatch.setattr(engine, "__version__", "0.0.8")  # a node that came later asks the driver
    monkeypatch.setattr(engine, "_refuse_other_releases", lambda: None)
    with pytest.raises(TokkitError, match=r"the driver 0\.0\.8"):
        run(squares(tmp_path / "out", tmp_path / "log"))


def test_a_unit_that_does_not_return_ends_the_work(cluster: Any, tmp_path: Path) -> None:
    """It comes last: for a minute, its process takes units and does nothing."""
    assert cluster.address
    with pytest.raises(TokkitError, match=r"^number 4: does not return$"):
        run(squares(tmp_path / "out", tmp_path / "log", hang=4))


@pytest.mark.parametrize(
    ("address", "fault"),
    [
        ("127.0.0.1:1", "connection refused"),
        ("localhost", "not HOST:PORT"),
        ("127.0.0.1:0", r".*; name HOST:PORT"),
    ],
)
def test_an_address_without_ray_is_a_line_within_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str, fault: str
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    started = time.monotonic()
    with pytest.raises(TokkitError, match=f"^--ray-address {address}: {fault}") as error:
        run(squares(tmp_path / "out", tmp_path / "log"), cluster=address)
    assert "\n" not in str(error.value)
    assert time.monotonic() - started < 10


def test_a_recipe_s_stages_run_where_the_command_line_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("one two\n\nthree")
    Path("recipe.toml").write_text('[corpus]\ninputs = ["a.txt"]\n[train]\n')
    arguments = ["run", "recipe.toml", "--engine", "ray", "--ray-address", "127.0.0.1:1"]
    with pytest.raises(TokkitError, match=r"^--ray-address 127\.0\.0\.1:1: connection refused"):
        CliRunner().invoke(cli, arguments, catch_exceptions=False)
    with pytest.raises(UsageError, match="--ray-address has no effect with --engine local"):
        CliRunner().invoke(cli, arguments[:2] + arguments[4:], catch_exceptions=False)


def test_stages_share_the_instance_that_the_first_one_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    monkeypatch.setattr(ray, "is_initialized", lambda: calls[-1:] == ["init"])
    monkeypatch.setattr(ray, "init", lambda **_: calls.append("init"))
    monkeypatch.setattr(ray, "shutdown", lambda: calls.append("shutdown"))
    monkeypatch.setattr(engine, "_probe", lambda _: None)
    monkeypatch.setattr(engine, "_refuse_other_releases", lambda: None)
    monkeypatch.setattr(engine, "_Driver", _IdleDriver)
    stage = squares(tmp_path / "out", tmp_path / "log")
    task = Task(stage.function, stage.context, stage.output)
    for clusters, expected in (
        ([None], ["init", "shutdown", "init", "shutdown"]),
        (["a:1", None], ["init", "shutdown"]),
    ):
        calls.clear()
        with share_cluster(clusters):
            for _ in range(2):
                assert not [*engine.run_on_ray(task, stage.units, "a:1", 1, lambda _: None)]
        assert calls == expected
    with share_cluster(["a:1"]):
        calls.clear()
        for address in ("a:1", "b:1"):
            assert not [*engine.run_on_ray(task, stage.units, address, 1, lambda _: None)]
        assert calls == ["init", "shutdown", "init"]


class _IdleDriver:
    def __init__(self, task: Task) -> None:
        pass

    def run(self, *_: object) -> list[None]:
        return []
