"""A quick stand-in for S3, which keeps objects in memory and counts requests.

moto and SeaweedFS take more time for a request than tokkit does, so that with 100,000 objects they
are what is measured. This answers 10,000 requests a second, or each after the latency of a network.
A file goes up in several parts one at a time.
"""

import asyncio
import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from threading import Thread
from urllib.parse import parse_qsl, unquote, urlsplit
from xml.sax.saxutils import escape, unescape

PAGE = 1000  # as S3
DATE = "2026-01-01T00:00:00.417Z"  # with milliseconds, which a HEAD has not, as of MinIO and Ceph

Answer = tuple[int, bytes, dict[str, str]]


class MemoryStore:
    """The objects of a store by bucket and key, and how often each kind of request was made."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.requests: Counter[str] = Counter()
        self._names: list[str] | None = None
        self._parts: dict[tuple[str, int], bytes] = {}

    def put(self, name: str, content: bytes) -> None:
        """Keep an object."""
        self._names = None if name not in self.objects else self._names
        self.objects[name] = content

    def answer(self, method: str, target: str, headers: dict[str, str], body: bytes) -> Answer:
        """Return status, content and headers of the answer to a request."""
        url = urlsplit(target)
        name, query = unquote(url.path).strip("/"), dict(parse_qsl(url.query, True))
        self.requests["LIST" if "list-type" in query else method] += 1
        if "list-type" in query:
            return 200, self._list(f"{name}/", query).encode(), {}
        if method in ("GET", "HEAD"):
            return self._read(name, headers)
        return self._write(method, name, query, headers, body)

    def _write(
        self, method: str, name: str, query: dict[str, str], headers: dict[str, str], body: bytes
    ) -> Answer:
        status, content = (
            200,
            b"<R><UploadId>1</UploadId><ETag>1</ETag></R>",
        )  # of any kind of upload
        if method == "PUT" and "uploadId" in query:
            self._parts[name, int(query["partNumber"])] = body
        elif method == "POST" and "uploadId" in query:
            parts = sorted(part for part in self._parts if part[0] == name)
            self.put(name, b"".join(map(self._parts.pop, parts)))
        elif method == "PUT" and headers.get("if-none-match") == "*" and name in self.objects:
            status, content = 412, b"<Error><Code>PreconditionFailed</Code></Error>"
        elif method == "PUT":
            self.put(name, body)
        elif "uploads" not in query:
            self._names, keys = None, re.findall("<Key>.*?</Key>", body.decode())
            for key in keys:
                self.objects.pop(f"{name}/{unescape(key[5:-6])}", None)
            deleted = "".join(f"<Deleted>{key}</Deleted>" for key in keys)
            content = f"<DeleteResult>{deleted}</DeleteResult>".encode()
        return status, content, {"ETag": f'"{sha256(body).hexdigest()}"'}

    def _read(self, name: str, headers: dict[str, str]) -> Answer:
        if name not in self.objects:
            return 404, b"<Error><Code>NoSuchKey</Code></Error>", {}
        content = self.objects[name]
        found = {"ETag": f'"{sha256(content).hexdigest()}"'}
        found["Last-Modified"] = "Thu, 01 Jan 2026 00:00:00 GMT"
        if "range" not in headers:
            return 200, content, found
        start, _, stop = headers["range"].removeprefix("bytes=").partition("-")
        part = content[int(start) : int(stop or len(content)) + 1]
        found["Content-Range"] = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
        return 206, part, found

    def _list(self, bucket: str, query: dict[str, str]) -> str:
        """Return a page of a listing."""
        if self._names is None:
            self._names = sorted(self.objects)
        prefix, delimiter = bucket + query.get("prefix", ""), query.get("delimiter", "")
        at = bisect_left(self._names, query.get("continuation-token", prefix))
        rows: list[str] = []
        size = int(query.get("max-keys", PAGE))
        while at < len(self._names) and len(rows) < size and self._names[at].startswith(prefix):
            name = self._names[at]
            folder, found, _ = name.removeprefix(prefix).partition(delimiter or "//")
            if delimiter and found:
                rows.append(
                    f"<CommonPrefixes><Prefix>{escape((prefix + folder).removeprefix(bucket))}{delimiter}"
                    f"</Prefix></CommonPrefixes>"
                )
                at = bisect_left(self._names, f"{prefix}{folder}{delimiter}\U0010ffff", at)
                continue
            content = self.objects[name]
            rows.append(
                f"<Contents><Key>{escape(name.removeprefix(bucket))}</Key><Size>{len(content)}</Size>"
                f"<ETag>&quot;{sha256(content).hexdigest()}&quot;</ETag><LastModified>{DATE}</LastModified></Contents>"
            )
            at += 1
        following = next(iter(self._names[at : at + 1]), "")
        more = following.startswith(prefix)
        token = f"<NextContinuationToken>{escape(following)}</NextContinuationToken>"
        return (
            f"<ListBucketResult><KeyCount>{len(rows)}</KeyCount><IsTruncated>{str(more).lower()}"
            f"</IsTruncated>{token if more else ''}{''.join(rows)}</ListBucketResult>"
        )


class _Connection(asyncio.Protocol):
    """A connection of a client, whose requests come one after the other."""

    def __init__(
        self, store: MemoryStore, latency: float, connections: list[asyncio.WriteTransport]
    ) -> None:
        self._store = store
        self._connections = connections
        self._latency = latency
        self._data = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._connections.append(transport)

    def data_received(self, data: bytes) -> None:
        self._data += data
        head, end, rest = self._data.partition(b"\r\n\r\n")
        if not end:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value for name, _, value in (each.partition(": ") for each in lines)
        }
        size = int(headers.get("content-length", 0))
        if len(rest) < size:
            return
        self._data = rest[size:]
        method, target, _ = first.split(" ")
        status, content, found = self._store.answer(method, target, headers, rest[:size])
        found["Content-Length"] = str(len(content))
        shown = "".join(f"{name}: {value}\r\n" for name, value in found.items())
        answer = f"HTTP/1.1 {status} OK\r\n{shown}\r\n".encode()
        answer += b"" if method == "HEAD" else content
        if self._latency:
            asyncio.get_running_loop().call_later(self._latency, self._transport.write, answer)
        else:
            self._transport.write(answer)


@contextmanager
def run_store(latency: float = 0.0) -> Iterator[tuple[MemoryStore, str]]:
    """Run a store in a thread of its own inside the block; yield it and its address."""
    store, loop = MemoryStore(), asyncio.new_event_loop()
    connections: list[asyncio.WriteTransport] = []
    server = loop.run_until_complete(
        loop.create_server(
            lambda: _Connection(store, latency, connections), "127.0.0.1", 0, backlog=256
        )
    )
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        yield store, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:

        def stop() -> None:
            for transport in connections:
                transport.abort()
            loop.call_soon(loop.call_soon, loop.stop)  # after the connections are closed

        loop.call_soon_threadsafe(stop)
        thread.join()
        server.close()
        loop.close()
