"""Folders on a store: the same bytes as here, from any machine, and whatever the network does."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest
from click.testing import CliRunner
from pyarrow.fs import FileSelector, S3FileSystem, copy_files
from smallruns import RECIPE, outcome, write_corpus
from storeservers import fail_before, serve
from tokenfolders import write_token_folder

from tokkit.cli import cli
from tokkit.engine import mirrors, object_store
from tokkit.engine.manifest import MANIFEST
from tokkit.engine.mirrors import fetch, pull, push
from tokkit.engine.object_store import put_object, read_object
from tokkit.engine.requests import map_in_threads
from tokkit.engine.stage import Stage
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError
from tokkit.inspection.verify import verify
from tokkit.instances.build import build
from tokkit.instances.build_config import BuildConfig
from tokkit.options import find_local, uri_of
from tokkit.shards.reader import ShardFolder
from toystage import contents, done, run, squares

URI = Path("s3://corpora/a b/é#?")


@pytest.fixture
def machine(s3: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3FileSystem:
    """The store, from a machine that has no copies yet."""
    monkeypatch.setenv("TOKKIT_CACHE", str(tmp_path / "cache"))
    object_store.open_client.cache_clear()
    return s3


def stored(store: S3FileSystem) -> dict[str, bytes]:
    """What the store has next to the folder's state."""
    infos = store.get_file_info(FileSelector("corpora/a b/é#?", recursive=True))
    return {
        info.base_name: store.open_input_stream(info.path).read()
        for info in infos
        if info.is_file and ".tokkit" not in info.path
    }


def pulled(log: Path, cache: str = "cache", **options: int) -> Stage:
    """Return the stage as a command on a machine with this cache begins it."""
    folder = find_local(URI, log.parent / cache)
    pull(folder, is_output=True)
    return squares(folder, log, **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_folder_on_a_store_has_the_bytes_of_one_here(
    machine: S3FileSystem, tmp_path: Path, workers: int
) -> None:
    log = tmp_path / "log"
    run(squares(tmp_path / "here", log))
    log.unlink()
    run(pulled(log), workers=workers)
    assert stored(machine) == contents(tmp_path / "here")
    assert done(log) == [*range(6)]


def test_another_machine_goes_on_where_one_stopped(machine: S3FileSystem, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(TokkitError, match="number 4: cannot be squared"):
        run(pulled(log, fail=4))
    assert MANIFEST not in stored(machine)
    run(pulled(log, "other"))
    assert done(log) == [*range(6)]
    run(pulled(log, "third"))
    assert done(log) == [*range(6)]
    machine.delete_file("corpora/a b/é#?/square-00002.txt")
    run(pulled(log, "other"))
    assert done(log) == sorted([*range(6), 2])


def test_another_command_is_refused_on_any_machine(machine: S3FileSystem, tmp_path: Path) -> None:
    first, second = pulled(tmp_path / "log"), pulled(tmp_path / "log", "other", power=3)
    run(first)
    before = stored(machine)
    for stage in (second, pulled(tmp_path / "log", "other", power=3)):
        with pytest.raises(
            TokkitError, match=r"^s3://corpora/a b/é#\?: holds another run"
        ) as caught:
            run(stage)
        assert "--overwrite" in str(caught.value)
    assert stored(machine) == before
    run(second, overwrite=True)
    assert len(stored(machine)) == len(before)


def test_of_two_that_create_a_file_at_once_the_first_stays(
    machine: S3FileSystem, tmp_path: Path
) -> None:
    path = find_local(URI) / ".tokkit" / "stage.json"
    for content in (b"first", b"second"):
        draft = tmp_path / "draft"
        draft.write_bytes(content)
        push(draft, path, only_new=True)
        assert not draft.exists()
        found = read_object(path)
        assert found is not None
        assert found[0] == b"first"
    assert stored(machine) == {}


def test_a_folder_of_somebody_else_is_left_alone(machine: S3FileSystem, tmp_path: Path) -> None:
    with machine.open_output_stream("corpora/a b/é#?/theirs.txt") as file:
        file.write(b"theirs")
    with pytest.raises(TokkitError, match="not made by tokkit"):
        pulled(tmp_path / "log")
    assert stored(machine) == {"theirs.txt": b"theirs"}


def test_a_folder_is_listed_once_and_no_shard_is_asked_for(
    machine: S3FileSystem, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del machine
    run(pulled(tmp_path / "log"))
    asked: list[str] = []
    with fail_before(s3_address, [], asked) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        object_store.open_client.cache_clear()
        run(pulled(tmp_path / "log", "other"))
        assert sum("list-type" in request for request in asked) == 1
        assert sum("/done/" in request for request in asked) == 6
        asked.clear()
        pull(find_local(URI, tmp_path / "third"))
    assert not [request for request in asked if "/done/" in request or "stage.json" in request]


FAULTS = [
    ("PUT", "500"),
    ("PUT", "503"),
    ("PUT", "reset"),
    ("PUT", "silence"),
    ("GET", "500"),
    ("GET", "half"),
    ("GET", "silence"),
    ("HEAD", "reset"),
]


def test_requests_that_fail_stall_or_break_off_are_repeated(
    machine: S3FileSystem, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_store, "STALL_SECONDS", 0.5)
    monkeypatch.setattr(object_store, "RETRY_SECONDS", 20.0)
    run(squares(tmp_path / "here", tmp_path / "log"))
    faults = [*FAULTS]
    with fail_before(s3_address, faults, []) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        run(pulled(tmp_path / "log"))
        run(pulled(tmp_path / "log", "other"))
    assert not faults
    assert stored(machine) == contents(tmp_path / "here")
    assert contents(find_local(URI, tmp_path / "other")) == {
        **contents(tmp_path / "here"),
    }


def test_a_server_that_is_gone_is_one_line(
    machine: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del machine
    monkeypatch.setattr(object_store, "RETRY_SECONDS", 0.2)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TokkitError, match=r"^s3://corpora/a b/é#\?: the store ") as caught:
        pulled(tmp_path / "log")
    assert "AWS_ACCESS_KEY_ID" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("address", ["", "127.0.0.1:9000"])
def test_an_address_without_a_scheme_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    """obstore panics, which is an exception, but no ``Exception``."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    object_store.open_client.cache_clear()
    with pytest.raises(TokkitError, match=f"^AWS_ENDPOINT_URL={address}: not the address"):
        pull(find_local(URI, tmp_path))


def test_a_server_that_refuses_without_a_reason_is_asked_once(
    machine: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a cloud does, which is asked for credentials where there are none."""
    del machine
    asked = []

    def refuse(path: str, _: Any) -> tuple[int, bytes, dict[str, str]]:
        asked.append(path)
        return 403, b"denied", {}

    with serve(refuse) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(TokkitError, match="403 Forbidden: denied"):
            pulled(tmp_path / "log")
    assert len(asked) == 1


def test_a_bucket_that_is_not_there_is_named(machine: S3FileSystem, tmp_path: Path) -> None:
    del machine
    folder = find_local(Path("s3://nowhere/out"), tmp_path / "cache")
    with pytest.raises(TokkitError, match=r"^s3://nowhere/out: .*NoSuchBucket"):
        pull(folder, is_output=True)
    (tmp_path / "draft").write_bytes(b"text")
    with pytest.raises(TokkitError, match=r"^s3://nowhere/out/a: .*NoSuchBucket"):
        push(tmp_path / "draft", folder / "a")


def test_a_copy_is_made_again_when_the_object_changes(
    machine: S3FileSystem, tmp_path: Path
) -> None:
    run(squares(tmp_path / "here", tmp_path / "log"))
    run(pulled(tmp_path / "log"))
    copy = find_local(URI) / "square-00001.txt"
    pull(find_local(URI))
    before = copy.stat()
    pull(find_local(URI))
    assert copy.stat().st_ino == before.st_ino
    with machine.open_output_stream("corpora/a b/é#?/square-00001.txt") as file:
        file.write(b"9" * before.st_size)
    pull(find_local(URI))
    assert copy.read_bytes() == b"9" * before.st_size
    mirrors._current.clear()
    copy.unlink()
    with pytest.raises(TokkitError, match="SHA-256"):
        fetch(copy, "0" * 64)
    assert not copy.exists()


def test_a_folder_on_google_s_store_has_the_same_bytes(
    machine: S3FileSystem, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(squares(tmp_path / "here", tmp_path / "log"))
    with fail_before(s3_address, [], []) as url:
        monkeypatch.setenv("GOOGLE_BASE_URL", url)
        monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "token")
        monkeypatch.setattr(sys.modules[__name__], "URI", Path("gs://corpora/a b/é#?"))
        stages = [pulled(tmp_path / "log"), pulled(tmp_path / "log", "other", power=3)]
        run(stages[0])
        assert stored(machine) == contents(tmp_path / "here")
        with pytest.raises(TokkitError, match=r"^gs://corpora/a b/é#\?: holds another run"):
            run(stages[1])
        run(stages[1], overwrite=True)


def test_shards_are_copied_when_they_are_read(machine: S3FileSystem, tmp_path: Path) -> None:
    documents = [[[50 + n, 60 + n, 70], [80 + n]] for n in range(40)]
    here = write_token_folder(tmp_path / "tokens", documents, shards=[[10, 10], [20]])
    there = find_local(URI)
    for path in [*here.rglob("*.*")]:
        put_object(path, there / path.relative_to(here))
    options: dict[str, Any] = {"workers": 0, "max_seq_length": 16, "progress": False}
    local = build(BuildConfig(tokens=here, output=tmp_path / "out", **options))
    uri = Path("s3://corpora/out")
    assert build(BuildConfig(tokens=URI, output=uri, **options)) == local
    assert verify(uri).faults == ()
    assert not [*find_local(uri).glob(".tokkit/done/*")]
    damaged = next(find_local(uri).glob("*.arrow"))
    status = damaged.stat()
    damaged.write_bytes(bytes(status.st_size))  # here alone, and nothing says so
    os.utime(damaged, ns=(status.st_mtime_ns,) * 2)
    assert verify(uri).faults == ()

    pull(there)
    folder = ShardFolder.open(there, "tokens")
    first, last = folder.batch_refs()[0], folder.batch_refs()[-1]
    assert folder.read_batch(first).num_rows == 10
    copy = there / last.shard
    copy.unlink()
    mirrors._current.clear()
    with machine.open_output_stream(f"corpora/a b/é#?/{last.shard}") as file:
        file.write(bytes(folder.shards[last.shard].identity.size))
    pull(there)
    with pytest.raises(
        TokkitError, match=rf"{last.shard}: its SHA-256 is not that of the manifest"
    ):
        folder.read_batch(last)
    machine.delete_file(f"corpora/a b/é#?/{last.shard}")
    pull(there)
    with pytest.raises(TokkitError, match=f"{last.shard}: no such file"):
        folder.read_batch(last)
    assert verify(URI).faults[0].endswith(f"{last.shard}: no such file or folder")


def test_credentials_that_expire_end_the_work_and_lose_nothing(
    machine: S3FileSystem, s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults: list[tuple[str, str]] = []

    def expire(_: UnitResult) -> None:
        faults.append(("PUT", "403"))

    with fail_before(s3_address, faults, []) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        stage = replace(pulled(tmp_path / "log"), on_result=expire)
        with pytest.raises(TokkitError, match="AWS_SECRET_ACCESS_KEY") as caught:
            run(stage)
        assert "\n" not in str(caught.value)
    assert [*stored(machine)] == ["square-00000.txt"]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_address}")
    object_store.open_client.cache_clear()
    run(pulled(tmp_path / "log", "other"))
    assert done(tmp_path / "log") == sorted([*range(6), 1])


def test_all_stages_write_the_same_on_a_store_and_go_on_from_another_machine(
    machine: S3FileSystem,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    corpus = write_corpus(tmp_path / "corpus")

    def run_recipe(output: str) -> None:
        recipe = tmp_path / "recipe.toml"
        recipe.write_text(RECIPE.format(output=output, corpus=corpus))
        command = ["run", str(recipe), "--workers", "0", "--no-report"]
        assert CliRunner().invoke(cli, command, catch_exceptions=False).exit_code == 0

    def download() -> Path:
        folder = Path(mkdtemp(dir=tmp_path))
        copy_files("corpora/out", str(folder), source_filesystem=machine)
        return folder

    run_recipe(str(tmp_path / "here"))
    run_recipe("s3://corpora/out")
    assert outcome(download()) == outcome(tmp_path / "here")
    for name in (
        "manifest.json",
        "export/model.safetensors",
        "checkpoints/step-00000002/state.json",
    ):
        machine.delete_file(f"corpora/out/run/{name}")
    monkeypatch.setenv("TOKKIT_CACHE", str(tmp_path / "other"))
    run_recipe("s3://corpora/out")
    assert "step-00000001" in caplog.text  # it resumed
    assert outcome(download()) == outcome(tmp_path / "here")


def test_of_many_requests_few_are_made_before_their_answers_are_taken() -> None:
    numbers = iter(range(1000))
    answers = map_in_threads(str, numbers, num_threads=2)
    assert next(answers) == "0"
    assert next(numbers) < 20
    assert len([*answers]) == 998


def test_names_of_mirrors() -> None:
    for uri in ("s3://b", "s3://b/a/c d", "gs://b/é.arrow"):
        path = find_local(Path(uri), Path("/cache"))
        assert path.is_relative_to("/cache")
        assert uri_of(path).rstrip("/") == uri
        assert find_local(path) == path
        assert str(TokkitError(f"{path}: x")) == f"{uri}: x"
