"""Parquet and Arrow files: opening them, and cutting them into units.

A text column holds strings or binary values in any of Arrow's layouts, including dictionaries, or
lists of them. It may be a field of a struct. Files are not memory-mapped, because a mapped file
that another process truncates kills the reader with a bus error, where a read returns an error.

The sizes of a Parquet file's pages are read before pyarrow asks for their memory. A page is unpacked as a whole, and holds whole values. So a file of a kilobyte can hold a text of a
gigabyte, or a dictionary with a long text that 65,536 rows repeat. Where pages are, the footer says;
how large they are, their headers do:

    footer         …4 row groups: 1 columns: 3 metadata: 3 path, 6 and 7 sizes, 9 and 11 places…
    page header    1 type, 2 size unpacked, 3 size packed, …

The numbers are those of fields in Thrift's compact protocol: before each is a byte with its type and
the step from the number of the field before (https://parquet.apache.org/docs/file-format/metadata/,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). pyarrow's own
objects for columns end the process if the statistics of a damaged file have another size.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tokkit.corpus.file_systems import changed_error, first_line, open_files, printable
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
def open_arrow(source: Source, columns: list[int] | None = None) -> Iterator[Any]:
    """Open an Arrow IPC file or stream.

    Args:
        source: the file.
        columns: indices of the columns to read; None for all.

    Yields:
        A ``RecordBatchFileReader``, which has ``get_batch``, or a ``RecordBatchStreamReader``.
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
        yield table


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
    with open_arrow(source) as table:
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
        there = printable(", ".join(names)) or "none"
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
        name: name of a column; if there is no such, dots part those of nested fields.
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


_HEADER_BYTES = 1 << 12
_MAX_HEADER_BYTES = 16 << 20  # as pyarrow
_FOOTER_END = 8  # bytes: its length and the magic
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY = 1, 2, 3, (4, 5, 6), 7, 8
_LISTS, _STRUCT = (9, 10), 12
_DICTIONARY_PAGE, _SHARED_PREFIXES = 2, 7
_ENCODINGS = ((5, 2), (8, 4))  # where both versions of a data page have theirs


@dataclass(frozen=True)
class ColumnChunk:
    """Where a column of a row group is.

    Attributes:
        path: names from the column to a leaf, joined by dots.
        start: where its first page begins.
        stop: where its last page ends.
        unpacked: bytes of all pages, by the footer.
    """

    path: str
    start: int
    stop: int
    unpacked: int


def read_column_chunks(file: Any) -> list[list[ColumnChunk]]:
    """Return the columns of each row group.

    Args:
        file: a ``pyarrow.NativeFile``, whose footer pyarrow could read.

    Raises:
        ValueError: the footer is damaged.
    """
    end = file.size() - _FOOTER_END
    length = int.from_bytes(file.read_at(4, end), "little")
    try:
        footer, _ = _read_struct(file.read_at(length, end - length), 0)
        return [[_place(column[3]) for column in group[1]] for group in footer[4]]
    except (KeyError, IndexError, TypeError, RecursionError) as error:
        raise ValueError("a damaged footer") from error


def _place(metadata: dict[int, Any]) -> ColumnChunk:
    start = metadata[9]
    if metadata.get(11, 0) > 0:
        start = min(start, metadata[11])
    path = b".".join(metadata[3]).decode()
    return ColumnChunk(path, start, start + metadata[7], metadata[6])


def read_page_sizes(file: Any, column: ColumnChunk) -> Iterator[tuple[int, bool]]:
    """Yield the size of each page of a column, unpacked, and whether it repeats values.

    Values are repeated by indices into a dictionary, which is a page of its own, or by the length
    of what a value shares with the one before.

    Raises:
        ValueError: there are no pages.
    """
    start = column.start
    while start < column.stop:
        size = _HEADER_BYTES
        while True:
            data = file.read_at(min(size, column.stop - start), start)
            try:
                fields, length = _read_struct(data, 0)
                encodings = [fields.get(place, {}).get(number) for place, number in _ENCODINGS]
                break
            except IndexError:
                if len(data) == column.stop - start:
                    return  # old writers do not count all bytes of the first page
                if len(data) < size or size >= _MAX_HEADER_BYTES:
                    raise ValueError("a page without a header") from None
                size *= 16
            except (AttributeError, RecursionError) as error:
                raise ValueError("a damaged header of a page") from error
        unpacked, packed = fields.get(2), fields.get(3)
        if not (
            isinstance(unpacked, int) and isinstance(packed, int) and min(unpacked, packed) >= 0
        ):
            raise ValueError("a page without its size")
        yield unpacked, fields.get(1) == _DICTIONARY_PAGE or _SHARED_PREFIXES in encodings
        start += length + packed


def _read_struct(data: bytes, place: int) -> tuple[dict[int, Any], int]:
    """Return the values of a struct by the number of their field, and where it ends.

    Raises:
        IndexError: it does not end in the data.
    """
    fields: dict[int, Any] = {}
    number = 0
    while kind := data[place] & 15:
        step = data[place] >> 4
        place += 1
        if step:
            number += step
        else:
            number, place = _read_integer(data, place)
        if kind in (_TRUE, _FALSE):
            fields[number] = kind == _TRUE
        else:
            fields[number], place = _read_value(data, place, kind)
    return fields, place + 1


def _read_value(data: bytes, place: int, kind: int) -> tuple[Any, int]:
    """Return a value, None for those that nobody needs, and where it ends."""
    if kind in _INTEGERS:
        return _read_integer(data, place)
    if kind == _STRUCT:
        return _read_struct(data, place)
    if kind == _BINARY:
        size, place = _read_varint(data, place)
        data[place + size - 1]
        return data[place : place + size], place + size
    if kind in _LISTS:
        size, kind = data[place] >> 4, data[place] & 15
        place += 1
        if size == 15:
            size, place = _read_varint(data, place)
        values = []
        for _ in range(size):
            value, place = _read_value(data, place, kind)
            values.append(value)
        return values, place
    if kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):
        return None, place + (8 if kind == _DOUBLE else 1)
    raise ValueError(f"a field of the unknown type {kind}")


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    """Return a number of seven bits a byte, lowest first, and where it ends."""
    value = shift = 0
    while data[place] & 128:
        value |= (data[place] & 127) << shift
        shift += 7
        place += 1
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
    return value | data[place] << shift, place + 1


def _read_integer(data: bytes, place: int) -> tuple[int, int]:
    """Return an integer, whose sign is its lowest bit, and where it ends."""
    value, place = _read_varint(data, place)
    return (value >> 1) ^ -(value & 1), place
