"""Reading documents from the rows of Parquet and Arrow files.

Rows are read a few megabytes at a time, and only in the columns that are needed. Strings are
checked like any other bytes: a file may declare a column UTF-8 and hold something else, and offsets
that run backwards must not reach a kernel.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.documents import (
    ERRORS_OPTION,
    NULL_TEXT,
    TOO_LONG,
    DocumentBatch,
    add_counts,
    clean_texts,
    empty_batch,
    name_documents,
    too_long_error,
)
from tokkit.corpus.records import JOINT
from tokkit.corpus.streams import require_unchanged
from tokkit.corpus.table_files import (
    ColumnPath,
    column_path,
    find_column,
    find_texts,
    is_list_of_strings,
    is_string,
    open_arrow,
    open_parquet,
    wrap_arrow_errors,
)
from tokkit.corpus.table_limits import MAX_PIECE_BYTES, check_pages, read_batches
from tokkit.corpus.units import CorpusUnit
from tokkit.errors import TokkitError
from tokkit.kernels.arrays import Int64
from tokkit.shards.arrow import string_buffers

# Fixed, and not the caller's batch_bytes, so that a unit has one digest.
_READ_BYTES = 8 << 20
_MAX_ROWS = 1 << 16
_MAX_DECODED_BYTES = 1 << 30  # of a batch of rows, whose values a dictionary has only once


@dataclass(frozen=True)
class _Piece:
    """Rows that were read together.

    Attributes:
        rows: the columns that were asked for.
        name: of the table in which the rows are numbered: the file, or a record batch of it.
        first: number of the first row there.
        share: how much of the unit is read with these rows, from 0 to 1.
    """

    rows: pa.RecordBatch
    name: str
    first: int
    share: float


def read_rows(
    unit: CorpusUnit, config: CorpusConfig, digest: "hashlib._Hash | None", batch_bytes: int
) -> Iterator[DocumentBatch]:
    """Read the documents of a unit of a Parquet or Arrow file.

    Args:
        unit: a run of row groups or record batches.
        config: which columns hold text, id and language, and what to do about invalid UTF-8.
        digest: updated with the strings of these columns and their lengths.
        batch_bytes: about how many bytes a batch has; one text may be longer.

    Raises:
        TokkitError: for a file that is damaged or has changed, a column that is missing or holds no
            strings, and invalid UTF-8 if ``--errors strict``.
    """
    read_pieces = _read_parquet if unit.source.format == "parquet" else _read_arrow
    reported = 0
    for piece in read_pieces(unit, config):
        with wrap_arrow_errors(unit.source):
            columns = [_column(piece.rows, name) for name in config.text_field]
            in_lines = any(is_list_of_strings(column.type) for column in columns)
            texts = _join_columns([*map(_unchecked_strings, columns)])
            ids = _ids(piece.rows, config.id_field)
            languages = None
            if config.language_field is not None:
                languages = _checked_strings(_column(piece.rows, config.language_field))
        if digest is not None:
            for column in (texts, ids, languages):
                if column is not None:
                    _update(digest, column)
        progress = int(unit.size * piece.share) - reported
        reported += progress
        values, offsets = string_buffers(texts)
        is_valid = texts.is_valid().to_numpy(zero_copy_only=False)
        fits = ~is_valid | (np.diff(offsets) <= config.max_document_bytes)
        rows = np.flatnonzero(is_valid & fits)
        if not fits.all() and config.errors != "skip":
            row = piece.first + int(fits.argmin())
            raise too_long_error(f"{piece.name}, row {row}: the text", config)
        starts, stops = offsets[:-1][rows], offsets[1:][rows]
        cuts = np.flatnonzero(np.diff(np.cumsum(stops - starts) // batch_bytes)) + 1
        dropped = {NULL_TEXT: texts.null_count, TOO_LONG: int((~fits).sum())}
        for start, stop in pairwise([0, *cuts.tolist(), rows.size]):
            batch_rows = rows[start:stop]
            make_error = partial(_invalid_row, piece, batch_rows)
            clean = clean_texts(
                values, starts[start:stop], stops[start:stop], config.errors, make_error
            )
            kept = batch_rows[clean.kept]
            kept_ids = None if ids is None else ids.take(pa.array(kept))
            yield DocumentBatch(
                clean.texts,
                name_documents(piece.name, piece.first + kept, kept_ids),
                None if languages is None else languages.take(pa.array(kept)),
                dropped=add_counts(clean.dropped, dropped),
                replaced=clean.replaced,
                bytes_read=progress if stop == rows.size else 0,
                in_lines=in_lines,
            )
            dropped = {}
    if reported < unit.size:
        yield empty_batch({}, unit.size - reported)


def _read_parquet(unit: CorpusUnit, config: CorpusConfig) -> Iterator[_Piece]:
    """Read a run of row groups; rows are numbered through the file."""
    source = unit.source
    with open_parquet(source) as table, wrap_arrow_errors(source, unit.part):
        require_unchanged(source)
        columns = [".".join(path) for path in _choose_columns(unit, table.schema_arrow, config)]
        groups = [table.metadata.row_group(index) for index in range(unit.stop)]
        max_bytes = max(MAX_PIECE_BYTES, 2 * config.max_document_bytes)
        longest = check_pages(unit, columns, max_bytes)
        first = sum(group.num_rows for group in groups[: unit.start])
        total = sum(group.num_rows for group in groups[unit.start :])
        num_bytes = sum(group.total_byte_size for group in groups[unit.start :])
        fitting = _READ_BYTES * total // max(1, num_bytes)
        done = 0
        for rows in table.iter_batches(
            max(1, min(fitting, _MAX_ROWS, max_bytes // max(1, longest))),
            row_groups=list(range(unit.start, unit.stop)),
            columns=columns,
            use_threads=False,  # or Ctrl-C waits for their requests to a store
        ):
            done += rows.num_rows
            yield _Piece(rows, source.name, first, done / total)
            first += rows.num_rows


def _read_arrow(unit: CorpusUnit, config: CorpusConfig) -> Iterator[_Piece]:
    """Read a run of record batches; rows are numbered within each, as in ``x.arrow:3:17``."""
    source = unit.source
    with open_arrow(source) as (table, _):
        require_unchanged(source)
        schema = table.schema
        paths = _choose_columns(unit, schema, config)
        columns = sorted({schema.names.index(path[0]) for path in paths})
    total = max(0, unit.stop - unit.start)  # not known of a stream
    with open_arrow(source, columns) as (table, file), wrap_arrow_errors(source, unit.part):
        limit = config.max_document_bytes
        batches = read_batches(table, file, unit, schema.types, columns, max_document_bytes=limit)
        for done, rows in enumerate(batches):
            share = (done + 1) / total if total else 0.0
            yield _Piece(rows, f"{source.name}:{unit.start + done}", 0, share)


def _choose_columns(unit: CorpusUnit, schema: pa.Schema, config: CorpusConfig) -> list[ColumnPath]:
    """Return the columns to read: the texts, the id if there is one, the language if asked for."""
    chosen = find_texts(unit.source, schema, config.text_field)
    if (path := column_path(schema, config.id_field)) is not None and schema.names.count(
        path[0]
    ) == 1:
        chosen.append(path)
    if config.language_field is not None:
        option = "--language-field"
        chosen.append(find_column(unit.source, schema, config.language_field, option))
    return chosen


def _column(rows: pa.RecordBatch, name: str) -> pa.Array:
    """Return a column, or a field of a struct, null where the struct is."""
    first, *others = column_path(rows.schema, name) or (name,)
    column = rows.column(first)
    for part in others:
        column.validate()
        column = column.flatten()[column.type.get_field_index(part)]
    return column


def _unchecked_strings(column: pa.Array) -> pa.LargeStringArray:
    """Return a text column as large_string, its offsets checked, but not its UTF-8."""
    binary_type = _binary_type(column.type)
    if binary_type != column.type:
        column = column.view(binary_type)
    column.validate(full=True)
    binary = pa.large_binary()
    if not is_list_of_strings(column.type):
        return _decode(column).cast(binary).view(pa.large_string())
    lists = column.cast(pa.large_list(binary))
    nothing, line_end = pa.scalar(b"", binary), pa.scalar(b"\n", binary)
    lines = pc.fill_null(pc.replace_substring_regex(lists.values, r"\r\n?|\n", " "), nothing)
    texts = pc.binary_join(pa.LargeListArray.from_arrays(lists.offsets, lines), line_end)
    return pc.if_else(lists.is_valid(), texts, pa.scalar(None, binary)).view(pa.large_string())


def _binary_type(column_type: pa.DataType) -> pa.DataType:
    """Return the type of the same bytes, of which Arrow does not expect that they are UTF-8."""
    if pa.types.is_string(column_type):
        return pa.binary()
    if pa.types.is_large_string(column_type):
        return pa.large_binary()
    if pa.types.is_list(column_type):
        return pa.list_(_binary_type(column_type.value_type))
    if pa.types.is_large_list(column_type):
        return pa.large_list(_binary_type(column_type.value_type))
    return column_type


def _join_columns(columns: list[pa.LargeStringArray]) -> pa.LargeStringArray:
    """Return the texts of rows with several, without blank ones; null if all are null."""
    if len(columns) == 1:
        return columns[0]
    nothing, joint = (pa.scalar(text, pa.large_string()) for text in (None, JOINT))
    blank = [pc.equal(pc.ascii_trim_whitespace(column), "") for column in columns]
    joined, *others = map(pc.if_else, blank, [nothing] * len(columns), columns)
    for other in others:  # skipping nulls in one call loses rows, pyarrow 26
        joined = pc.coalesce(pc.binary_join_element_wise(joined, other, joint), joined, other)
    return pc.coalesce(joined, *columns)


def _checked_strings(column: pa.Array) -> pa.StringArray:
    """Return a column of strings or numbers as string, its UTF-8 checked."""
    column.validate(full=True)
    return _decode(column).cast(pa.string())


def _decode(column: pa.Array) -> pa.Array:
    """Return the values of a dictionary as a plain column; pyarrow 26 cannot if they are views."""
    if not pa.types.is_dictionary(column.type):
        return column
    values = column.dictionary.cast(pa.large_binary())
    num_bytes = pc.sum(pc.binary_length(values).take(column.indices)).as_py() or 0
    if num_bytes > _MAX_DECODED_BYTES:
        raise pa.ArrowInvalid(f"a batch of rows that repeats values to {num_bytes:,} bytes")
    return values.take(column.indices)


def _ids(rows: pa.RecordBatch, id_field: str) -> pa.StringArray | None:
    """Return the rows' own ids, null if missing or empty; None without a column of ids."""
    if column_path(rows.schema, id_field) is None:
        return None
    column = _column(rows, id_field)
    is_number = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    if not is_number and not is_string(column.type):
        return None
    ids = _checked_strings(column)
    return pc.if_else(pc.equal(ids, ""), pa.scalar(None, pa.string()), ids)


def _update(digest: "hashlib._Hash", column: pa.Array) -> None:
    """Add the strings of a column and their lengths to a digest; the length of null is -1."""
    values, offsets = string_buffers(column.cast(pa.large_string()))
    lengths: Int64 = np.where(column.is_valid(), np.diff(offsets), -1)
    digest.update(lengths.astype("<i8").tobytes())
    digest.update(values[offsets[0] : offsets[-1]].data)


def _invalid_row(piece: _Piece, rows: Int64, number: int, error: UnicodeDecodeError) -> TokkitError:
    return TokkitError(
        f"{piece.name}, row {piece.first + rows[number]}: invalid UTF-8 at byte {error.start} of "
        f"the text; {ERRORS_OPTION}"
    )
