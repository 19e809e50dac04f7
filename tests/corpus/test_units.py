"""Where files are cut into units."""

import os
import pickle
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import pytest
from corpusfiles import read_corpus
from hypothesis import given
from hypothesis import strategies as st

from reference import scan as reference
from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.readers import read_documents
from tokkit.corpus.sources import Source
from tokkit.corpus.units import BLANK_LINE, LINE_END, CorpusUnit, find_bounds, plan_units
from tokkit.errors import TokkitError


def plan(path: Path, unit_bytes: int, **options: Any) -> list[CorpusUnit]:
    return plan_units(CorpusConfig(inputs=(str(path),), **options), unit_bytes)


def source_of(path: Path) -> Source:
    return plan(path, 1 << 40)[0].source


@given(
    data=st.text(st.sampled_from("\n\r \tab"), max_size=80).map(str.encode),
    unit_bytes=st.integers(1, 40),
)
def test_cuts_lie_where_documents_begin(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, unit_bytes: int
) -> None:
    """A cut never parts a document, nor a line end of two bytes."""
    path = tmp_path_factory.mktemp("cuts") / "a.txt"
    path.write_bytes(data)
    source = source_of(path)
    for pattern, documents in ((LINE_END, "line"), (BLANK_LINE, "blank-line")):
        bounds = find_bounds(source, unit_bytes, pattern)
        assert bounds[0] == 0
        assert bounds[-1] == len(data)
        assert all(a < b for a, b in pairwise(bounds)) or not data
        for cut in bounds[1:-1]:
            assert data[cut - 1 : cut + 1] != b"\r\n"
            assert not any(a < cut < b for a, b in reference.documents(data, documents))


def test_cuts_are_near_even_shares_and_cheap_to_find(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"0123456\n\n" * 2_000_000)
    num_read = 0

    class Counting:
        def __init__(self, path: bytes) -> None:
            self.file = Path(os.fsdecode(path)).open("rb")  # noqa: SIM115  closed by __exit__

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.file.close()

        def seek(self, offset: int) -> None:
            self.file.seek(offset)

        def read(self, size: int) -> bytes:
            nonlocal num_read
            num_read += size
            return self.file.read(size)

    monkeypatch.setattr("pyarrow.OSFile", Counting)

    units = plan(path, 1_000_000)

    assert len(units) == 24
    assert all(abs(unit.size - 750_000) < 100 for unit in units)
    assert sum(unit.size for unit in units) == 18_000_000
    assert num_read <= 24 * 65_536  # the first to identify the file


def test_the_plan_says_what_a_content_key_needs(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"one\n\ntwo\n\n" * 1000)
    first, second = plan(path, 5000)
    assert first.name == f"{path}, bytes 0 to {first.stop}"
    assert second.identity == {
        "name": str(path),
        "format": "text",
        "bytes": 10_000,
        "start": first.stop,
        "stop": 10_000,
    }
    assert not first.is_whole
    assert not first.source.is_stdin
    assert pickle.loads(pickle.dumps(first)) == first  # noqa: S301  it is ours
    (whole,) = plan(path, 1 << 20)
    assert whole.name == str(path)
    assert whole.is_whole


def test_a_document_longer_than_units_is_not_cut(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"word " * 100_000 + b"\n\nend\n")
    units = plan(path, 10_000)
    assert [(unit.start, unit.stop) for unit in units] == [(0, 500_002), (500_002, 500_006)]


def test_json_lines_are_cut_at_line_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a b"}\n' * 1000)
    whole = read_corpus(path)
    cut = read_corpus(path, unit_bytes=1000)
    assert cut.num_units == 16
    assert (cut.texts, cut.names) == (whole.texts, whole.names)


@pytest.mark.parametrize("change", ["grow", "shrink", "touch", "vanish", "replace"])
@pytest.mark.parametrize("when", ["before", "within"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_file_that_changes_while_it_is_read_is_refused(
    tmp_path: Path, change: str, when: str, name: str
) -> None:
    path = tmp_path / name
    line = b'{"text": "some words"}\n'
    path.write_bytes(line * 1000)
    config = CorpusConfig(inputs=(str(path),))
    (unit,) = plan_units(config)

    def apply_change() -> None:
        if change == "grow":
            with path.open("ab") as file:
                file.write(line)
        elif change == "shrink":
            with path.open("r+b") as file:
                file.truncate(len(line) * 500)
        elif change == "touch":
            os.utime(path, ns=(unit.source.mtime_ns + 1, unit.source.mtime_ns + 1))
        elif change == "vanish":
            path.unlink()
        else:
            other = tmp_path / "other"
            other.write_bytes(b" " * unit.source.bytes)
            other.replace(path)

    if when == "before":
        apply_change()
    with pytest.raises(TokkitError, match=r"a\.\w+: (changed while|no such file)"):  # noqa: PT012  the reader must be under way
        for _ in read_documents(unit, config, batch_bytes=1000):
            if when == "within":
                apply_change()
                when = "after"
