r"""Reading documents from the rows of CSV and TSV files.

    id,text
    a1,"First, with a comma.
    Second, after a line end."

The first row names the columns, unless ``--text-column`` numbers them. A row of several fields that
repeats it, as where files were put together, is dropped. If the text is no column, the other usual
delimiters are tried; a first line ``sep=;`` names another. Quotes follow RFC 4180, strictly, and all
rows must have the same number of fields: where a stray quote would join rows, it is an error.
Python's parser is used, because pyarrow's takes ``"a" b`` for one field, and joins the rows between
two stray quotes.
"""

import csv
import io
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any, Self, TextIO

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.documents import EMPTY, ERRORS_OPTION, REPEATED_HEADER, DocumentBatch
from tokkit.corpus.file_systems import join_names, printable
from tokkit.corpus.records import JOINT, LONE_SURROGATE, Rows, as_name, may_replace
from tokkit.corpus.sources import TO_THE_END, Source
from tokkit.corpus.streams import ByteStream, open_stream
from tokkit.corpus.units import CorpusUnit
from tokkit.errors import TokkitError, UsageError, plural

_READ_BYTES = 1 << 20
_HEADER_BYTES = 1 << 14
_MAX_ROWS = 1 << 16
_LARGE_ROW = 1 << 20
_LARGEST_HEADER = 16 << 20
_MAX_FIELDS = 1 << 22
_QUOTED = re.compile(r'"[^"]*+"?')
_SEPARATOR_LINE = re.compile(r"""["']?sep=([^"'\r\n])["']?[\r\n]*""")  # as Excel writes it
_DELIMITERS = {"csv": ",;\t|", "tsv": "\t,;|"}  # the usual one first


@dataclass(frozen=True)
class _Columns:
    """The number of columns of a table, and the indices of those that are read."""

    width: int
    texts: list[int]
    header: list[str]  # none if columns are numbered
    id: int | None = None
    language: int | None = None


def read_csv(stream: ByteStream, config: CorpusConfig, batch_bytes: int) -> Iterator[DocumentBatch]:
    """Read the documents of a CSV or TSV file; they are named by their rows, from 0.

    Args:
        stream: the file's bytes.
        config: which columns hold text, id and language, and what to do about invalid UTF-8.
        batch_bytes: about how many bytes a batch has; one text may be longer.

    Raises:
        TokkitError: for a column that is missing, a row that does not fit, and invalid UTF-8 if
            ``--errors strict``.
    """
    source = stream.unit.source
    records, columns = _open_rows(stream, config, _READ_BYTES)
    rows = Rows()
    num_bytes = 0
    for number, (line, record) in enumerate(records):
        if not record:
            rows.dropped[EMPTY] += 1
            continue
        columns = columns or _number_columns(source, len(record), config)
        if len(record) != columns.width:
            raise TokkitError(
                f"{source.name}, line {line}: found {plural(len(record), 'field')}, expected "
                f"{columns.width}; correct the line, or see --no-quotes"
            )
        if len(record) > 1 and [record[0].lstrip("\ufeff"), *record[1:]] == columns.header:
            rows.dropped[REPEATED_HEADER] += 1
            continue
        texts = [record[column] for column in columns.texts]
        text = texts[0] if len(texts) == 1 else JOINT.join(filter(str.strip, texts))
        if not text.isascii() and LONE_SURROGATE.search(text):
            if not may_replace(config.errors, rows, partial(_invalid_utf8, source, line)):
                continue
            text = text.encode(errors="surrogateescape").decode(errors="replace")
            rows.replaced.append(len(rows.texts))
        rows.positions.append(number)
        rows.texts.append(text)
        rows.ids.append(None if columns.id is None else as_name(record[columns.id]))
        if columns.language is not None:
            rows.languages.append(as_name(record[columns.language]))
        num_bytes += len(text)
        if num_bytes >= batch_bytes or len(rows.texts) >= _MAX_ROWS:
            yield rows.make_batch(stream, config)
            rows, num_bytes = Rows(), 0
    yield rows.make_batch(stream, config)


class _RowLines:
    """The lines of a table, of which those of one row must not take too much memory.

    Args:
        file: of text.
        source: the file, for errors.
        config: the largest row.

    Attributes:
        delimiter: what separates the fields.
    """

    def __init__(self, file: TextIO, source: Source, config: CorpusConfig) -> None:
        self.delimiter = ""
        self._file = file
        self._source = source
        self._config = config
        self._line = 0
        self.begin_row()

    def begin_row(self) -> None:
        """Begin a row with the next line."""
        self._row = self._line + 1
        self._num_bytes = self._num_fields = 0

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str:
        limit = self._config.max_document_bytes
        if not (line := self._file.readline(limit + 1)):
            raise StopIteration
        is_continued = self._num_bytes > 0
        self._line += 1
        self._num_bytes += len(line if line.isascii() else line.encode(errors="surrogateescape"))
        if self._num_bytes > _LARGE_ROW:
            outside = _QUOTED.sub("", f'"{line}' if is_continued else line)
            self._num_fields += (outside if self._config.quotes else line).count(self.delimiter)
        fault = ""
        if self._num_bytes > limit:
            fault = f"more than {limit:,} bytes; raise --max-document-bytes"
        elif self.delimiter and self._num_fields > _MAX_FIELDS:
            fault = f"more than {_MAX_FIELDS:,} fields; shorten it"
        elif not self.delimiter and len(line) > _LARGEST_HEADER and not self._config.text_column:
            fault = f"more than {_LARGEST_HEADER:,} characters of names of columns; correct it"
        if fault:
            raise TokkitError(
                f"{self._source.name}, line {self._row}: the row has {fault}, or see --no-quotes if "
                f"a stray quote joins rows"
            )
        return line


def check_header(source: Source, config: CorpusConfig) -> None:
    """Refuse a table that lacks a column, before any other file is read."""
    stop = TO_THE_END if source.compression else source.bytes
    with open_stream(CorpusUnit(source, 0, stop, source.bytes), None) as stream:
        _open_rows(stream, config, _HEADER_BYTES)


def _open_rows(
    stream: ByteStream, config: CorpusConfig, buffer_bytes: int
) -> tuple[Iterator[tuple[int, list[str]]], _Columns | None]:
    """Return the rows after the header, and the columns; None if they are numbered."""
    file = io.TextIOWrapper(
        io.BufferedReader(stream, buffer_bytes),
        encoding="utf-8-sig",
        errors="surrogateescape",
        newline="",
    )
    source = stream.unit.source
    lines = _RowLines(file, source, config)
    first = next(lines, "")
    if separator := _SEPARATOR_LINE.fullmatch(first):
        first = next(lines, "")
    if not first:
        return iter(()), None
    dialect = _find_dialect(source, first, config)
    if separator:
        dialect["delimiter"] = separator[1]
    lines.delimiter = dialect["delimiter"]
    records = _read_records(source, first, lines, dialect, lines_before=int(bool(separator)))
    columns = None if config.text_column else _find_columns(source, next(records)[1], config)
    return records, columns


def _find_dialect(source: Source, first: str, config: CorpusConfig) -> dict[str, Any]:
    """Return how the rows are read: with the first delimiter by which the header has the text."""
    quoting = csv.QUOTE_MINIMAL if config.quotes else csv.QUOTE_NONE
    dialect: dict[str, Any] = {"quoting": quoting, "strict": True}
    usual = _DELIMITERS[source.format][0]
    for delimiter in "" if config.text_column else _DELIMITERS[source.format]:
        with suppress(csv.Error):
            names = next(csv.reader([first], delimiter=delimiter, **dialect), [])
            if set(config.text_field) <= {name.strip() for name in names}:
                return {"delimiter": delimiter, **dialect}
    return {"delimiter": usual, **dialect}


def _read_records(
    source: Source, first: str, lines: _RowLines, dialect: dict[str, Any], lines_before: int
) -> Iterator[tuple[int, list[str]]]:
    """Yield the line in which each row begins, and its fields, none for a blank line."""
    csv.field_size_limit(sys.maxsize)  # the rows have a limit
    reader = csv.reader(chain([first], lines), **dialect)
    while True:
        line = lines_before + reader.line_num + 1
        try:
            record = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise TokkitError(
                f"{source.name}, line {line}: {printable(str(error))}; write a quote within a quoted field twice, "
                f"or pass --no-quotes if quotes are text like any other"
            ) from error
        if source.format == "tsv" and any("\t" in text and "\n" in text for text in record):
            raise TokkitError(
                f"{source.name}, line {line}: a quoted field has tabs and line ends; pass "
                f"--no-quotes if quotes are text like any other, else --format csv"
            )
        lines.begin_row()
        yield line, record


def _find_columns(source: Source, header: list[str], config: CorpusConfig) -> _Columns:
    """Return the columns that are read, by their names."""
    names = [name.strip() for name in header]

    def find(name: str, option: str) -> int:
        if names.count(name) != 1:
            fault = f"no column {name!r}" if name not in names else f"several columns {name!r}"
            raise TokkitError(
                f"{source.name}: {fault}; {option} must name one of: {join_names(names)}; or pass --text-column "
                f"1 if the first row names none, or --format counts to train on counts of words"
            )
        return names.index(name)

    return _Columns(
        len(names),
        [find(name, "--text-field") for name in config.text_field],
        header,
        names.index(config.id_field) if names.count(config.id_field) == 1 else None,
        find(config.language_field, "--language-field") if config.language_field else None,
    )


def _number_columns(source: Source, width: int, config: CorpusConfig) -> _Columns:
    """Return the columns that are read, by their numbers."""
    if max(config.text_column) > width:
        raise TokkitError(
            f"{source.name}: {plural(width, 'column')}; --text-column must be at most {width}"
        )
    if config.language_field is not None:
        raise UsageError("--language-field requires a header, and with --text-column there is none")
    return _Columns(width, [number - 1 for number in config.text_column], [])


def _invalid_utf8(source: Source, line: int) -> TokkitError:
    return TokkitError(
        f"{source.name}, line {line}: invalid UTF-8; convert it to UTF-8, or {ERRORS_OPTION}"
    )
