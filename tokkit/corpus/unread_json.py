r"""What JSON without the text field holds, and how to make records of it.

{"text": {"0": "One.", "1": "Two."}}             as pandas writes a table
{"hits": {"hits": [{"_source": {"text": …}}]}}   jq -c '.hits.hits[]._source'
["One.", "Two."]                                 jq -c '.[] | {text: .}'
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tokkit.corpus.file_systems import join_names

_MAX_DEPTH = 4
_MAX_SHOWN = 12
_SEVERAL_OBJECTS = re.compile(r'\s*\{(?:[^{}"]|"(?:[^"\\]|\\.)*+")*+\}\s*\{')
_IDENTIFIER = re.compile(r"[A-Za-z_]\w*")
_TABLE = "a table as pandas writes it by default; save it by df.to_json(path, orient='records', lines=True)"


def advise_on_object(data: Mapping[str, Any], text_fields: Sequence[str]) -> str | None:
    """Return what the only object of a file is, and the remedy; None if it is a mere record.

    Args:
        data: the object, which has no text.
        text_fields: the fields that would hold it.
    """
    members = list(data.values())
    if isinstance(data.get("columns"), list) and isinstance(data.get("data"), list):
        return _TABLE
    is_nested = bool(members) and all(isinstance(member, dict) for member in members)
    if is_nested and not data.keys().isdisjoint(text_fields):
        return _TABLE
    if (path := _find_records(data, text_fields)) is not None:
        name = path.partition("[]")[0][1:]
        return (
            f"an object with an array of objects in {name!r}; if these are the records, pipe them "
            f"in, as in jq -c '{path}'"
        )
    if is_nested and any(not member.keys().isdisjoint(text_fields) for member in members):
        return "an object whose members are the records; pipe them in, as in jq -c '.[]'"
    for name, member in data.items():
        if isinstance(member, list) and member and all(isinstance(item, str) for item in member):
            return (
                f"an object with an array of strings in {name!r}; pass --text-field if they are the "
                f"sentences of a text, or pipe them in, as in jq -c '{_key(name)}[] | {{text: .}}'"
            )
    return None


def advise_on_values(line: str, value: object, text_field: str, *, in_array: bool) -> str | None:
    """Return the remedy for records that are strings, arrays, or several objects; else None.

    Args:
        line: the first of them.
        value: what it is; None if it is no JSON value.
        text_field: the field that would hold the text.
        in_array: whether they are in an array, and not each in a line.
    """
    if _SEVERAL_OBJECTS.match(line):
        return "write each object in a line of its own, as jq -c . does"
    if not isinstance(value, str | list):
        return None
    value_path = "." if isinstance(value, str) else ".[0]"
    name = text_field if _IDENTIFIER.fullmatch(text_field) else json.dumps(text_field)
    return f"pipe them in, as in jq -c '{'.[] | ' * in_array}{{{name}: {value_path}}}'"


def list_fields(record: Mapping[str, Any]) -> str:
    """Return the names of the fields of a record, those of objects within it too, for a message."""
    return join_names(_walk(record, ""), _MAX_SHOWN)


def _walk(record: Mapping[str, Any], prefix: str) -> Iterator[str]:
    for name, value in record.items():
        inner = value[0] if isinstance(value, list) and value else value
        if isinstance(inner, dict) and prefix.count(".") < _MAX_DEPTH:
            yield from _walk(inner, f"{prefix}{name}{'[]' * isinstance(value, list)}.")
        else:
            yield f"{prefix}{name}"


def _key(name: str) -> str:
    return f".{name}" if _IDENTIFIER.fullmatch(name) else f".{json.dumps(name)}"


def _find_records(
    data: Mapping[str, Any], text_fields: Sequence[str], depth: int = 0
) -> str | None:
    """Return the path of jq to the array of objects with a text, or else to the first of objects."""
    others = []
    for name, value in data.items():
        path = None
        if isinstance(value, dict) and depth < _MAX_DEPTH:
            path = _find_records(value, text_fields, depth + 1)
            path = None if path is None else f"{_key(name)}{path}"
        elif isinstance(value, list) and (rows := [row for row in value if isinstance(row, dict)]):
            inner = [
                key
                for key, member in rows[0].items()
                if isinstance(member, dict) and not member.keys().isdisjoint(text_fields)
            ]
            path = f"{_key(name)}[]{_key(inner[0]) if inner else ''}"
            if inner or not rows[0].keys().isdisjoint(text_fields):
                return path
        if path is not None:
            others.append(path)
    return others[0] if others else None
