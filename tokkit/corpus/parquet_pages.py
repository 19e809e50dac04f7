"""The sizes of a Parquet file's pages, read before pyarrow asks for their memory.

A page is unpacked as a whole, and holds whole values. So a file of a kilobyte can hold a text of a
gigabyte, or a dictionary with a long text that 65,536 rows repeat. Where pages are, the footer says;
how large they are, their headers do:

    footer         …4 row groups: 1 columns: 3 metadata: 3 path, 6 and 7 sizes, 9 and 11 places…
    page header    1 type, 2 size unpacked, 3 size packed, …

The numbers are those of fields in Thrift's compact protocol: before each is a byte with its type and
the step from the number of the field before (https://parquet.apache.org/docs/file-format/metadata/,
https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md). pyarrow's own
objects for columns end the process if the statistics of a damaged file have another size.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

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
