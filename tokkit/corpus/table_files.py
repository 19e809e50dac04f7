"""Parquet and Arrow files: opening them, and cutting them into units.

A text column holds strings or binary values in any of Arrow's layouts, including dictionaries, or
lists of them. It may be a field of a struct. Files are not memory-mapped, because a mapped file
that another process truncates kills the reader with a bus error, where a read returns an error.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokkit.corpus.file_systems import changed_error, first_line, join_names, open_files
from tokkit.corpus.sources import TO_THE_END, Source
from tokkit.errors import TokkitError

_ARROW_FILE_MAGIC = b"ARROW1"
_FEATHER_V1_MAGIC = b"FEA1"
_STRING_TYPES = ("string", "binary", "null")
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"

# Names that lead to a column: its own, then those of the nested fields.
ColumnPath = tuple[str, ...]


@contextmanager
def wrap_arrow_errors(source: Source, part: str = "") -> Iterator[None]:
    """Turn pyarrow's errors inside into a ``TokkitError`` that names the file.

    Args:
        source: the file.
        part: which part of it, such as ``, row groups 0 to 8``.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        raise TokkitError(
            f"{source.name}{part}: invalid {source.format.capitalize()} data "
            f"({first_line(error)}); it is damaged, truncated, or not what its name says"
        ) from error


@contextmanager
def open_parquet(source: Source) -> Iterator[pq.ParquetFile]:
    """Open a Parquet file and read its footer."""
    with open_files(source.uri).open(source.path) as file:
        if file.size() != source.bytes:
            raise changed_error(source.name)
        with wrap_arrow_errors(source):
            table = pq.ParquetFile(file)
        yield table


@contextmanager
def open_arrow(source: Source, columns: list[int] | None = None) -> Iterator[tuple[Any, Any]]:
    """Open an Arrow IPC file or stream.

    Args:
        source: the file.
        columns: indices of the columns to read; None for all.

    Yields:
        A ``RecordBatchFileReader``, which has ``get_batch``, or a ``RecordBatchStreamReader``; and
        the file.
    """
    options = pa.ipc.IpcReadOptions(included_fields=columns, use_threads=False)
    with open_files(source.uri).open(source.path) as file:
        if file.size() != source.bytes:
            raise changed_error(source.name)
        with wrap_arrow_errors(source):
            magic = file.read(len(_ARROW_FILE_MAGIC))
            file.seek(0)
            if magic.startswith(_FEATHER_V1_MAGIC):
                raise TokkitError(
                    f"{source.name}: Feather version 1; convert it to version 2, which is Arrow"
                )
            if magic == _ARROW_FILE_MAGIC:
                table = pa.ipc.open_file(file, options=options)
            else:
                _require_end_of_stream(file)
                table = pa.ipc.open_stream(file, options=options)
        yield table, file


def _require_end_of_stream(file: Any) -> None:
    """Refuse a stream without its end mark: truncated between two batches, it would seem whole.

    Raises:
        ArrowInvalid: for ``wrap_arrow_errors``.
    """
    file.seek(max(0, file.size() - len(_END_OF_STREAM)))
    if file.read() != _END_OF_STREAM:
        raise pa.ArrowInvalid("neither the magic bytes of a file nor the end mark of a stream")
    file.seek(0)


def is_arrow_file(table: Any) -> bool:
    """Whether an opened table can be read from any record batch on."""
    return isinstance(table, pa.ipc.RecordBatchFileReader)


def plan_parquet(
    source: Source, text_fields: Sequence[str], unit_bytes: int
) -> tuple[list[int], list[int]]:
    """Cut a Parquet file into runs of row groups with about ``unit_bytes`` each, uncompressed.

    The bytes are those of all columns. Asking for those of one column ends the process if a damaged
    file has histograms of the wrong size, by an exception that pyarrow 26 does not catch.

    Returns:
        Bounds of the runs, and the uncompressed bytes of each.
    """
    with open_parquet(source) as table:
        find_texts(source, table.schema_arrow, text_fields)
        metadata = table.metadata
        bounds = [0]
        weights = []
        weight = 0
        for index in range(metadata.num_row_groups):
            weight += metadata.row_group(index).total_byte_size
            if weight >= unit_bytes or index == metadata.num_row_groups - 1:
                bounds.append(index + 1)
                weights.append(weight)
                weight = 0
    return (bounds, weights) if weights else ([0, 0], [0])


def plan_arrow(
    source: Source, text_fields: Sequence[str], unit_bytes: int
) -> tuple[list[int], list[int]]:
    """Cut an Arrow file into even runs of record batches with about ``unit_bytes`` each.

    All batches count the same, because only reading all data would tell their sizes. A stream is
    one unit.

    Returns:
        Bounds of the runs, and how many batches each has.
    """
    with open_arrow(source) as (table, _):
        find_texts(source, table.schema, text_fields)
        if not is_arrow_file(table):
            return [0, TO_THE_END], [1]
        num_batches = table.num_record_batches
    num_units = max(1, min(num_batches, round(source.bytes / unit_bytes)))
    bounds = [num_batches * index // num_units for index in range(num_units + 1)]
    return bounds, [stop - start for start, stop in pairwise(bounds)]


def find_texts(source: Source, schema: pa.Schema, names: Sequence[str]) -> list[ColumnPath]:
    """Return the paths of the columns that hold the text; see ``find_column``."""
    return [find_column(source, schema, name, "--text-field", lists=True) for name in names]


def find_column(
    source: Source, schema: pa.Schema, name: str, option: str, *, lists: bool = False
) -> ColumnPath:
    """Return the path of the column of this name, which must hold strings.

    Args:
        source: the file.
        schema: its columns.
        name: name of a column, or of a field of a struct, such as ``meta.text``.
        option: the option that named it.
        lists: whether it may hold lists of strings.

    Raises:
        TokkitError: naming the columns of the table, or the type of this one.
    """
    with wrap_arrow_errors(source):
        names = schema.names
    path = column_path(schema, name)
    if path is None or names.count(path[0]) != 1:
        fault = (
            f"no column {name!r}" if path is None else f"{names.count(path[0])} columns {name!r}"
        )
        there = join_names(names) or "none"
        raise TokkitError(f"{source.name}: {fault}; {option} must name one of: {there}")
    found = schema
    for part in path:
        found = (schema if found is schema else found.type).field(part)
    is_right = is_string(found.type) or (lists and is_list_of_strings(found.type))
    if not is_right:
        raise TokkitError(
            f"{source.name}: column {name!r} holds {found.type}, not strings; name another with "
            f"{option}"
        )
    return path


def column_path(fields: Any, name: str) -> ColumnPath | None:
    """Return the names from a column to a field of a struct in it; None if there is none.

    Args:
        fields: a schema, or the type of a struct.
        name: name of a column; if no column has it, dots separate the names of nested fields.
    """
    if name in [field.name for field in fields]:
        return (name,)
    head, dot, rest = name.partition(".")
    inner = next((field.type for field in fields if dot and field.name == head), None)
    if inner is None or not pa.types.is_struct(inner):
        return None
    path = column_path(inner, rest)
    return None if path is None else (head, *path)


def is_string(column_type: pa.DataType) -> bool:
    """Whether a column type is a string, binary or null, in one of Arrow's layouts."""
    if pa.types.is_dictionary(column_type):
        return is_string(column_type.value_type)
    return str(column_type).removeprefix("large_").removesuffix("_view") in _STRING_TYPES


def is_list_of_strings(column_type: pa.DataType) -> bool:
    """Whether a column type is a list of strings; not a view, which pyarrow 26 converts wrongly."""
    name = str(column_type).partition("<")[0]
    return name.endswith("list") and is_string(column_type.value_type)
