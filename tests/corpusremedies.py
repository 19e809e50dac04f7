"""Corpora that are refused, and read once what their error advises has been done."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpusfiles import read_corpus

from tokkit.errors import TokkitError

Files = dict[str, bytes]
# What is in the folder, the options, the error, and what its remedy makes of files and options.
Row = tuple[Files, dict[str, Any], str, Files, dict[str, Any]]


def saved(save: Callable[[io.BytesIO], None]) -> bytes:
    """Return what is written into a file."""
    with io.BytesIO() as buffer:
        save(buffer)
        return buffer.getvalue()


TABLE = pa.table({"text": ["from a table"]})
PARQUET = saved(lambda file: pq.write_table(TABLE, file))
RECORD = b'{"text": "a record"}\n'


def write(folder: Path, files: Files) -> None:
    """Write files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def read(folder: Path, inputs: str = "", **options: Any) -> list[str]:
    """Return the documents of what a folder holds."""
    return read_corpus(folder / inputs, **options).texts


def follow(tmp_path: Path, row: Row) -> None:
    """Check that a folder is refused, and that it is read after its remedy."""
    files, options, fault, mended, changed = row
    write(tmp_path / "first", files)
    with pytest.raises(TokkitError) as error:
        read(tmp_path / "first", **options)
    for part in fault.split("{}"):
        assert part in str(error.value)
    write(tmp_path / "second", mended or files)
    assert read(tmp_path / "second", **options | changed)
