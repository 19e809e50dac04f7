"""The state of an output folder: a statement of its stage, and a receipt for each finished unit.

    .tokkit/stage.json       {"key": "9f…", "kind": "tokens", "options": {…}, …, "checksum": 29…}
    .tokkit/done/3c….json    {"stamp": 17…, "name": "shard-0000000.arrow", "bytes": 812, …, "checksum": 41…}

The statement is written before anything else, and by one process alone: any other command is refused
by it. A receipt is named for its unit's content key and written after the unit's file, so that no
file has two writers, whatever machines they are on; two that do the same unit write the same. A
receipt that has changed is ignored, so its unit is done again.

Receipts remain after the manifest is written: they have the time stamps of the inputs, which the
manifest leaves out so that it is the same on every machine.
"""

import json
import zlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NotRequired, TypedDict, TypeVar

import msgspec

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import read_file, read_files, write_atomically
from tokkit.engine.json_files import Count, canonical_json, check_options
from tokkit.engine.mirrors import STATE_FOLDER
from tokkit.errors import TokkitError, wrap_os_errors

STATEMENT = "stage.json"
DONE_FOLDER = "done"

R = TypeVar("R")


class StageMetadata(TypedDict):
    """What the content keys of a stage and its units have in common."""

    format_version: int
    kind: str
    options: dict[str, Any]
    seed: int | None
    tokenizer_fingerprint: str | None


class Statement(StageMetadata):
    """What determines the content of a folder."""

    key: str


class Receipt(TypedDict):
    """What is known of a finished unit; see ``UnitResult``."""

    input: str
    input_sha256: list[str]
    stamp: int | list[int]
    name: str
    bytes: Count
    sha256: str
    rows: Count
    tokens: Count
    accounts: dict[str, Any]
    batches: NotRequired[list[tuple[Count, Count]]]
    notes: NotRequired[dict[str, Any]]
    stream: NotRequired[str]  # the content key of the unit that it is a part of


def read_statement(folder: Path) -> Statement | None:
    """Return the statement of a folder; None if it is missing or damaged."""
    return _parse(read_file(folder / STATE_FOLDER / STATEMENT), Statement)


def write_statement(folder: Path, statement: Statement, *, only_new: bool) -> None:
    """Write the statement of a folder.

    Args:
        folder: has its state folder.
        statement: what the folder will contain.
        only_new: leave a statement that is there already.
    """
    _write(folder / STATE_FOLDER / STATEMENT, statement, only_new=only_new)


def read_receipts(folder: Path, keys: Iterable[str] | None = None) -> dict[str, Receipt]:
    """Return the receipts of a folder by the content keys of their units.

    Args:
        folder: the output folder.
        keys: those of a few units; None lists all receipts, which is quicker than to ask for each.
    """
    names = None if keys is None else (f"{key}.json" for key in keys)
    return {
        name.removesuffix(".json"): receipt
        for name, data in read_files(folder / STATE_FOLDER / DONE_FOLDER, names)
        if name.endswith(".json") and (receipt := _parse(data, Receipt)) is not None
    }


def write_receipt(folder: Path, key: str, receipt: Receipt) -> None:
    """Record that a unit is done; survives a crash from when this returns."""
    path = folder / STATE_FOLDER / DONE_FOLDER / f"{key}.json"
    with wrap_os_errors(path):
        path.parent.mkdir(exist_ok=True)
    _write(path, receipt)


def convert_notes(notes: object, schema: type[R]) -> R:
    """Return the notes of a receipt as what the stage writes.

    Raises:
        TokkitError: if they are something else.
    """
    try:
        return msgspec.convert(notes, schema)
    except msgspec.ValidationError as error:
        raise TokkitError(
            f"{STATE_FOLDER}/{DONE_FOLDER}: a receipt is damaged ({error}); pass --overwrite to do the "
            f"work again"
        ) from error


def _write(path: Path, record: Mapping[str, Any], *, only_new: bool = False) -> None:
    with write_atomically(path, only_new=only_new) as file:
        file.write(seal(record))


def seal(record: Mapping[str, Any]) -> bytes:
    """Return the content of a record's file: JSON with a checksum."""
    whole = {**record, "checksum": _checksum(record)}
    return json.dumps(whole, ensure_ascii=False).encode() + b"\n"


def _checksum(record: Mapping[str, Any]) -> int:
    return zlib.crc32(canonical_json(record))


def _parse(data: bytes | None, schema: type[R]) -> R | None:
    """Return a record without its checksum; None if it is missing or damaged."""
    if data is None:
        return None
    with suppress(ValueError, RecursionError):
        record = msgspec.json.decode(data, type=dict[str, Any])
        if record.pop("checksum", None) == _checksum(record):
            parsed = msgspec.convert(record, schema)
            if "options" in record:  # a statement; there are 100,000 receipts
                check_options(record["options"])
            Accounts.from_dict(record.get("accounts", {}))
            return parsed
    return None
