r"""Reading documents from JSON lines: an object a line, with the text in one of its fields.

    {"id": "a1", "text": "First.\nSecond.", "lang": "en"}

A blank line is an empty document. Lines end as they do in plain text, because a JSON string has no
raw line end. Other fields are ignored; if a field occurs twice, the last one counts.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.documents import (
    EMPTY,
    ERRORS_OPTION,
    INVALID_UTF8,
    NO_TEXT,
    NOT_A_STRING,
    NULL_TEXT,
    DocumentBatch,
    add_counts,
    clean_texts,
    name_documents,
)
from tokkit.corpus.streams import ByteStream
from tokkit.corpus.text import FoundDocuments, find_in_stream
from tokkit.errors import TokkitError
from tokkit.shards.arrow import string_buffers

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_TYPES = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}


class _Number(str):
    """A number as it is written: an id keeps all its digits, even 5,000 of them."""

    __slots__ = ()


_DECODER = json.JSONDecoder(parse_int=_Number, parse_float=_Number)
_scan = _DECODER.scan_once  # type: ignore[attr-defined]  # missing in typeshed


@dataclass
class _Rows:
    """The records of a batch that have a text, and why the others were dropped.

    Attributes:
        positions: where each begins in the file.
        texts: not cleaned yet.
        ids: None for a record without one.
        languages: None for a record without one; empty if no field was named.
        replaced: rows in which U+FFFD replaces invalid UTF-8.
        dropped: records dropped, by reason.
    """

    positions: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)


def read_records(
    stream: ByteStream, config: CorpusConfig, batch_bytes: int
) -> Iterator[DocumentBatch]:
    """Read the documents of a unit of JSON lines.

    Args:
        stream: the unit's bytes.
        config: which fields hold text, id and language, and what to do about invalid UTF-8.
        batch_bytes: about how many bytes a batch has; one record may be longer.

    Raises:
        TokkitError: naming the line that is no JSON object, or the first invalid byte if
            ``--errors strict``.
    """
    for found in find_in_stream(stream, "line", batch_bytes):
        rows = _parse(found, config)
        values, offsets = string_buffers(pa.array(rows.texts, pa.large_string()))
        clean = clean_texts(values, offsets[:-1], offsets[1:])
        kept = pa.array(clean.kept)
        positions = np.array(rows.positions, dtype=np.int64)[clean.kept]
        ids = pa.array(rows.ids, pa.string()).take(kept)
        languages = None
        if config.language_field is not None:
            languages = pa.array(rows.languages, pa.string()).take(kept)
        yield DocumentBatch(
            clean.texts,
            name_documents(stream.unit.source.name, positions, ids),
            languages,
            dropped=add_counts(clean.dropped, rows.dropped, {EMPTY: found.num_empty}),
            replaced=int(np.isin(rows.replaced, clean.kept).sum()) if rows.replaced else 0,
            bytes_read=stream.take_progress(),
        )


def _parse(found: FoundDocuments, config: CorpusConfig) -> _Rows:
    """Parse the lines that were found."""
    rows = _Rows()
    text_field, id_field, language_field = config.text_field, config.id_field, config.language_field
    # A memory view, because its slices are no copies: a line of 200 MB is copied often enough.
    data = found.buffer.data
    bounds = zip(found.starts.tolist(), found.stops.tolist(), strict=True)
    for index, (start, stop) in enumerate(bounds):
        raw = data[start:stop]
        replaced = False
        try:
            line = str(raw, "utf-8")
        except UnicodeDecodeError as error:
            make_error = partial(found.invalid_utf8, index, error)
            replaced = _may_replace(config.errors, rows, make_error)
            if not replaced:
                continue
            line = str(raw, "utf-8", "replace")
        record = _load(line, found, index)
        text = record.get(text_field)
        if type(text) is not str:
            rows.dropped[_why_no_text(record, text_field)] += 1
            continue
        if "\\u" in line and _LONE_SURROGATE.search(text):
            replaced = _may_replace(config.errors, rows, partial(_lone_surrogate, found, index))
            if not replaced:
                continue
            text = _LONE_SURROGATE.sub("\ufffd", text)
        if replaced:
            rows.replaced.append(len(rows.texts))
        rows.positions.append(found.base + start)
        rows.texts.append(text)
        rows.ids.append(_string(record.get(id_field)))
        if language_field is not None:
            rows.languages.append(_string(record.get(language_field)))
    return rows


def _may_replace(errors: str, rows: _Rows, make_error: Callable[[], TokkitError]) -> bool:
    """Raise the error, count the record as dropped, or allow U+FFFD, as ``errors`` says."""
    if errors == "strict":
        raise make_error()
    rows.dropped[INVALID_UTF8] += errors == "skip"
    return errors == "replace"


def _load(line: str, found: FoundDocuments, index: int) -> dict[str, Any]:
    """Return the object that a line holds."""
    # The scanner alone takes half the time of JSONDecoder.decode, which is called if the line holds
    # anything but one object from its first character to its last.
    try:
        record, end = _scan(line, 0)
    except (StopIteration, ValueError, RecursionError):
        end = -1
    if end == len(line) and type(record) is dict:
        return record
    try:
        record = _DECODER.decode(line)
    except (ValueError, RecursionError) as error:
        fault = "broken JSON (nested too deeply)"
        if isinstance(error, json.JSONDecodeError):
            fault = f"broken JSON at column {error.colno} ({error.msg})"
    else:
        if isinstance(record, dict):
            return record
        fault = f"{_JSON_TYPES.get(type(record), 'a number')}, not an object"
    number = found.line_number(index)
    remedy = "correct or remove the line"
    if number == 1:
        remedy = "a line must hold one object; if this is plain text, pass --format text"
    raise TokkitError(f"{found.stream.unit.source.name}, line {number}: {fault}; {remedy}")


def _lone_surrogate(found: FoundDocuments, index: int) -> TokkitError:
    """Return the error for a text that an escape makes invalid."""
    return TokkitError(
        f"{found.stream.unit.source.name}, line {found.line_number(index)}: the text of the record "
        f"at byte {found.base + found.starts[index]} has a lone surrogate escape, which is invalid "
        f"Unicode; {ERRORS_OPTION}"
    )


def _why_no_text(record: dict[str, Any], text_field: str) -> str:
    """Return the reason for dropping a record without text."""
    if text_field not in record:
        return NO_TEXT
    return NULL_TEXT if record[text_field] is None else NOT_A_STRING


def _string(value: Any) -> str | None:
    """Return an id or a language, a string or a number; None if it is neither, or empty."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() else _LONE_SURROGATE.sub("\ufffd", value)
