"""Requests to object stores: list, read, write and delete objects, named by their mirrors.

A path of a mirror says by itself which object it is; see ``tokkit.engine.mirrors``. obstore repeats a
request where the server fails, stalls or hangs up, and each is made in a thread of its own, so that
Ctrl-C ends it. An object appears whole or not at all, whatever breaks off.

Keys, region and address of S3 come from the environment, or as for AWS's own programs from profiles,
of which ``AWS_PROFILE`` chooses one, else it is ``default``. pyarrow reads them for inputs, obstore
does not for folders. Neither library can do all: only pyarrow gets keys that must be fetched and
speaks to HDFS, and only obstore creates an object unless it is there, as statements are written:

    ~/.aws/credentials    [work]              aws_access_key_id, aws_secret_access_key, aws_session_token
    ~/.aws/config         [profile work]      region, endpoint_url, and keys where the other has none
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
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from tokkit.engine.requests import call_in_thread
from tokkit.errors import TokkitError, require_library, wrap_os_errors
from tokkit.options import find_mirrored

if TYPE_CHECKING:
    from configparser import RawConfigParser

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

# By the names that obstore gives them: the variables that come first, and the name in a profile.
_PROFILE_SETTINGS = {
    "aws_region": (("AWS_REGION", "AWS_DEFAULT_REGION"), "region"),
    "aws_endpoint": (("AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_ENDPOINT_URL_S3"), "endpoint_url"),
}
_PROFILE_KEYS = ("aws_access_key_id", "aws_secret_access_key", "aws_session_token")
_OTHER_KEYS = (
    *("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)
# What a profile has whose keys a program must fetch.
_FETCHED_KEYS = ("sso_session", "sso_start_url", "role_arn", "credential_process")

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


def read_profile(*, with_keys: bool) -> dict[str, str]:
    """Return what the chosen profile adds to the environment, as options of obstore.

    Args:
        with_keys: return its keys, too. pyarrow finds them itself, also those that must be fetched.

    Raises:
        TokkitError: there is no such profile, its keys must be fetched, or a file is damaged.
    """
    name = os.environ.get("AWS_PROFILE", "default")
    config_file, config = _read_aws_file("AWS_CONFIG_FILE", "config")
    credentials_file, credentials = _read_aws_file("AWS_SHARED_CREDENTIALS_FILE", "credentials")
    profile: dict[str, str] = {}
    for file, section in ((config, f"profile {name}"), (config, name), (credentials, name)):
        if file.has_section(section):
            profile |= file[section]
    if not profile and "AWS_PROFILE" in os.environ:
        raise TokkitError(
            f"AWS_PROFILE={name}: no such profile in {config_file} or {credentials_file}"
        )
    options = {
        option: profile[key]
        for option, (variables, key) in _PROFILE_SETTINGS.items()
        if key in profile and not any(variable in os.environ for variable in variables)
    }
    if not with_keys or any(variable in os.environ for variable in _OTHER_KEYS):
        return options
    keys = {key: profile[key] for key in _PROFILE_KEYS if key in profile}
    if not keys and any(source in profile for source in _FETCHED_KEYS):
        raise TokkitError(
            f"{config_file}: profile {name} has no keys in it, but a way to fetch them; set the "
            f"variables that aws configure export-credentials prints"
        )
    return options | keys


def has_keys() -> bool:
    """Return whether keys are known without asking a server of the network for them."""
    with suppress(TokkitError):
        known = {*read_profile(with_keys=True), *(name.lower() for name in os.environ)}
        return not known.isdisjoint({_PROFILE_KEYS[0], *(name.lower() for name in _OTHER_KEYS)})
    return False


def _read_aws_file(variable: str, name: str) -> tuple[Path, "RawConfigParser"]:
    """Return a file of AWS's programs, which may be missing, and its sections."""
    from configparser import Error, RawConfigParser  # takes 5 ms

    path = Path(os.environ.get(variable) or Path.home() / ".aws" / name)
    # AWS writes no interpolation, and a section that stands twice is one.
    sections = RawConfigParser(strict=False, default_section="")
    with wrap_os_errors(path):
        if path.is_file():
            try:
                sections.read_string(path.read_text("utf-8"))
            except (Error, UnicodeDecodeError) as error:
                reason = str(error).split("\n", 1)[0]
                raise TokkitError(f"{path}: is damaged ({reason}); restore the file") from error
    return path, sections
