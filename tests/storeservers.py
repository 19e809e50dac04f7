"""Stand-ins for stores on this machine: a Hub, servers that fail, and what fails before a server."""

import json
import re
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from time import sleep
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

Files = Mapping[str, bytes]
Answer = tuple[int, bytes, Mapping[str, str]]


@contextmanager
def serve(respond: Any, receive: Any = None, certificate: Path | None = None) -> Iterator[str]:
    """Start a server that answers with what ``respond(path, headers)`` returns; yield its URL.

    A POST is answered with what ``receive(path, body)`` returns. With a certificate, it speaks TLS.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(*respond(self.path, self.headers))

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.answer(*receive(self.path, body))

        def answer(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_HEAD = do_GET  # noqa: N815  the name that the base class looks up

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with run_server(Handler, certificate) as url:
        yield url


@contextmanager
def run_server(
    handler: type[BaseHTTPRequestHandler], certificate: Path | None = None
) -> Iterator[str]:
    """Run a server inside the block; yield its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def silence() -> Iterator[str]:
    """Listen for connections, and never answer; yield the address."""
    with socket.create_server(("127.0.0.1", 0), backlog=100) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def answer_json(data: Any) -> Answer:
    return 200, json.dumps(data).encode(), {"Content-Type": "application/json"}


def answer_range(content: bytes, headers: Mapping[str, str]) -> Answer:
    """Answer a request for a file, or for a range of it."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
    if wanted is None:
        return 200, content, {}
    start, stop = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
    return 206, content[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}


def answer_as_google(folder: Path, path: str, headers: Mapping[str, str]) -> Answer:
    """Answer as Google's store does for a bucket ``corpora`` that holds the files of a folder.

    The content of a file called ``busy`` is never sent.
    """
    url = urlsplit(path)
    query = dict(parse_qsl(url.query))
    bucket, _, name = url.path.removeprefix("/storage/v1/b/").partition("/o")
    name = unquote(name.removeprefix("/"))

    def describe(file: str) -> dict[str, str]:
        size = str((folder / file).stat().st_size)
        return {"name": file, "bucket": bucket, "size": size, "generation": "1"}

    if name:
        if bucket != "corpora" or not (folder / name).is_file():
            return 404, b"", {}
        if query.get("alt") == "media":
            if name == "busy":
                return 503, b"", {}
            return answer_range((folder / name).read_bytes(), headers)
        return answer_json(describe(name))
    prefix, end = query.get("prefix", ""), query.get("delimiter", "//")
    files = (str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())
    # Folders are not objects here, and pyarrow does not ask for the prefixes that stand for them.
    items = [
        describe(file)
        for file in files
        if file.startswith(prefix) and end not in file.removeprefix(prefix)
    ]
    return answer_json({"name": bucket, "items": items})


@dataclass
class Hub:
    """A Hugging Face Hub with the data set ``owner/name``.

    Attributes:
        commits: files of each commit; the last is ``main``.
        token: the token that every request needs.
        is_gated: whether files may be listed, but not read.
        num_failures: how many requests are answered with status 503 from now on.
        num_bytes: bytes of files that were sent.
    """

    commits: dict[str, Files] = field(default_factory=dict)
    token: str | None = None
    is_gated: bool = False
    num_failures: int = 0
    num_bytes: int = 0

    def respond(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Return status, body and headers."""
        if self.num_failures:
            self.num_failures -= 1
            return 503, b"", {}
        query = urlsplit(path).query
        path = unquote(urlsplit(path).path)
        match = re.fullmatch(
            r"(?:/api)?/datasets/owner/name(?:/(revision|tree|resolve)/([^/]+)/?(.*))?", path
        )
        if match is None or (self.token and headers["Authorization"] != f"Bearer {self.token}"):
            return 401, b"", {"X-Error-Code": "RepoNotFound"}
        what, revision, name = match.groups()
        commit = [*self.commits][-1] if revision in (None, "main") else revision
        if commit not in self.commits:
            return 404, b"", {"X-Error-Code": "RevisionNotFound"}
        files = self.commits[commit]
        if what in (None, "revision"):
            return answer_json({"id": "owner/name", "sha": commit, "private": False, "tags": []})
        if what == "tree":
            return self._list(files, f"{name}/" if name else "", "recursive=true" in query.lower())
        if self.is_gated:
            return 403, b"", {"X-Error-Code": "GatedRepo"}
        if name not in files:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        answer = answer_range(files[name], headers)
        self.num_bytes += len(answer[1])
        return answer

    def _list(self, files: Files, folder: str, recursive: bool) -> Answer:
        """Return what a folder holds, and if ``recursive`` what the folders below it hold."""
        rows: dict[str, dict[str, Any]] = {}
        for path, content in files.items():
            if path.startswith(folder):
                name, *below = path.removeprefix(folder).split("/")
                row = {"type": "file", "size": len(content), "oid": f"{hash(content):x}"}
                if below and recursive:
                    rows[name] = {"path": folder + name, "type": "directory", "size": 0, "oid": ""}
                    name = path.removeprefix(folder)
                elif below:
                    row = {"type": "directory", "size": 0, "oid": name}
                rows[name] = {"path": folder + name, **row}
        if not rows:
            return 404, b"", {"X-Error-Code": "EntryNotFound"}
        return answer_json([*rows.values()])


def _ask(
    connection: HTTPConnection, method: str, path: str, body: bytes, headers: dict[str, str]
) -> HTTPResponse:
    if headers.get("x-goog-if-generation-match") == "0":  # as S3 says it
        headers["If-None-Match"] = "*"
    connection.request(method, path, body, headers)
    return connection.getresponse()


@contextmanager
def fail_before(address: str, faults: list[tuple[str, str]], asked: list[str]) -> Iterator[str]:
    """Start a server that passes requests on to one of S3, except for the faults; yield its URL.

    Requests of Google's XML interface are the same but for a header.

    Args:
        address: of the other server.
        faults: method and fault of a request, in the order in which they are used up: its status,
            ``reset`` to hang up, ``half`` to hang up in the middle of the answer, or ``silence``.
        asked: gets each request, as ``GET /bucket/name``.
    """

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            asked.append(f"{self.command} {self.path}")
            fault = next((name for method, name in faults if method == self.command), "")
            if fault:
                faults.remove((self.command, fault))
            self.close_connection = bool(fault)
            if fault == "silence":
                sleep(3)
            if fault == "403":
                self.send_error(403)
            if fault in ("reset", "silence", "403"):
                return
            with closing(HTTPConnection(address)) as connection:
                answer = _ask(connection, self.command, self.path, body, dict(self.headers))
                content = answer.read()
            self.send_response(int(fault) if fault.isdigit() else answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "content-length", "date", "server"):
                    self.send_header(name, value)
            size = answer.getheader("Content-Length") if self.command == "HEAD" else len(content)
            self.send_header("Content-Length", "0" if fault.isdigit() else str(size))
            self.end_headers()
            if not fault.isdigit():
                self.wfile.write(content[: len(content) // 2] if fault == "half" else content)

        do_HEAD = do_PUT = do_POST = do_DELETE = do_GET  # noqa: N815  the names that are looked up

        def log_message(self, *_: Any) -> None:
            """Print nothing."""

    with run_server(Proxy) as url:
        yield url


if __name__ == "__main__":
    with serve(partial(answer_as_google, Path(sys.argv[1]))) as address:
        sys.stdout.write(f"{address}\n")
        sys.stdout.flush()
        input()
