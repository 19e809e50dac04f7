"""Standard input is cut into units by its bytes alone, whatever their number and however they come."""

import gzip
import io
import pickle
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
from corpusfiles import read_corpus
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.formats import HEAD_BYTES
from tokkit.corpus.readers import read_documents
from tokkit.corpus.streams import SharedMemory, open_bytes
from tokkit.corpus.units import plan_groups
from tokkit.engine.files import hash_file
from tokkit.engine.unit import Unit, UnitStream
from tokkit.errors import TokkitError

LINES = [b"The cat sat.", b"", b" \xc2\xa0", b"\xef\xbb\xbfIt sat.\r", b"a" * 3000, b"\r"]


class Dribble(io.RawIOBase):
    """Bytes that come in pieces of a few sizes, as from a pipe."""

    def __init__(self, data: bytes, sizes: Iterator[int]) -> None:
        self._data = io.BytesIO(data)
        self._sizes = sizes

    @property
    def position(self) -> int:
        return self._data.tell()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray, /) -> int:  # type: ignore[override]  # of a memoryview
        return self._data.readinto(memoryview(buffer)[: next(self._sizes)])


def open_parts(
    monkeypatch: pytest.MonkeyPatch, raw: Any, unit_bytes: int, documents: str
) -> UnitStream:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(raw, 1 << 12)))
    config = CorpusConfig(inputs=("-",), documents=documents)
    (unit,) = plan_groups(config, unit_bytes, "shard-{:07}.arrow")
    assert unit.open_stream is not None
    return unit.open_stream()


def cut(
    monkeypatch: pytest.MonkeyPatch, data: bytes, sizes: list[int], unit_bytes: int, documents: str
) -> list[Unit]:
    endless = (size for _ in iter(int, 1) for size in sizes)
    stream = open_parts(monkeypatch, Dribble(data, endless), unit_bytes, documents)
    parts: list[Unit] = []
    while not stream.ended:
        parts += stream.read()
    return parts


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
@given(
    lines=st.lists(st.sampled_from(LINES), min_size=20, max_size=40),
    sizes=st.lists(st.sampled_from([1, 999, 4096, 1 << 20]), min_size=2, max_size=4),
    unit_bytes=st.sampled_from([1024, 10_000, 100_000]),
    documents=st.sampled_from(["line", "blank-line"]),
)
def test_parts_have_the_documents_of_the_file(
    tmp_path_factory: pytest.TempPathFactory,
    lines: list[bytes],
    sizes: list[int],
    unit_bytes: int,
    documents: str,
) -> None:
    data = b"\n".join(lines)
    data *= HEAD_BYTES // len(data) + 2
    path = tmp_path_factory.mktemp("stdin") / "a.txt"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as monkeypatch:
        at_once = cut(monkeypatch, data, [1 << 20], unit_bytes, documents)
        parts = cut(monkeypatch, data, sizes, unit_bytes, documents)
    assert parts == at_once
    assert [unit.shard for unit in parts] == [f"shard-{n:07}.arrow" for n in range(len(parts))]
    assert sum(unit.size for unit in parts) == len(data)
    assert all(unit.size >= unit_bytes for unit in parts[:-1])
    assert parts[-1].input_sha256 == (hash_file(path),)
    config = CorpusConfig(inputs=("-",), documents=documents)
    batches = [
        batch for unit in parts for part in unit.payload for batch in read_documents(part, config)
    ]
    whole = read_corpus(path, documents=documents)
    assert [text for batch in batches for text in batch.texts.to_pylist()] == whole.texts
    names = [name for batch in batches for name in batch.names.to_pylist()]
    assert names == [name.replace(str(path), "stdin") for name in whole.names]
    assert sum(batch.bytes_read for batch in batches) == len(data)


def test_a_large_part_is_read_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [b"Line %d of the text." % number for number in range(200_000)]
    parts = cut(monkeypatch, b"\n".join(lines), [1 << 20], 2 << 20, "line")
    sent = pickle.loads(pickle.dumps(parts))  # noqa: S301
    assert len(pickle.dumps(parts)) < 1 << 20 or sys.platform != "linux"
    config = CorpusConfig(inputs=("-",), documents="line")
    texts = [
        text
        for unit in sent
        for batch in read_documents(unit.payload[0], config)
        for text in batch.texts.to_pylist()
    ]
    assert texts == [line.decode() for line in lines]


def test_compressed_data_are_cut_where_the_text_is(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"".join(b"Line %d of the text.\n" % number for number in range(40_000))
    plain = cut(monkeypatch, data, [1 << 20], 100_000, "line")
    assert len(plain) > 2
    assert cut(monkeypatch, gzip.compress(data), [1000], 100_000, "line") == plain


def test_a_text_without_a_boundary_is_one_whole_part(monkeypatch: pytest.MonkeyPatch) -> None:
    (unit,) = cut(monkeypatch, b"a line\n" * 20_000, [1 << 20], 1 << 14, "blank-line")
    (part,) = unit.payload
    assert part.is_whole
    assert unit.name == "stdin"


def test_an_error_in_a_later_part_names_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    good = b'{"text": "The cat sat."}\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(good * 5000 + b'{"text"\n')))
    config = CorpusConfig(inputs=("-",), format="jsonl")
    (unit,) = plan_groups(config, 1 << 15, "{}")
    assert unit.open_stream is not None
    stream = unit.open_stream()
    parts: list[Unit] = []
    while not stream.ended:
        parts += stream.read()
    (part,) = parts[-1].payload
    assert len(parts) > 2
    with pytest.raises(TokkitError, match="stdin, line 5001: "):
        list(read_documents(part, config))


def test_the_next_parts_are_read_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"A line of the text.\n" * 100_000
    raw = Dribble(data, iter(lambda: 1 << 14, 0))
    stream = open_parts(monkeypatch, raw, 100_000, "line")
    assert raw.position < 200_000  # a process that is copied must not have a thread
    stream.read()
    deadline = time.monotonic() + 60
    while raw.position < 300_000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.05)
    assert raw.position < 700_000
    rest: list[Unit] = []
    while not stream.ended:
        rest += stream.read()
    assert len(rest) == 19


def test_an_error_reaches_the_reader_of_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    damaged = gzip.compress(b"".join(b"Line %d.\n" % number for number in range(100_000)))[:-9]
    with pytest.raises(TokkitError, match=r"^stdin: invalid gzip data after "):
        cut(monkeypatch, damaged, [1 << 20], 100_000, "line")


@pytest.mark.skipif(sys.platform != "linux", reason="there are no files in memory")
def test_memory_is_shared_again() -> None:
    memory = SharedMemory()
    first, second = (memory.share(memoryview(letter * (2 << 20))) for letter in (b"a", b"b"))
    with open_bytes(first) as file:
        path = file.name
    del first
    third = memory.share(memoryview(b"c" * (1 << 20)))
    with open_bytes(third) as file:
        assert file.read() == b"c" * (1 << 20)
        assert file.name == path
    with open_bytes(second) as file:
        assert file.read() == b"b" * (2 << 20)
    assert memory.share(memoryview(b"few")) == b"few"
