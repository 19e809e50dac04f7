"""Requests to object stores: list, read, write and delete objects, named by their mirrors.

A path of a mirror says by itself which object it is; see ``tokkit.engine.mirrors``. obstore repeats a
request where the server fails, stalls or hangs up, and each is made in a thread of its own, so that
Ctrl-C ends it. An object appears whole or not at all, whatever breaks off.
"""

import errno
import hashlib
import os
import re
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tokkit.engine.requests import call_in_thread
from tokkit.errors import TokkitError, require_library
from tokkit.options import find_mirrored

STALL_SECONDS = 30.0  # without a byte
RETRY_SECONDS = 120.0
_MAX_RETRIES = 8  # within half a minute
_FINAL = re.compile(f"<Code>|status code: 4|after {_MAX_RETRIES} retries")
_CHUNK_BYTES = 8 << 20
_MAX_PARTS = 5000  # of the 10,000 that S3 takes
_ADDRESS = re.compile("https?://[^/]")
_ENDPOINTS = {"s3": "AWS_ENDPOINT_URL", "gs": "GOOGLE_BASE_URL"}
_CREDENTIALS = {
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
}

T = TypeVar("T")


class StoredFile(NamedTuple):
    """What a store says of an object."""

    size: int
    e_tag: str


def _describe(found: Any) -> StoredFile:
    """Return size and ETag; where a store has no ETags, the time of change."""
    return StoredFile(found["size"], found["e_tag"] or str(found["last_modified"]))


def _locate(path: Path) -> tuple[str, str, str]:
    """Return scheme, bucket and key of a path in a mirror."""
    found = find_mirrored(path)
    assert found is not None  # noqa: S101  callers look
    return found


@cache
def open_client(scheme: str, bucket: str, _process: int) -> Any:
    """Return obstore's client for a bucket, which a copy of the process cannot use."""
    require_library("obstore", f"{scheme}:// for folders", "stores")
    from obstore.store import from_url

    from tokkit.engine.aws_profiles import read_profile  # imports configparser

    profile: Any = read_profile(with_keys=True) if scheme == "s3" else {}
    endpoint = os.environ.get(_ENDPOINTS[scheme], profile.get("aws_endpoint"))
    if endpoint is not None and not _ADDRESS.match(endpoint):
        raise TokkitError(
            f"{_ENDPOINTS[scheme]}={endpoint}: not the address of a server, such as "
            f"https://HOST:PORT; correct it, or unset it"
        )
    return from_url(
        f"{scheme}://{bucket}",
        config=profile,
        client_options={
            "allow_http": endpoint is not None and endpoint.startswith("http:"),
            "connect_timeout": timedelta(seconds=STALL_SECONDS),
            "read_timeout": timedelta(seconds=STALL_SECONDS),
            "timeout": timedelta(hours=1),
        },
        retry_config={
            "max_retries": _MAX_RETRIES,
            "retry_timeout": timedelta(seconds=RETRY_SECONDS),
            "backoff": {
                "init_backoff": timedelta(seconds=RETRY_SECONDS / 400),
                "max_backoff": timedelta(seconds=15),
                "base": 2,
            },
        },
    )


def _request(path: Path, function: Callable[[Any, Any, str], T]) -> T:
    """Call ``function(obstore, client, key)`` for a path, and turn errors into one line.

    Raises:
        FileNotFoundError: there is no such object, though the bucket is there.
    """
    scheme, bucket, key = _locate(path)
    client = open_client(scheme, bucket, os.getpid())
    import obstore
    from obstore.exceptions import BaseError, GenericError

    last = time.monotonic() + RETRY_SECONDS
    while True:
        try:
            return call_in_thread(function, obstore, client, key)
        except FileNotFoundError as error:
            if "NoSuchBucket" not in str(error):
                raise FileNotFoundError(errno.ENOENT, "no such object", str(path)) from error
            raise _store_error(path, error) from error
        except (BaseError, OSError) as error:
            # obstore repeats neither what breaks off in the middle of an answer, nor a creation that
            # stalled. Here the first of two that succeeded is left.
            is_cut = isinstance(error, GenericError) and not _FINAL.search(str(error))
            if not is_cut or time.monotonic() > last:
                raise _store_error(path, error) from error
            time.sleep(RETRY_SECONDS / 100)


def _store_error(path: Path, error: Exception) -> TokkitError:
    """Return what is wrong with a store, in one line."""
    text = str(error)
    code, _, rest = text.partition("<Code>")[2].partition("</Code>")
    message = rest.partition("<Message>")[2].partition("</Message>")[0]
    reason = ": ".join(filter(None, (code, message))) or " ".join(
        text.partition("\n\nDebug source")[0].split()
    )
    return TokkitError(
        f"{path}: the store refuses or does not answer ({reason.rstrip('.')}); check the name, the "
        f"network and the credentials ({_CREDENTIALS[_locate(path)[0]]}), and run the same command "
        f"again: what is finished is kept"
    )


def list_objects(folder: Path, *, without: str = "") -> dict[str, StoredFile]:
    """List a folder with all that is below it, in a few requests: names in it, sizes and ETags.

    Args:
        folder: mirror of the folder.
        without: name of a folder in it that is not listed.
    """

    def run(obstore: Any, client: Any, key: str) -> dict[str, StoredFile]:
        prefix = f"{key}/" if key else ""
        parts: list[Iterable[Sequence[Any]]] = [obstore.list(client, prefix or None)]
        if without:
            top = obstore.list_with_delimiter(client, prefix or None)
            folders = {*top["common_prefixes"]} - {prefix + without}
            parts = [[top["objects"]], *(obstore.list(client, f"{name}/") for name in folders)]
        return {
            entry["path"].removeprefix(prefix): _describe(entry)
            for entries in chain.from_iterable(parts)
            for entry in entries
            if entry["size"]  # some programs leave empty objects that stand for folders
        }

    return _request(folder, run)


def _head(obstore: Any, client: Any, key: str) -> StoredFile:
    return _describe(obstore.head(client, key))


def find_object(path: Path) -> StoredFile | None:
    """Return size and ETag of an object as it is now; None if it is missing."""
    with suppress(FileNotFoundError):
        return _request(path, _head)
    return None


def read_object(path: Path) -> tuple[bytes, StoredFile] | None:
    """Return a small file as it is in the store now, one version of it; None if it is missing."""

    def run(obstore: Any, client: Any, key: str) -> tuple[bytes, StoredFile]:
        answer = obstore.get(client, key)
        return bytes(answer.bytes()), _describe(answer.meta)

    with suppress(FileNotFoundError):
        return _request(path, run)
    return None


def read_range(bucket: str, key: str, num_bytes: int) -> bytes:
    """Return the first bytes of an object on S3."""
    client = open_client("s3", bucket, os.getpid())
    import obstore

    return bytes(obstore.get_range(client, key, start=0, length=num_bytes))


def read_version(bucket: str, key: str) -> tuple[bytes, int]:
    """Return the content of an object on S3, and its time of change in nanoseconds."""
    client = open_client("s3", bucket, os.getpid())
    import obstore

    answer = obstore.get(client, key)
    return bytes(answer.bytes()), round(answer.meta["last_modified"].timestamp()) * 10**9


def receive_object(path: Path, part: Path) -> tuple[int, str]:
    """Write an object into a file, and return its size and SHA-256."""

    def run(obstore: Any, client: Any, key: str) -> tuple[int, str]:
        digest = hashlib.sha256()
        with part.open("wb") as file:
            for chunk in obstore.get(client, key).stream(min_chunk_size=_CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
            return file.tell(), digest.hexdigest()

    return _request(path, run)


def put_object(source: Path, path: Path, *, only_new: bool = False) -> StoredFile | None:
    """Put a file into the store in one go; None if an object is there already."""

    def run(obstore: Any, client: Any, key: str) -> StoredFile | None:
        size = source.stat().st_size
        chunk = max(_CHUNK_BYTES, size // _MAX_PARTS)
        # What is small is read first, since a log of metrics may grow.
        content = source.read_bytes() if size < chunk else source
        if isinstance(content, bytes):
            size = len(content)
        try:
            obstore.put(
                client, key, content, mode="create" if only_new else "overwrite", chunk_size=chunk
            )
        except obstore.exceptions.AlreadyExistsError:
            return None
        found = _head(obstore, client, key)
        if found.size != size:
            raise OSError(f"has {found.size:,} bytes after {size:,} were sent")
        return found

    try:
        return _request(path, run)
    except FileNotFoundError as error:
        raise _store_error(path, error) from error


def delete_objects(paths: Sequence[Path]) -> None:
    """Delete objects of one bucket, of which some may be missing."""
    keys = [_locate(path)[2] for path in paths]
    if keys:
        _request(paths[0], lambda obstore, client, _: obstore.delete(client, keys))
