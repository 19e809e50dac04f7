"""Copies of receipts save requests, and say nothing that the store does not."""

from pathlib import Path
from typing import Any

import pytest
from pyarrow.fs import S3FileSystem

from tokkit.engine import mirrors, object_store
from tokkit.engine.mirrors import pull
from tokkit.engine.object_store import read_object
from tokkit.engine.receipts import read_receipts, seal
from tokkit.engine.stage import Stage
from tokkit.options import find_local
from toystage import done, run, squares

URI = Path("s3://corpora/squares")


@pytest.fixture
def machine(s3: S3FileSystem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3FileSystem:
    """The store, from a machine that has no copies yet."""
    monkeypatch.setenv("TOKKIT_CACHE", str(tmp_path / "cache"))
    object_store.open_client.cache_clear()
    return s3


def pulled(log: Path) -> Stage:
    """Return the stage as a command begins it."""
    pull(find_local(URI), is_output=True)
    return squares(find_local(URI), log)


def receipts_of(folder: Path) -> dict[str, Any]:
    """Return the receipts as a command that has just begun reads them."""
    pull(folder, is_output=True)
    return read_receipts(folder)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the objects that are read as a whole, as they are."""
    names: list[str] = []

    def record(path: Path) -> Any:
        names.append(path.name)
        return read_object(path)

    monkeypatch.setattr(mirrors, "read_object", record)
    return names


def test_a_receipt_is_read_once_by_a_machine(
    machine: S3FileSystem, tmp_path: Path, asked: list[str]
) -> None:
    folder, log = find_local(URI), tmp_path / "log"
    run(pulled(log))
    receipts = receipts_of(folder)
    assert len(asked) == len(receipts) == 6
    assert receipts_of(folder) == receipts
    assert len(asked) == 6
    one, other, *_ = sorted(receipts)
    state = "corpora/squares/.tokkit/done"
    machine.delete_file(f"{state}/{one}.json")
    with machine.open_output_stream(f"{state}/{other}.json") as file:  # of the same size
        file.write(seal({**receipts[other], "stamp": 2}))
    asked.clear()
    assert receipts_of(folder) == {
        key: {**receipt, "stamp": 2} if key == other else receipt
        for key, receipt in receipts.items()
        if key != one
    }
    assert asked == [f"{other}.json"]
    run(pulled(log))  # it is finished, and its manifest has the hashes
    machine.delete_file("corpora/squares/manifest.json")
    run(pulled(log))
    assert len(done(log)) == 7  # the unit without a receipt was done again


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"rows": 1', b'"rows": 7'),
        (b"\t", b" "),
        (b"}\n", b"}"),
        (b"2", b"\xff"),
    ],
)
def test_a_damaged_copy_of_receipts_is_read_again(
    tmp_path: Path, asked: list[str], old: bytes, new: bytes
) -> None:
    folder = find_local(URI)
    run(pulled(tmp_path / "log"))
    receipts = receipts_of(folder)
    copies = folder / ".tokkit" / "done.copies"
    content = copies.read_bytes()
    assert old in content
    copies.write_bytes(content.replace(old, new))
    assert receipts_of(folder) == receipts
    copies.write_bytes(content[:1000])  # its process was killed
    assert receipts_of(folder) == receipts
    asked.clear()
    assert receipts_of(folder) == receipts
    assert asked == []
