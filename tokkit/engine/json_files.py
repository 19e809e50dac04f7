"""JSON files: written atomically, and read by a schema.

A schema is a type that msgspec decodes: a dataclass, a ``TypedDict``, ``dict[str, Any]`` and so on.
Whatever else a file holds is refused in one line: other JSON types, missing keys, numbers out of
range, NaN, surrogates, and nesting that no schema has.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

import msgspec

from tokkit.engine.files import read_whole, write_atomically
from tokkit.errors import TokkitError, wrap_os_errors

RECREATE = "recreate the folder"
_ROWS_AT_ONCE = 1000

# A size, a number of rows or tokens, a step.
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
# A size of a model.
Size = Annotated[int, msgspec.Meta(ge=1)]
# The value of an option, as configs have it.
_Scalar = str | int | float | bool | None
_Part = _Scalar | list[_Scalar] | dict[str, _Scalar | list[_Scalar]]
_Option = _Scalar | list[_Part] | dict[str, _Scalar]

T = TypeVar("T")


class FileRow(TypedDict):
    """A file that was read or written.

    Attributes:
        name: of an input, or within its folder.
        bytes: its size.
        sha256: of its content, in hexadecimal.
        rows: number of rows, of a shard.
        tokens: number of tokens, of a shard.
        batches: rows and tokens of each record batch, of a shard.
    """

    name: str
    bytes: Count
    sha256: str
    rows: NotRequired[Count]
    tokens: NotRequired[Count]
    batches: NotRequired[list[tuple[Count, Count]]]


def input_row(row: FileRow) -> FileRow:
    """Return the row of a shard as that of an input."""
    return FileRow(name=row["name"], bytes=row["bytes"], sha256=row["sha256"])


class KnownOptions(TypedDict, total=False):
    """The options of a stage that readers of its folder look at."""

    architecture: str | None
    documents: str
    dupe_factor: Count
    init_from: str | None
    mask_draw: str | None
    mask_ratios: tuple[float, float, float]
    masking: str
    max_predictions_per_seq: Count | None
    max_seq_length: Count
    model: str
    objective: str
    precision: str
    preset: str | None
    sentences: str
    short_seq_prob: float


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of other types than configs have.

    Raises:
        msgspec.ValidationError: naming the option.
    """
    msgspec.convert(options, dict[str, _Option])
    msgspec.convert(options, KnownOptions)


def canonical_json(data: Any) -> bytes:
    """Return a JSON value in the form of which keys and fingerprints are made."""
    return _encode(json.dumps(data, sort_keys=True, separators=(",", ":"), ensure_ascii=False))


def write_json(path: Path, data: Any) -> None:
    """Write an indented JSON file atomically."""
    content = _encode(json.dumps(data, indent=2, ensure_ascii=False) + "\n")
    with write_atomically(path) as file:
        file.write(content)


def write_record(path: Path, data: Mapping[str, Any]) -> None:
    """Write an object as an indented JSON file, atomically, with a line for each file in it.

    Such lines take a sixth of the time of indented ones. They are written a few at a time, since the
    text of 100,000 takes 100 MB.
    """
    with write_atomically(path) as file:
        for piece in _format_record(data):
            file.write(_encode(piece))


def _format_record(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the text of a record."""

    def dump(value: Any, *, indent: int | None = None) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=False)

    start = "{\n"
    for name, value in data.items():
        yield f"{start}  {dump(name)}: "
        start = ",\n"
        if name in ("inputs", "shards") and value:
            for first in range(0, len(value), _ROWS_AT_ONCE):
                rows = value[first : first + _ROWS_AT_ONCE]
                yield ("," if first else "[") + ",".join(f"\n    {dump(row)}" for row in rows)
            yield "\n  ]"
        else:
            yield dump(value, indent=2).replace("\n", "\n  ")
    yield "\n}\n"


def _encode(text: str) -> bytes:
    """Return UTF-8.

    Raises:
        TokkitError: a path or an option in the JSON is other bytes.
    """
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        start = text.rfind('"', 0, error.start)
        shown = text[start : text.find('"', error.start) + 1]
        raise TokkitError(f"{shown}: is not valid UTF-8; give it another name") from error


def read_json(path: Path, schema: type[T], remedy: str = RECREATE) -> T:
    """Read a JSON file.

    Raises:
        TokkitError: if it cannot be read, or is not what the schema says.
    """
    return parse_json(read_bytes(path, remedy), schema, path, remedy)


def read_bytes(path: Path, remedy: str = RECREATE) -> bytes:
    """Return the content of a file.

    Raises:
        TokkitError: if it cannot be read, or is no regular file.
    """
    with wrap_os_errors(path):
        path.stat()  # raises if it is missing
        if not (path.is_file() or path.is_dir()):
            raise TokkitError(f"{path}: is not a regular file; {remedy}")
        return read_whole(path)


def parse_json(
    data: bytes | msgspec.Raw, schema: type[T], where: object, remedy: str = RECREATE
) -> T:
    """Parse JSON.

    Raises:
        TokkitError: if it is not what the schema says.
    """
    try:
        return msgspec.json.decode(data, type=schema)
    except (ValueError, RecursionError) as error:
        raise TokkitError(f"{where}: damaged, or of another format ({error}); {remedy}") from error
