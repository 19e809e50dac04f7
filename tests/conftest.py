"""Fixtures that tests of several rooms use."""

import gc
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import forkserver
import pytest
from hypothesis import settings
from pyarrow.fs import S3FileSystem

# Imports leave nothing to collect; to look for it took a sixth of their time.
gc.disable()
# Two test processes share two cores. Torch reads this when the first test imports it, which may
# be one of any room; with more threads than cores it spends most of its time waiting for them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Torch's compiler would start processes of its own, each of which imports torch, for a few kernels.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

forkserver.skip_syncs()

# The first call of a kernel compiles it, which takes seconds, so there are no deadlines.
settings.register_profile("sample", deadline=None, max_examples=15)
settings.register_profile("full", deadline=None, max_examples=1000)

START_MOTO = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
input()
"""

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--full",
        action="store_true",
        help="compare everything: all code points, all corpora, 1,000 random examples of a test",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Choose how many examples Hypothesis draws; tests say it themselves where each is slow."""
    settings.load_profile("full" if config.getoption("--full") else "sample")


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name compressed data after its argument: it may hold the time, and then processes differ."""
    return argname if isinstance(val, bytes) and not val.isascii() else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the longest first, so that no process is left with one: the quickstart, and the mutants."""
    first = {"test_readme.py": 0, "test_fuzz.py": 1}
    items.sort(key=lambda item: first.get(item.path.name, len(first)))


def pytest_collection_finish() -> None:
    """Collect garbage from here on, but not among what was imported, and less often."""
    gc.freeze()
    gc.set_threshold(10_000)
    gc.enable()


@pytest.fixture(scope="session", autouse=True)
def copies() -> Iterator[None]:
    """Let ``multiprocessing`` copy a process that has imported everything, rather than start one."""
    with forkserver.copy_spawned():
        yield


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether to compare everything instead of a sample."""
    return bool(request.config.getoption("--full"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real corpora and vocabularies next to the repository; skip without it."""
    folder = ROOT.parent / "shared"
    if not (folder / "corpora").is_dir():
        pytest.skip("there is no folder of real corpora next to the repository")
    return folder


@pytest.fixture(scope="session")
def s3_address() -> Iterator[str]:
    """Address of moto's server, or of another one that ``TOKKIT_TEST_S3`` names, such as SeaweedFS's."""
    if address := os.environ.get("TOKKIT_TEST_S3"):
        yield address
        return
    process = subprocess.Popen(
        [sys.executable, "-c", START_MOTO],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    yield f"127.0.0.1:{process.stdout.readline().strip()}"
    process.kill()
    process.communicate()


@pytest.fixture
def s3(s3_address: str, monkeypatch: pytest.MonkeyPatch) -> S3FileSystem:
    """A bucket called ``corpora``, empty, of which the environment holds the credentials."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{s3_address}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    store = S3FileSystem(endpoint_override=s3_address, scheme="http", allow_bucket_creation=True)
    store.create_dir("corpora")
    store.delete_dir_contents("corpora")
    return store
