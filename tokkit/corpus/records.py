r"""Reading documents from JSON: an object for each, with the text in one of its fields.

    {"id": "a1", "text": "First.\nSecond.", "meta": {"lang": "en"}}

In JSON lines, each line is an object; a blank line is an empty document. Lines end as they do in
plain text, because a JSON string has no raw line end. Other JSON, an array of objects or objects of
several lines, becomes such lines as it is read: line ends and what is between the records are
written over, byte by byte, so that positions stay.

    [                                              {"text": "a"}
      {"text": "a"},                  becomes      {"text":   "b"}
      {"text":
         "b"}]

A name with dots is that of a field, or else leads into nested objects: ``meta.lang``. Other fields
are ignored; if a field occurs twice, the last one counts.
"""

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
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
    TOO_LONG,
    DocumentBatch,
    add_counts,
    clean_texts,
    name_documents,
)
from tokkit.corpus.streams import ByteStream
from tokkit.corpus.text import FoundDocuments, find_in_stream
from tokkit.corpus.unread_json import advise_on_object, advise_on_values, list_fields
from tokkit.errors import TokkitError
from tokkit.shards.arrow import string_buffers

log = logging.getLogger(__name__)

# Between the texts of several fields of a record.
JOINT = "\n\n"

LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_JSON_TYPES = {list: "an array", str: "a string", bool: "true or false", type(None): "null"}


class _Number(str):
    """A number as it is written: an id keeps all its digits, even 5,000 of them."""

    __slots__ = ()


_STRUCTURE = re.compile(rb'["\[\]{},\r\n]')
_STRING_END = re.compile(rb'["\\]')
_LINE_END = re.compile(r"\r\n?|\n")
# What is between strings becomes objects of up to 100 bytes each.
_LARGE_RECORD = 1 << 20
_MAX_VALUES = 1 << 22
_MAX_NAME_BYTES = 1 << 12
_STRINGS = re.compile(r'"(?:[^"\\]|\\.)*+"', re.DOTALL)
_ABSENT = object()
_IN_LINES = "a list of strings"
_SPACE, _LF = b" \n"

_DECODER = json.JSONDecoder(parse_int=_Number, parse_float=_Number)
_scan = _DECODER.scan_once  # type: ignore[attr-defined]  # missing in typeshed


@dataclass
class Rows:
    """The records of a batch that have a text, and why the others were dropped.

    Attributes:
        positions: where each begins in the file, or its number.
        texts: not cleaned yet.
        ids: None for a record without one.
        languages: None for a record without one.
        replaced: rows in which U+FFFD replaces invalid UTF-8.
        dropped: records dropped, by reason.
        in_lines: whether the texts are lists of strings, a line for each.
        fields: those of the first record of the file, if it has no text.
    """

    positions: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    ids: list[str | None] = field(default_factory=list)
    languages: list[str | None] = field(default_factory=list)
    replaced: list[int] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    in_lines: bool = False
    fields: str = ""

    def make_batch(self, stream: ByteStream, config: CorpusConfig) -> DocumentBatch:
        """Return the documents of the records."""
        values, offsets = string_buffers(pa.array(self.texts, pa.large_string()))
        self.texts.clear()
        clean = clean_texts(values, offsets[:-1], offsets[1:])
        kept = pa.array(clean.kept)
        positions = np.array(self.positions, dtype=np.int64)[clean.kept]
        ids = pa.array(self.ids, pa.string()).take(kept)
        languages = None
        if config.language_field is not None:
            languages = pa.array(self.languages, pa.string()).take(kept)
        return DocumentBatch(
            clean.texts,
            name_documents(stream.unit.source.name, positions, ids),
            languages,
            dropped=add_counts(clean.dropped, self.dropped),
            replaced=int(np.isin(self.replaced, clean.kept).sum()) if self.replaced else 0,
            bytes_read=stream.take_progress(),
            in_lines=self.in_lines,
        )


def read_records(
    stream: ByteStream, config: CorpusConfig, batch_bytes: int
) -> Iterator[DocumentBatch]:
    """Read the documents of a unit of JSON.

    Args:
        stream: the unit's bytes.
        config: which fields hold text, id and language, and what to do about invalid UTF-8.
        batch_bytes: about how many bytes a batch has; one record may be longer.

    Raises:
        TokkitError: naming the record that is no JSON object, or the first invalid byte if
            ``--errors strict``.
    """
    source = stream.unit.source
    if source.format == "json":
        stream.transform = _RecordLines(source.name, source.type.records_start, config.text_field)
    for found in find_in_stream(stream, config, "line", batch_bytes):
        for rows in _parse(found, config):
            if rows.fields and not rows.positions:
                log.warning(
                    "%s: none of the first records has a text in the field %s; see --text-field, "
                    "which may name these: %s",
                    *(source.name, " or ".join(config.text_field), rows.fields),
                )
            yield rows.make_batch(stream, config)


class _RecordLines:
    """Makes a line of each record of a JSON document, piece by piece and in place.

    Args:
        name: of the document.
        start: the byte after the bracket that opens the array of the records; 0 if there is none.
        text_fields: which none but the records may have.
    """

    def __init__(self, name: str, start: int, text_fields: Sequence[str]) -> None:
        self._name = name
        names = (re.escape(json.dumps(each)).encode() for each in text_fields)
        self._text_field = re.compile(rb"(%b)\s*:" % b"|".join(names))
        self._in_array = start > 0
        self._start = start  # bytes before the records
        self._has_escape = False  # whether the next byte is escaped
        self._in_string = False
        self._outside = b""  # the last bytes outside of the array
        self._is_member = False  # whether the array is a member of an object
        self._is_done = False
        self._depth = 0

    def __call__(self, view: memoryview, is_last: bool) -> None:  # noqa: FBT001  as it is called
        data = bytes(view)
        begin = min(self._start, len(data))
        self._start -= begin
        self._is_member |= b"{" in data[:begin]
        view[:begin] = b" " * begin
        done = 0 if self._is_done else len(data)
        at = begin + self._has_escape
        self._has_escape = False
        while match := (_STRING_END if self._in_string else _STRUCTURE).search(data, at):
            at = match.end()
            if match[0] == b"\\":
                at += 1
                self._has_escape = at > len(data)
            elif match[0] == b'"':
                self._in_string = not self._in_string
            elif (written := self._replace(match[0])) is not None:
                view[at - 1] = written
                done = min(done, at) if self._is_done else done
        if self._is_member:
            view[done:] = b" " * (len(data) - done)
            outside = self._outside + data[:begin] + data[done:]
            self._outside = outside[-_MAX_NAME_BYTES:]
            if found := self._text_field.search(outside):
                raise TokkitError(
                    f"{self._name}: an object with {found[1].decode()} and an array of objects; if "
                    f"the object is the record, write it in one line, as jq -c does, and pass "
                    f"--format jsonl"
                )
        if is_last and self._in_array and not self._is_done:
            raise TokkitError(f"{self._name}: the JSON array does not end; the file is truncated")

    def _replace(self, character: bytes) -> int | None:
        """Return what is written over a character outside of strings, or None."""
        if character in b"\r\n":
            return _SPACE if self._in_array or self._depth else None
        if character in b"[{":
            if self._is_done and self._is_member:
                raise TokkitError(
                    f"{self._name}: an object with more than one array or object; pipe the records "
                    f"of one in, as in jq -c '.data[]', or pass --format jsonl if a line is a record"
                )
            self._depth += 1
        elif character == b",":
            return _LF if self._in_array and not self._depth and not self._is_done else None
        elif self._depth:
            self._depth -= 1
        elif self._in_array and not self._is_done:
            self._is_done = True
            return _SPACE
        return None


def _parse(found: FoundDocuments, config: CorpusConfig) -> Iterator[Rows]:
    """Parse the lines that were found; rows are all lists of strings, or none of them."""
    rows = Rows(dropped=Counter({EMPTY: found.num_empty, TOO_LONG: found.num_too_long}))
    id_field, language_field = config.id_field, config.language_field
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
            replaced = may_replace(config.errors, rows, make_error)
            if not replaced:
                continue
            line = str(raw, "utf-8", "replace")
        record = _load(line, found, index, config.text_field[0])
        text, reason = _find_text(record, config.text_field)
        if text is None:
            rows.fields = _describe_first(record, found, index, config) or rows.fields
            rows.dropped[reason] += 1
            continue
        if "\\u" in line and LONE_SURROGATE.search(text):
            replaced = may_replace(config.errors, rows, partial(_lone_surrogate, found, index))
            if not replaced:
                continue
            text = LONE_SURROGATE.sub("\ufffd", text)
        if rows.in_lines != (reason == _IN_LINES):
            yield rows
            rows = Rows(in_lines=reason == _IN_LINES)
        if replaced:
            rows.replaced.append(len(rows.texts))
        rows.positions.append(found.base + start)
        rows.texts.append(text)
        rows.ids.append(as_name(_look_up(record, id_field)))
        if language_field is not None:
            rows.languages.append(as_name(_look_up(record, language_field)))
    line, record, text = "", {}, None  # 200 MB of text would stay in memory twice more
    yield rows


def _describe_first(
    record: dict[str, Any], found: FoundDocuments, index: int, config: CorpusConfig
) -> str:
    """Return the fields of a file's first record; refuse an only one that has the records in it."""
    source = found.stream.unit.source
    if found.base + found.starts[index]:
        return ""
    is_only = found.stops[index] >= source.bytes - len("\r\n") and not source.compression
    if is_only and not source.type.records_start:
        advice = advise_on_object(record, config.text_field)
        if advice is not None:
            raise TokkitError(f"{source.name}: {advice}")
    return list_fields(record)


def may_replace(errors: str, rows: Rows, make_error: Callable[[], TokkitError]) -> bool:
    """Raise the error, count the record as dropped, or allow U+FFFD, as ``errors`` says."""
    if errors == "strict":
        raise make_error()
    rows.dropped[INVALID_UTF8] += errors == "skip"
    return errors == "replace"


def _load(line: str, found: FoundDocuments, index: int, text_field: str) -> dict[str, Any]:
    """Return the object that a line holds."""
    if len(line) > _LARGE_RECORD:
        structure = _STRINGS.sub("", line)
        if structure.count(",") + structure.count("[") + structure.count("{") > _MAX_VALUES:
            raise TokkitError(
                f"{found.stream.unit.source.name}, {_part(found)} {found.line_number(index)}: more "
                f"than {_MAX_VALUES:,} values in one record; write several records"
            )
    # The scanner alone takes half the time of JSONDecoder.decode, which is called if the line holds
    # anything but one object from its first character to its last.
    try:
        record, end = _scan(line, 0)
    except (StopIteration, ValueError, RecursionError):
        end = -1
    if end == len(line) and type(record) is dict:
        return record
    record = None
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
    what = _part(found)
    remedy = f"correct or remove the {what}"
    if number == 1:
        is_json = found.stream.unit.source.format == "json"
        advice = advise_on_values(line, record, text_field, in_array=is_json)
        remedy = advice or f"a {what} must be one object"
    raise TokkitError(
        f"{found.stream.unit.source.name}, {what} {number}: {fault}; {remedy}, or pass --format text "
        f"if this is plain text"
    )


def _part(found: FoundDocuments) -> str:
    """Return what a record is in its file: a line of JSON lines, else a record."""
    return "line" if found.stream.unit.source.format == "jsonl" else "record"


def _lone_surrogate(found: FoundDocuments, index: int) -> TokkitError:
    """Return the error for a text that an escape makes invalid."""
    return TokkitError(
        f"{found.stream.unit.source.name}, {_part(found)} {found.line_number(index)}: the text at "
        f"byte {found.base + found.starts[index]} has a lone surrogate escape, which is invalid "
        f"Unicode; {ERRORS_OPTION}"
    )


def _look_up(record: dict[str, Any], name: str) -> Any:
    """Return the value of a field; ``_ABSENT`` if there is none."""
    if name in record:
        return record[name]
    field, dot, rest = name.partition(".")
    inner = record.get(field) if dot else None
    return _look_up(inner, rest) if isinstance(inner, dict) else _ABSENT


def _find_text(record: dict[str, Any], names: Sequence[str]) -> tuple[str | None, str]:
    """Return the text of a record, and ``_IN_LINES`` if it is a list of strings; or None, and why.

    A list of strings is a text with a line for each; line ends within them become spaces.
    """
    texts = []
    note = NO_TEXT
    for name in names:
        value = _look_up(record, name)
        if type(value) is str:
            texts.append(value)
        elif isinstance(value, list) and all(type(item) in (str, type(None)) for item in value):
            texts.append("\n".join(_LINE_END.sub(" ", item or "") for item in value))
            note = _IN_LINES
        elif value is not None and value is not _ABSENT:
            return None, NOT_A_STRING
        elif value is None and note == NO_TEXT:
            note = NULL_TEXT
    if len(texts) > 1:
        texts = [JOINT.join(text for text in texts if text.strip())]
    return (texts[0] if texts else None), note


def as_name(value: Any) -> str | None:
    """Return an id or a language, a string or a number; None if it is neither, or empty."""
    if not isinstance(value, str) or not value:
        return None
    return value if value.isascii() else LONE_SURROGATE.sub("\ufffd", value)
