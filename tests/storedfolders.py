"""Folders that are read from a store, and caches of what it has, for readers that run in copies."""

import os
import shutil
import time
from collections.abc import Callable
from http.client import HTTPConnection
from itertools import count
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from memorystore import run_store

_BUCKET = "fuzz"
_numbers = count()
Read = Callable[[Any, Path], int]


def start_store() -> None:
    """Start a store in a copy of this process, which ends with this process, and name it to readers."""
    parent = os.getpid()
    reader, writer = os.pipe()
    if not os.fork():
        os.close(reader)
        with run_store() as (_, address):
            os.write(writer, address.encode())
            os.close(writer)
            while os.getppid() == parent:
                time.sleep(0.5)
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as file:
        os.environ["AWS_ENDPOINT_URL"] = file.read()
    os.environ |= {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    os.environ["AWS_REGION"] = "us-east-1"


def upload(folder: Path) -> str:
    """Put the files of a folder on the store, under a name that nothing had; return its URI."""
    connection = HTTPConnection(urlsplit(os.environ["AWS_ENDPOINT_URL"]).netloc)
    name = f"{os.getpid()}-{next(_numbers)}"
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            key = quote(f"{_BUCKET}/{name}/{path.relative_to(folder)}")
            connection.request("PUT", f"/{key}", path.read_bytes())
            assert connection.getresponse().read() is not None
    connection.close()
    return f"s3://{_BUCKET}/{name}"


def on_store(read: Read) -> Read:
    """Return a reader of what is on the store, which uploads the folder first."""

    def read_stored(folder: Path, output: Path) -> int:
        os.environ["TOKKIT_CACHE"] = str(output / "cache")
        return read(upload(folder), output / "made")

    return read_stored


def from_cache(uri: str, read: Read) -> Read:
    """Return a reader of a folder of the store of which the folder that it is given is the cache."""

    def read_cached(folder: Path, output: Path) -> int:
        cache = output / "cache"
        shutil.copytree(folder, cache, symlinks=True)
        os.environ["TOKKIT_CACHE"] = str(cache)
        return read(uri, output / "made")

    return read_cached
