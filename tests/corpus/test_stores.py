"""Corpora behind URIs: the same text as from files here, and one line for whatever goes wrong."""

import bz2
import gzip
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import forkserver
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import storeservers
from corpusfiles import Corpus, read_corpus
from pyarrow.fs import S3FileSystem
from storeservers import Answer, Hub, answer_range, serve, silence

from tokkit.corpus import remote_files
from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.file_systems import open_files
from tokkit.corpus.readers import read_ahead, read_documents
from tokkit.corpus.sources import find_sources
from tokkit.corpus.units import plan_units
from tokkit.engine import object_store
from tokkit.errors import TokkitError

TEXT = "A cat sat.\n\nA dog ran.\n\n" * 300


def make_parquet(*texts: str, blob: int = 0) -> bytes:
    """Return a Parquet file with a column of text, and one of other bytes."""
    file = io.BytesIO()
    table = pa.table({"text": texts, "blob": [os.urandom(blob) for _ in texts]})
    pq.write_table(table, file, row_group_size=1 + len(texts) // 2)
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    hub = Hub()
    hub.commits["c1"] = {
        ".gitattributes": b"hidden",
        "data/train-0.parquet": make_parquet("one", "two"),
        "data/train-1.parquet": make_parquet("three"),
        "text/a b.txt": TEXT.encode(),
        "text/c.txt.gz": gzip.compress(TEXT.encode()),
    }
    with serve(hub.respond) as url:
        # The library reads HF_ENDPOINT when it is imported, which may have been before.
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", url)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr("time.sleep", lambda _: None)  # between repetitions
        yield hub


def write(store: S3FileSystem, path: str, content: bytes) -> None:
    with store.open_output_stream(path, compression=None) as file:
        file.write(content)


def read(*inputs: str, unit_bytes: int = 1000) -> Corpus:
    return read_corpus(*inputs, unit_bytes=unit_bytes)


def error_of(uri: str) -> str:
    """Return the error about a URI, which must be one line that names it."""
    with pytest.raises(TokkitError) as caught:
        read(uri)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 1
    return str(caught.value)


@pytest.mark.usefixtures("hub")
def test_a_data_set_of_the_hub_is_read_as_its_files_are(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    local = read(str(tmp_path / "a.txt"))
    whole = read("hf://datasets/owner/name")
    assert whole.texts == ["one", "two", "three", *local.texts, *local.texts]
    assert whole.names[0] == "hf://datasets/owner/name/data/train-0.parquet:0"
    single = read("hf://datasets/owner/name/text/a b.txt")
    assert (single.texts, single.num_units) == (local.texts, local.num_units)
    assert read("hf://datasets/owner/name@main/data/*-1.parquet").names == [
        "hf://datasets/owner/name@main/data/train-1.parquet:0"
    ]
    assert read("hf://datasets/owner/name@c1/**/*.gz").texts == local.texts


def test_the_commit_of_the_plan_is_read_though_the_revision_moves_on(hub: Hub) -> None:
    config = CorpusConfig(inputs=("hf://datasets/owner/name/data/*.parquet",))
    units = plan_units(config)
    hub.commits["c2"] = {"data/train-0.parquet": make_parquet("one", "new")}
    texts = [
        text for unit in units for batch in read_documents(unit, config) for text in batch.texts
    ]
    assert [text.as_py() for text in texts] == ["one", "two", "three"]
    (after,) = find_sources(config)
    assert after.name == units[0].source.name
    assert after.mtime_ns != units[0].source.mtime_ns
    hub.commits["c3"] = hub.commits["c1"]
    assert find_sources(config)[0].mtime_ns == units[0].source.mtime_ns


def test_of_a_large_table_only_the_columns_are_downloaded(hub: Hub) -> None:
    content = make_parquet(*map(str, range(40)), blob=1 << 20)
    hub.commits["c1"] = {"x.parquet": content}
    assert len(read("hf://datasets/owner/name/x.parquet").texts) == 40
    assert hub.num_bytes < len(content) / 3


def test_a_private_data_set_is_read_with_the_token_of_the_environment(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.token = "hf_token"  # noqa: S105  of the stand-in
    message = error_of("hf://datasets/owner/name")
    assert "Repository Not Found" in message
    assert "HF_TOKEN" in message
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert read("hf://datasets/owner/name/data").texts == ["one", "two", "three"]


@pytest.mark.parametrize(
    ("uri", "fault"),
    [
        ("hf://datasets/owner/none/a.txt", "Repository Not Found"),
        ("hf://datasets/owner/name@none/a.txt", "Revision Not Found"),
        ("hf://datasets/owner/name/none.txt", "no such file or folder"),
        ("hf://datasets/owner/name/none/*.txt", "matches no file"),
        ("hf://datasets/owner", "Repository id must be"),
    ],
)
@pytest.mark.usefixtures("hub")
def test_what_the_hub_does_not_have_is_named(uri: str, fault: str) -> None:
    message = error_of(uri)
    assert message.startswith(f"{uri}: ")
    assert fault in message


def test_a_gated_data_set_says_how_to_get_access(hub: Hub) -> None:
    hub.is_gated = True
    message = error_of("hf://datasets/owner/name/data/train-0.parquet")
    assert "gated" in message
    assert message.endswith("ask for access on its page, then set HF_TOKEN")


def test_a_server_that_is_busy_for_a_moment_is_asked_again(hub: Hub) -> None:
    hub.num_failures = 2
    sources = find_sources(CorpusConfig(inputs=("hf://datasets/owner/name/data",)))
    assert len(sources) == 2
    hub.num_failures = 100
    assert "503" in error_of("hf://datasets/owner/name/data")


@pytest.mark.usefixtures("hub")
def test_offline_mode_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE" in error_of("hf://datasets/owner/name/data")


@pytest.mark.parametrize(
    ("uri", "library", "package"),
    [
        ("hf://datasets/owner/name", "huggingface_hub", "tokkit[hub]"),
        ("https://127.0.0.1/a.txt", "aiohttp", "fsspec[http]"),
        ("sftp://127.0.0.1/a.txt", "paramiko", "fsspec[sftp]"),
    ],
)
def test_a_missing_package_is_named(
    uri: str, library: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert error_of(uri).endswith(f"needs a package: pip install '{package}'")


def test_a_bucket_is_read_as_files_are(s3: S3FileSystem, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT)
    local = read(str(tmp_path / "a.txt"))
    write(s3, "corpora/text/a b?é.txt", TEXT.encode())
    write(s3, "corpora/text/deep/c.txt.gz", gzip.compress(TEXT.encode()))
    write(s3, "corpora/x.parquet", make_parquet("one", "two"))
    single = read("s3://corpora/text/a b?é.txt")
    assert (single.texts, single.num_units) == (local.texts, local.num_units)
    assert read("s3://corpora/text/a?b*").names[0] == "s3://corpora/text/a b?é.txt:0"
    assert read("s3://corpora/**/*.gz").texts == local.texts
    assert read("s3://corpora").texts == [*local.texts, *local.texts, "one", "two"]
    assert "no such file" in error_of("s3://corpora/none.txt")
    assert "no such file" in error_of("s3://no-such-bucket/a.txt")


def test_a_bucket_of_google_is_read_as_files_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a server in another process: pyarrow lets no thread of Python run during some requests."""
    for name in ("a b.txt", "deep/er/c.txt", "deep/d.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n\n{TEXT}")
    (tmp_path / "x.parquet").write_bytes(make_parquet("one", "two"))
    server = subprocess.Popen(
        [sys.executable, storeservers.__file__, tmp_path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert server.stdout is not None
    options = f"?endpoint_override={server.stdout.readline().strip()[7:]}&scheme=http"

    def of_bucket(path: str) -> Corpus:
        return read(f"gs://anonymous@corpora{path}{options}", unit_bytes=5000)

    try:
        whole = of_bucket("")
        assert whole.texts == read(str(tmp_path)).texts
        assert whole.names[0] == "gs://corpora/a b.txt:0"
        single = of_bucket("/deep/er/c.txt")
        local = read(str(tmp_path / "deep/er/c.txt"), unit_bytes=5000)
        assert (single.texts, single.num_units) == (local.texts, local.num_units)
        assert of_bucket("/**/d*.txt").texts == read(str(tmp_path / "deep/d.txt")).texts
        assert "no such file" in error_of(f"gs://anonymous@corpora/none.txt{options}")
        (tmp_path / "busy").write_text("A cat.")
        monkeypatch.setattr("tokkit.corpus.remote_files.GOOGLE_SECONDS", 1)
        assert "does not send its content" in error_of(f"gs://anonymous@corpora/busy{options}")
    finally:
        server.kill()
        server.communicate()


def test_an_object_that_changes_after_planning_is_an_error(s3: S3FileSystem) -> None:
    write(s3, "corpora/a.txt", TEXT.encode())
    config = CorpusConfig(inputs=("s3://corpora/a.txt",))
    for change in (
        partial(write, s3, "corpora/a.txt", b"new"),
        partial(s3.delete_file, "corpora/a.txt"),
    ):
        units = plan_units(config)
        change()
        for read_group in (iter, read_ahead):
            with pytest.raises(TokkitError, match=r"a\.txt: changed while it was read"):
                list(read_documents(next(read_group(units)), config))


def test_requests_for_inputs_that_fail_or_break_off_are_repeated(
    s3: S3FileSystem, s3_address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(s3, "corpora/a.txt", TEXT.encode())
    expected = read("s3://corpora/a.txt")
    faults = [("GET", "reset"), ("GET", "half"), ("GET", "500"), ("HEAD", "500"), ("HEAD", "reset")]
    with storeservers.fail_before(s3_address, faults, []) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        open_files.cache_clear()
        object_store.open_client.cache_clear()
        assert read("s3://corpora/a.txt") == expected
    open_files.cache_clear()
    assert not faults


def test_first_bytes_are_read_another_way_where_a_range_is_refused(
    s3: S3FileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = {
        "a.txt": TEXT.encode(),
        "b.txt": b"",
        "c.bz2": bz2.compress(os.urandom(100_000).hex().encode()),
    }
    for name, content in texts.items():
        write(s3, f"corpora/in/{name}", content)
    config = CorpusConfig(inputs=("s3://corpora/in",))
    units = plan_units(config)
    read_range = Mock(side_effect=OSError("refused"))
    monkeypatch.setattr(remote_files, "read_range", read_range)
    assert plan_units(config) == units
    read_range.assert_called()


@pytest.mark.usefixtures("s3")
def test_wrong_credentials_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    with serve(lambda *_: (403, b"", {})) as url:
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        message = error_of("s3://corpora/a.txt")
    assert "ACCESS_DENIED" in message
    assert "AWS_SECRET_ACCESS_KEY" in message


def test_a_uri_with_a_password_is_refused() -> None:
    message = error_of("s3://key:secret@bucket/a.txt")
    assert "AWS_SECRET_ACCESS_KEY" in message
    assert "key:" not in message


def test_https_is_read_where_its_certificate_is_trusted(tmp_path: Path) -> None:
    certificate = tmp_path / "certificate"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", certificate, "-out", certificate, "-days", "2"),
            *("-subj", "/CN=test", "-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    files = {"/a.txt": TEXT.encode(), "/b.txt.gz": gzip.compress(TEXT.encode())}

    def respond(path: str, headers: Mapping[str, str]) -> Answer:
        return answer_range(files[path], headers) if path in files else (404, b"", {})

    script = "import sys, corpusfiles; print(len(corpusfiles.read_corpus(*sys.argv[1:]).texts))"

    def count(*uris: str, trusted: Path) -> subprocess.CompletedProcess[str]:
        # A process of its own, since aiohttp reads the certificates when it is imported.
        return forkserver.run(
            [sys.executable, "-c", script, *uris],
            env={**os.environ, "SSL_CERT_FILE": str(trusted)},
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
        )

    with serve(respond, certificate=certificate) as url:
        assert count(*(url + path for path in files), trusted=certificate).stdout == "1200\n"
        refused = count(f"{url}/a.txt", trusted=tmp_path / "none").stderr
        missing = count(f"{url}/none.txt", trusted=certificate).stderr
    assert f"TokkitError: {url}/a.txt: cannot be read (Cannot connect" in refused
    assert "certificate verify failed" in refused.splitlines()[-1]
    assert missing.endswith(f"{url}/none.txt: no such file or folder; check the path\n")


def test_no_answer_is_an_error_and_ctrl_c_ends_at_once() -> None:
    """In processes of their own: pyarrow goes on waiting in the background for minutes."""
    script = (
        "import sys, tokkit.corpus.remote_files as f; from tokkit.cli import main;"
        "f.REQUEST_SECONDS = float(sys.argv.pop(1)); main()"
    )
    arguments = ["train", "-o", "none"]
    with ExitStack() as stack:
        address = stack.enter_context(silence())
        uris = {
            "s3://bucket/a": 1.0,
            f"gs://anonymous@bucket/a?endpoint_override={address}&scheme=http": 1.0,
            "hf://datasets/owner/name": 1.0,
            "s3://bucket/b": 1000.0,
        }
        commands = [
            stack.enter_context(
                forkserver.Popen(
                    [sys.executable, "-c", script, str(seconds), *arguments, uri],
                    stderr=subprocess.PIPE,
                    text=True,
                    env={
                        **os.environ,
                        "AWS_ENDPOINT_URL": f"http://{address}",
                        "AWS_ACCESS_KEY_ID": "key",
                        "AWS_SECRET_ACCESS_KEY": "secret",
                        "HF_ENDPOINT": f"http://{address}",
                    },
                )
            )
            for uri, seconds in uris.items()
        ]
        for command in commands[:-1]:
            _, errors = command.communicate(timeout=60)
            assert command.returncode == 1
            assert errors.count("\n") == 1
            assert "cannot be read (no answer within 1.0 seconds)" in errors
        assert commands[-1].poll() is None
        commands[-1].send_signal(signal.SIGINT)
        stopped = time.monotonic()
        assert commands[-1].communicate(timeout=60)[1] == "tokkit: interrupted\n"
        assert commands[-1].returncode == 130
        assert time.monotonic() - stopped < 10
