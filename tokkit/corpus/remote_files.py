"""The file system behind a URI; see ``tokkit.corpus.file_systems``."""

import dataclasses
import io
import logging
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from importlib import import_module
from typing import Any, Protocol, TypeVar
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.fs

from tokkit.corpus.file_systems import Entry, changed_error, is_uri, printable
from tokkit.engine.object_store import has_keys, read_profile, read_range, read_version
from tokkit.engine.requests import NUM_REQUESTS, call_in_thread, map_in_threads
from tokkit.errors import TokkitError

# Time for one request, repetitions included.
REQUEST_SECONDS = 20
# Without a limit, pyarrow repeats a request to Google for 15 minutes, in which no other thread of
# Python runs if it is the first for the content of an object.
GOOGLE_SECONDS = 12
# With a block of this size a connection of 100 kB/s is fast enough for REQUEST_SECONDS.
_REQUEST_BYTES = 2 << 20
_BUFFER_BYTES = 1 << 20
# Files up to this size are read whole, several ahead.
SMALL_BYTES = 256 << 10
NUM_AHEAD = 16
_ATTEMPTS = 3
_TRANSIENT_STATUS = {429, 500, 502, 503, 504}

_ARROW_SCHEMES = {"file", "s3", "gs", "gcs", "abfs", "abfss", "hdfs", "viewfs"}
_FLAT_SCHEMES = {"s3", "gs", "gcs", "abfs", "abfss", "hf"}  # list all below a folder at once
_CREDENTIALS = {
    "hf": "HF_TOKEN",
    "s3": "AWS_PROFILE, or AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or gs://anonymous@BUCKET for a public one",
    "abfs": "AZURE_TENANT_ID, AZURE_CLIENT_ID, AZURE_CLIENT_SECRET",
    "hdfs": "HADOOP_HOME, JAVA_HOME, CLASSPATH",
}
_PACKAGES = {"hf": "tokkit[hub]", "http": "fsspec[http]", "https": "fsspec[http]"}

_QUERY = re.compile(r"\?(?=\w+=)")
_PASSWORD = re.compile(r"://[^/@]*:[^/@]*@")
_USER = re.compile(r"(?<=://)[^/@]*@")
_REQUEST_ID = re.compile(r"\s*\(Request ID[^)]*\)")
# In a name, "?" and "#" are characters as any other; a query has been cut off.
_SAFE = "!$%&'()*+,-./:;=@_~"


class _Named(Protocol):
    @property
    def name(self) -> str: ...


T = TypeVar("T", bound=_Named)
R = TypeVar("R")


class RemoteFiles:
    """The file system behind a URI such as ``s3://bucket/folder``.

    Each request is made in another thread, because a library that waits for a server handles no
    signal, and some wait for minutes.

    Args:
        uri: as the user wrote it, or the attribute ``uri`` of another object.

    Attributes:
        uri: what other processes open to read the same files.
        path: path of the URI within the file system.

    Raises:
        TokkitError: if the URI cannot be read.
    """

    def __init__(self, uri: str) -> None:
        location, *query = _QUERY.split(uri, maxsplit=1)
        self._scheme = location.split("://", 1)[0].lower()
        # Without user and options: this may be written into a manifest.
        self._root = self._shown_root = ""
        shown = printable(_USER.sub("", location))
        if _PASSWORD.search(location):
            raise TokkitError(
                f"{shown}: the URI holds a password, which would be written into manifests; leave it "
                f"out, and set {self._credentials}"
            )
        self.uri = uri
        self._listed: dict[str, dict[tuple[str, bool], Entry]] = {}  # by folder, name and kind
        self._has_range_requests = False
        if self._scheme == "hf":
            self._system, self.path = self._request(shown, self._connect_hub, location)
        elif self._scheme in _ARROW_SCHEMES:
            pa.set_io_thread_count(NUM_REQUESTS)  # S3's client has no more connections than that
            if self._scheme.startswith("abfs") and shutil.which("az") is None:
                # Or Azure's library starts a shell, which prints that there is no az.
                os.environ.setdefault("AZURE_TOKEN_CREDENTIALS", "prod")
            if self._scheme in ("gs", "gcs") and "retry_limit_seconds" not in "".join(query):
                query = ["&".join([*query, f"retry_limit_seconds={GOOGLE_SECONDS}"])]
            if self._scheme == "s3":
                self._has_range_requests = not query and "@" not in location and has_keys()
                address = urlsplit(read_profile(with_keys=False).get("aws_endpoint", ""))
                if address.netloc and "endpoint_override" not in "".join(query):
                    # pyarrow does not read it from the profile.
                    options = f"endpoint_override={address.netloc}&scheme={address.scheme}"
                    query = ["&".join([*query, options])]
            encoded = "?".join([quote(location, safe=_SAFE), *query])
            self._system, self.path = self._request(shown, pyarrow.fs.FileSystem.from_uri, encoded)
        else:
            self._system, self.path = self._request(shown, self._connect_fsspec, uri)

    def name(self, path: str) -> str:
        """Return the URI of a path, without secrets and options."""
        shown = path.replace(self._root, self._shown_root, 1)
        shown = _QUERY.split(shown, maxsplit=1)[0]
        return printable(shown if is_uri(shown) else f"{self._scheme}://{shown}")

    def find(self, path: str) -> Entry | None:
        """Return what is at ``path``, or None."""
        entry = self._entry(self._request(self.name(path), self._system.get_file_info, path))
        return entry if entry.is_file or entry.is_folder else None

    def children(self, folder: str, wanted: Callable[[str], bool]) -> Iterator[Entry]:
        """Yield what a folder holds under a name that is ``wanted``, in any order."""
        if folder.rstrip("/") not in self._listed:
            self._list(folder, recursive=self._scheme in ("gs", "gcs"))
        entries = self._listed[folder.rstrip("/")].values()
        return (entry for entry in entries if wanted(entry.name))

    def list_below(self, folder: str) -> None:
        """List a folder with all that is below it at once, where the store can do so."""
        if folder.rstrip("/") not in self._listed and self._scheme in _FLAT_SCHEMES:
            self._list(folder, recursive=True)

    def _list(self, folder: str, *, recursive: bool) -> None:
        """Keep what a folder holds, and what the folders below it hold.

        pyarrow names a folder of Google's stores only where an object marks it, which most tools
        leave out.
        """
        selector = pyarrow.fs.FileSelector(folder, recursive=recursive)
        infos = self._request(self.name(folder), self._system.get_file_info, selector)
        folder = folder.rstrip("/")
        self._listed[folder] = {}
        for entry in map(self._entry, infos):
            path = folder
            *above, name = entry.path.removeprefix(f"{folder}/").split("/")
            for part in above:
                child = Entry(f"{path}/{part}", True, False, 0, 0)  # noqa: FBT003  a folder, no file
                self._listed[path].setdefault((part, True), child)
                path = child.path
                self._listed.setdefault(path, {})
            self._listed[path][name, entry.is_folder] = entry
            if entry.is_folder and recursive:
                self._listed.setdefault(entry.path, {})

    def _entry(self, info: Any) -> Entry:
        """Return an entry for what pyarrow reports about a path."""
        is_folder, is_file = (
            info.type == kind for kind in (pyarrow.fs.FileType.Directory, pyarrow.fs.FileType.File)
        )
        changed = info.mtime_ns or 0
        if self._scheme == "s3":  # MinIO and Ceph list milliseconds, and answer with whole seconds
            changed -= changed % 10**9
        return Entry(info.path, is_folder, is_file, info.size or 0, changed)

    def resolve(self, folder: str) -> str:
        """Return the folder's path, which is its only one."""
        return folder

    def open(self, path: str, buffer_bytes: int = _BUFFER_BYTES) -> Any:
        """Open a file as a ``pyarrow.NativeFile``, which can seek, and reads so much at least."""
        name = self.name(path)

        def measure() -> tuple[Any, int]:
            file = self._system.open_input_file(path)
            return file, file.size()

        try:
            file, size = self._request(name, measure)
        except TokkitError:
            if self.find(path) is None:
                raise changed_error(name) from None
            raise

        # Not file.read_at(), during which no other thread of Python runs.
        def read(position: int, num_bytes: int) -> bytes:
            file.seek(position)
            return bytes(file.read(num_bytes))

        def read_at(position: int, num_bytes: int) -> bytes:
            data: bytes = self._request(name, read, position, num_bytes)
            if len(data) != num_bytes:
                raise changed_error(name)
            return data

        return pa.PythonFile(io.BufferedReader(_RangeReader(size, read_at), buffer_bytes), "r")

    def open_head(self, entry: Entry, num_bytes: int) -> Any:
        """Open a file of which only the first bytes are read, on S3 with a single request.

        pyarrow asks for the size first, and takes five times as long for each request.
        """
        if self._has_range_requests and entry.bytes:
            bucket, _, key = entry.path.partition("/")
            try:
                head = self._request(self.name(entry.path), read_range, bucket, key, num_bytes)
            except TokkitError:  # pyarrow says why, unless it can
                self._has_range_requests = False
            else:
                if not head.startswith(b"BZh"):  # of which more is read
                    return io.BytesIO(head)
        return self.open(entry.path, num_bytes)

    def read_small(self, path: str, num_bytes: int, mtime_ns: int) -> bytes | None:
        """Return a small file of S3 with a single request; None where it has to be opened.

        A response is one version of the object, so that no second request is needed after reading.

        Args:
            path: of the file.
            num_bytes: its size.
            mtime_ns: its time of change.

        Raises:
            TokkitError: it has another size or time of change.
        """
        if not self._has_range_requests or not 0 < num_bytes <= SMALL_BYTES:
            return None
        bucket, _, key = path.partition("/")
        try:
            content, changed_ns = self._request(self.name(path), read_version, bucket, key)
        except TokkitError:  # pyarrow says why, unless it can
            self._has_range_requests = False
            return None
        if (len(content), changed_ns) != (num_bytes, mtime_ns):
            raise changed_error(self.name(path))
        return bytes(content)

    def _connect_hub(self, location: str) -> tuple[Any, str]:
        """Return the file system of the Hugging Face Hub, and the path at the present commit."""
        hub = import_module("huggingface_hub")
        logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # it logs each repetition
        system = hub.HfFileSystem(skip_instance_cache=True)
        found = system.resolve_path(location)
        path: str = found.unresolve()
        if not path.startswith("buckets/"):
            details = {"repo_type": found.repo_type, "revision": found.revision}
            commit = hub.HfApi().repo_info(found.repo_id, **details).sha
            pinned = dataclasses.replace(found, revision=commit, _raw_revision=None)
            self._root, self._shown_root = pinned.root, found.root
            path = pinned.unresolve()
            self.uri = f"hf://{path}"
        return pyarrow.fs.PyFileSystem(_FsspecHandler(system)), path

    def _connect_fsspec(self, uri: str) -> tuple[Any, str]:
        """Return another file system of fsspec, and the path of the URI."""
        system, path = import_module("fsspec.core").url_to_fs(uri)
        return pyarrow.fs.PyFileSystem(_FsspecHandler(system)), path

    def _request(self, name: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of a library, and turn its errors into one line about ``name``."""

        def call() -> Any:
            for attempt in range(1, _ATTEMPTS + 1):
                try:
                    return function(*arguments)
                except Exception as error:
                    status = getattr(getattr(error, "response", None), "status_code", None)
                    if status not in _TRANSIENT_STATUS or attempt == _ATTEMPTS:
                        raise
                    time.sleep(attempt)
            raise AssertionError

        try:
            return call_in_thread(call, seconds=REQUEST_SECONDS)
        except Exception as error:
            raise TokkitError(f"{name}: {self._describe(error)}") from error

    def _describe(self, error: Exception) -> str:
        """Return what is wrong, and what to do about it."""
        if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
            error = error.__cause__  # which says why
        if isinstance(error, ImportError):
            package = _PACKAGES.get(self._scheme, f"fsspec[{self._scheme}]")
            return f"reading {self._scheme}:// needs a package: pip install '{package}'"
        lines = [line for line in _REQUEST_ID.sub("", str(error)).splitlines() if line.strip()]
        # The Hub's errors begin with a status; pyarrow's end with lines for its own developers.
        reason = printable(" ".join(lines[: 2 if self._scheme == "hf" else 1])).rstrip(".")
        remedy = f"check the name, the network and the credentials ({self._credentials})"
        if isinstance(error, ValueError) and "closed file" in reason:  # of pyarrow
            reason = "the server does not send its content"
        if type(error).__name__ == "GatedRepoError":
            remedy = "ask for access on its page, then set HF_TOKEN"
        return f"cannot be read ({reason or type(error).__name__}); {remedy}"

    @property
    def _credentials(self) -> str:
        return _CREDENTIALS.get(self._scheme, "those of its package")


def read_several(
    function: Callable[[T], R], values: Sequence[T], num_threads: int = NUM_REQUESTS
) -> Iterator[R]:
    """Call a function for several files, entries, sources or units at a time."""
    answers = map_in_threads(function, values, num_threads, seconds=2 * REQUEST_SECONDS)
    for value in values:
        try:
            yield next(answers)
        except TimeoutError as error:
            raise TokkitError(
                f"{value.name}: cannot be read (no answer); check the network, and run the same "
                f"command again"
            ) from error


class _FsspecHandler(pyarrow.fs.FSSpecHandler):  # type: ignore[misc]  # no annotations
    """A file system of fsspec for pyarrow, which reports errors and versions."""

    @staticmethod
    def _create_file_info(path: str, info: dict[str, Any]) -> Any:
        is_folder = info["type"] == "directory"
        kind = pyarrow.fs.FileType.Directory if is_folder else pyarrow.fs.FileType.File
        # All that the server reports about the file, such as its ETag.
        version = sha256(str(sorted({**info, "name": ""}.items(), key=str)).encode()).digest()
        return pyarrow.fs.FileInfo(
            path, kind, size=info["size"], mtime_ns=int.from_bytes(version[:7])
        )

    def get_file_info(self, paths: list[str]) -> list[Any]:
        infos = []
        for path in paths:
            try:
                infos.append(self._create_file_info(path, self.fs.info(path)))
            except FileNotFoundError as error:
                cause = error.__cause__
                is_answer = getattr(cause, "status", None) == 404
                if cause and type(cause).__module__.startswith("aiohttp") and not is_answer:
                    raise cause from None  # such as an untrusted certificate
                infos.append(pyarrow.fs.FileInfo(path, pyarrow.fs.FileType.NotFound))
        return infos

    def get_file_info_selector(self, selector: Any) -> list[Any]:
        if selector.recursive:
            found = self.fs.find(selector.base_dir, withdirs=True, detail=True)
            infos = [info for path, info in found.items() if path != selector.base_dir.rstrip("/")]
        else:
            infos = self.fs.ls(selector.base_dir, detail=True)
        return [self._create_file_info(info["name"], info) for info in infos]

    def open_input_file(self, path: str) -> Any:
        return pa.PythonFile(self.fs.open(path, mode="rb", cache_type="none"), mode="r")


class _RangeReader(io.RawIOBase):
    """Reads a file in ranges.

    Args:
        size: bytes in the file.
        read_at: returns a number of bytes at a position.
    """

    def __init__(self, size: int, read_at: Callable[[int, int], bytes]) -> None:
        self._size = size
        self._read_at = read_at
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._position = offset + (0, self._position, self._size)[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        num_bytes = max(0, min(len(buffer), self._size - self._position, _REQUEST_BYTES))
        if num_bytes:
            buffer[:num_bytes] = self._read_at(self._position, num_bytes)
            self._position += num_bytes
        return num_bytes
