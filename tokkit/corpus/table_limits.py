"""Refuses pieces of tables that take too much memory, before pyarrow asks for it.

pyarrow reads a record batch, or a page of Parquet, as a whole. So a file of a kilobyte can hold a text
of a gigabyte, or a dictionary with a long text that 65,536 rows repeat. How much a record batch
unpacks to is in the file, see ``shards/claims.py``. Where pages are, the footer of a Parquet file
says; how large they are, their headers do:

    footer         …4 row groups: 1 columns: 3 metadata: 3 path, 6 and 7 sizes, 9 and 11 places…
    page header    1 type, 2 size unpacked, 3 size packed, …

The numbers are those of fields in Thrift's compact protocol: before each is a byte with its type and
the step from the number of the field before (https://parquet.apache.org/docs/file-format/metadata/,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). pyarrow's own
objects for columns end the process if the statistics of a damaged file have another size.
"""

import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa

from tokkit.corpus.file_systems import open_files
from tokkit.corpus.sources import Source
from tokkit.corpus.table_files import is_arrow_file
from tokkit.corpus.units import CorpusUnit
from tokkit.errors import TokkitError
from tokkit.shards.claims import (
    DICTIONARIES,
    RECORD_BATCHES,
    Message,
    find_messages,
    measure_message,
    read_footer,
    read_message,
)

MAX_PIECE_BYTES = 512_000_000  # unpacked; pyarrow writes pages of 1,024 values, however long

_HEADER_BYTES = 1 << 12
_MAX_HEADER_BYTES = 16 << 20  # as pyarrow
_FOOTER_END = 8  # bytes: its length and the magic
_TRUE, _FALSE, _BYTE, _INTEGERS, _DOUBLE, _BINARY = 1, 2, 3, (4, 5, 6), 7, 8
_LISTS, _STRUCT = (9, 10), 12
_DICTIONARY_PAGE, _SHARED_PREFIXES = 2, 7
_ENCODINGS = ((5, 2), (8, 4))  # where both versions of a data page have theirs


def read_batches(
    table: Any,
    file: Any,
    unit: CorpusUnit,
    types: list[pa.DataType],
    columns: list[int],
    *,
    max_document_bytes: int,
) -> Iterator[pa.RecordBatch]:
    """Yield the record batches of a unit, each checked with the dictionaries before it.

    On a store, a check reads what the record batch's reader then finds in the buffer of the file.

    Args:
        table: from ``open_arrow``, of the columns.
        file: of the table.
        unit: which record batches; all of a stream.
        types: of all columns.
        columns: indices of those that are read.
        max_document_bytes: size of the largest document.

    Raises:
        TokkitError: a record batch or a dictionary is too large.
        ValueError: the metadata are damaged.
    """
    max_bytes = max(MAX_PIECE_BYTES, max_document_bytes)

    def check(message: Message, part: str) -> None:
        size = measure_message(file, message, types, columns)
        _require_size(unit.source, part, size, max_bytes, "record batches, such as 1,000 rows each")

    if is_arrow_file(table):
        with _wrap_damage("footer"):
            footer = read_footer(file)
            for message in find_messages(footer, DICTIONARIES):
                check(message, "a dictionary")
            messages = find_messages(footer, RECORD_BATCHES)
        for index in range(unit.start, unit.stop):
            with _wrap_damage("footer"):
                check(messages[index], f"record batch {index}")
            yield table.get_batch(index)
        return
    first = stop = file.tell()  # after the schema
    while True:
        with _wrap_damage("message"):
            while (found := read_message(file, stop)) is not None:
                check(found, f"the message at byte {stop}")
                stop = found.stop
                if found.has_rows:
                    break
        file.seek(first)
        first = stop
        if (rows := next(table, None)) is None:
            return
        yield rows


def check_pages(unit: CorpusUnit, names: Sequence[str], max_bytes: int) -> int:
    """Refuse pages that need too much memory; return how long a value may be that is repeated.

    A page is unpacked as a whole, and its values are copied.

    Args:
        unit: a run of row groups.
        names: of the columns that are read, joined by dots.
        max_bytes: size of the largest page.

    Raises:
        TokkitError: a page is larger.
        ValueError: there are no pages where the footer says.
    """
    source, longest = unit.source, 0
    prefixes = tuple(f"{name}." for name in names)
    groups = _find_columns(source)[unit.start : unit.stop]
    with open_files(source.uri).open(source.path) as file:
        for index, columns in enumerate(groups, unit.start):
            for column in columns:
                if not f"{column.path}.".startswith(prefixes):
                    continue
                pages = _read_page_sizes(file, column)
                # Elsewhere each header is a request, so of small columns only the first is read.
                if source.uri is not None and column.unpacked <= max_bytes:
                    pages = islice(pages, 1)
                for size, repeats in pages:
                    part = f"row group {index}, a page"
                    _require_size(source, part, size, max_bytes, "pages")
                    longest = max(longest, size * repeats)
    return longest


def _require_size(source: Source, part: str, size: int, max_bytes: int, pieces: str) -> None:
    if size > max_bytes:
        raise TokkitError(
            f"{source.name}, {part}: {size:,} bytes, which are read as a whole; pass "
            f"--max-document-bytes {size}, or write it with smaller {pieces}"
        )


@contextmanager
def _wrap_damage(part: str) -> Iterator[None]:
    """Turn the errors of a reader that finds nonsense into a ``ValueError``."""
    try:
        yield
    except (struct.error, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"a damaged {part}") from error


class _ColumnChunk(NamedTuple):
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


@lru_cache(maxsize=1)
def _find_columns(source: Source) -> list[list[_ColumnChunk]]:
    """Return the columns of a Parquet file's row groups, none of those without rows.

    Units of one file follow each other.
    """
    with open_files(source.uri).open(source.path) as file, _wrap_damage("footer"):
        end = file.size() - _FOOTER_END
        length = int.from_bytes(file.read_at(4, end), "little")
        footer = _ThriftReader(file.read_at(length, end - length)).read_struct()
        groups = []
        for group in footer[4]:
            columns = []
            for metadata in [column[3] for column in group[1]] if group[3] else []:
                start, dictionary = metadata[9], metadata.get(11, 0)
                start = min(start, dictionary) if dictionary > 0 else start
                path = b".".join(metadata[3]).decode()
                columns.append(_ColumnChunk(path, start, start + metadata[7], metadata[6]))
            groups.append(columns)
        return groups


def _read_page_sizes(file: Any, column: _ColumnChunk) -> Iterator[tuple[int, bool]]:
    """Yield the size of each page of a column, unpacked, and whether it repeats values.

    Values are repeated by indices into a dictionary, which is a page of its own, or by the length
    of what a value shares with the one before.

    Raises:
        ValueError: there are no pages.
    """
    start, size = column.start, _HEADER_BYTES
    while start < column.stop:
        data = file.read_at(min(size, column.stop - start), start)
        reader = _ThriftReader(data)
        with _wrap_damage("header of a page"):
            try:
                fields = reader.read_struct()
            except IndexError:
                if len(data) == column.stop - start:
                    return  # old writers do not count all bytes of the first page
                if len(data) < size or size >= _MAX_HEADER_BYTES:
                    raise ValueError("a page without a header") from None
                size *= 16
                continue
            encodings = [fields.get(place, {}).get(number) for place, number in _ENCODINGS]
        unpacked, packed = fields.get(2), fields.get(3)
        if not (
            isinstance(unpacked, int) and isinstance(packed, int) and min(unpacked, packed) >= 0
        ):
            raise ValueError("a page without its size")
        yield unpacked, fields.get(1) == _DICTIONARY_PAGE or _SHARED_PREFIXES in encodings
        start, size = start + reader.place + packed, _HEADER_BYTES


class _ThriftReader:
    """Reads values in Thrift's compact protocol; raises an IndexError where the data end before them.

    Attributes:
        place: the byte after the last value.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.place = 0

    def read_struct(self) -> dict[int, Any]:
        """Return the values of a struct by the number of their field."""
        fields: dict[int, Any] = {}
        number = 0
        while (head := self._read_byte()) & 15:
            step, kind = head >> 4, head & 15
            number = number + step if step else self._read_integer()
            is_bool = kind in (_TRUE, _FALSE)  # whose value is in the type
            fields[number] = kind == _TRUE if is_bool else self._read_value(kind)
        return fields

    def _read_value(self, kind: int) -> Any:
        """Return a value; None for those that nobody needs."""
        if kind in _INTEGERS:
            return self._read_integer()
        if kind == _STRUCT:
            return self.read_struct()
        if kind == _BINARY:
            return self._read_bytes(self._read_varint())
        if kind in _LISTS:
            head = self._read_byte()
            size = head >> 4 if head >> 4 < 15 else self._read_varint()
            if size > len(self._data):  # each item takes a byte at least
                raise IndexError
            return [self._read_value(head & 15) for _ in range(size)]
        if kind in (_TRUE, _FALSE, _BYTE, _DOUBLE):
            self._read_bytes(8 if kind == _DOUBLE else 1)
            return None
        raise ValueError(f"a field of the unknown type {kind}")

    def _read_integer(self) -> int:
        """Return an integer, whose sign is its lowest bit."""
        value = self._read_varint()
        return (value >> 1) ^ -(value & 1)

    def _read_varint(self) -> int:
        """Return a number of seven bits a byte, lowest first."""
        value = shift = 0
        while shift < 70:
            byte = self._data[self.place]  # not _read_byte, which takes twice as long
            self.place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7
        raise ValueError("a number of more than 64 bits")

    def _read_bytes(self, size: int) -> bytes:
        data = self._data[self.place : self.place + size]
        if len(data) < size:
            raise IndexError
        self.place += size
        return data

    def _read_byte(self) -> int:
        self.place += 1
        return self._data[self.place - 1]
