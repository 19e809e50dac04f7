"""Changes one folder of tokkit at random, the way damage, other programs or strangers would.

``damage`` changes bytes of a file, or which files there are. ``rewrite`` changes what shards hold
and makes their sizes, hashes, rows and tokens agree again with the manifest, as a stranger's own
program would write them.
"""

import hashlib
import json
import os
import random
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from faultyfolders import edit_manifest
from malformedjson import VALUES, WHOLE, change_value
from malformedrecipes import change_recipe

from tokkit.engine.json_files import canonical_json
from tokkit.engine.manifest import MANIFEST

Rng = random.Random
NUMBERS = (
    *(0, 1, -1, 2, 7, 127, 128, -128, 255, 1 << 15, 1 << 16, 1 << 31, -(1 << 31), 1 << 32),
    *(1 << 40, (1 << 63) - 1, -(1 << 63)),
)


def mutate(folder: Path, rng: Rng, others: list[Path]) -> tuple[str, bool]:
    """Change a folder, or a file.

    Args:
        folder: is changed.
        rng: source of all draws.
        others: sound folders, whose files may replace those of this one.

    Returns:
        What was done, and whether the manifest agrees with it.
    """
    shards = sorted(folder.glob("*.arrow"))
    if shards and (folder / MANIFEST).is_file() and rng.random() < 0.6:
        return rewrite(folder, shards, rng), True
    return damage(folder, rng, others), False


def damage(folder: Path, rng: Rng, others: list[Path]) -> str:
    """Change the bytes of a file, replace or remove it; return what was done.

    Some keep their time of change, as files do that a disk damages.
    """
    files = _files(folder)
    path = rng.choice(files)
    status = path.stat()
    more = {
        ".json": [change_json] * 12,
        ".jsonl": [change_json] * 12,
        ".toml": [change_recipe] * 30,
    }
    done = rng.choice([*_FILE_CHANGES, *more.get(path.suffix, ())])(path, rng)
    if not done:
        other = rng.choice(_files(rng.choice(others)))
        shutil.copyfile(other, path)
        done = f"replaced by {other.name}"
    if rng.random() < 0.5 and path.is_file() and not path.is_symlink():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    return f"{path.name}: {done}"


def _files(folder: Path) -> list[Path]:
    if folder.is_file():
        return [folder]
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "lock")


def flip_bytes(path: Path, rng: Rng) -> str:
    """Replace a few bytes."""
    data = bytearray(path.read_bytes())
    places = [_place(len(data), rng) for _ in range(rng.choice((1, 1, 1, 2, 8)))]
    for place in places if data else ():
        data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, data[place] ^ (1 << rng.randrange(8))))
    path.write_bytes(data)
    return f"bytes {places}"


def _place(size: int, rng: Rng) -> int:
    """Return a place in a file; half of them are near its ends, where its structure is."""
    if size > 2048 and rng.random() < 0.6:
        return rng.choice((rng.randrange(2048), size - 1 - rng.randrange(1500)))
    return rng.randrange(max(1, size))


def write_number(path: Path, rng: Rng) -> str:
    """Replace eight, four or two bytes at a multiple of that by a number that is a limit."""
    data = bytearray(path.read_bytes())
    width = rng.choice((8, 4, 2))
    number = rng.choice(NUMBERS) % (1 << 8 * width)
    place = _place(len(data), rng) // width * width
    data[place : place + width] = number.to_bytes(width, "little")
    path.write_bytes(data)
    return f"{width} bytes at {place} are {number}"


def cut(path: Path, rng: Rng) -> str:
    """Leave out the end, the middle, or everything."""
    data = path.read_bytes()
    start, stop = sorted((_place(len(data), rng), _place(len(data), rng)))
    kind = rng.choice(("end", "middle", "all"))
    path.write_bytes({"end": data[:start], "middle": data[:start] + data[stop:], "all": b""}[kind])
    return f"without its {kind}, {start} to {stop}"


def insert(path: Path, rng: Rng) -> str:
    """Repeat a part, or add noise or zeros."""
    data = path.read_bytes()
    start, size = _place(len(data), rng), rng.choice((1, 3, 8, 64, 5000))
    added = rng.choice((data[start : start + size], rng.randbytes(size), bytes(size)))
    path.write_bytes(data[:start] + added + data[start:])
    return f"{len(added)} bytes more at {start}"


def remove(path: Path, rng: Rng) -> str:
    """Remove the file, or leave something else of its name."""
    path.unlink()
    kind = rng.choice(("nothing", "folder", "link"))
    if kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(rng.choice((path.name, "/dev/zero", "missing", "..")))
    return f"{kind} in its place"


def replace(path: Path, rng: Rng) -> str:
    """Leave it to the caller, who knows other files."""
    del path, rng
    return ""


def change_json(path: Path, rng: Rng) -> str:
    """Change a value in an object; in a statement or receipt, with a checksum that agrees."""
    try:
        text = path.read_text()
        if path.suffix != ".jsonl" and rng.random() >= 0.95:
            path.write_bytes(changed := rng.choice(WHOLE))
            return f"is now {changed[:20_000]!r}"
        lines = text.splitlines(keepends=True) if path.suffix == ".jsonl" else [text]
        number = rng.randrange(len(lines))
        line = json.loads(lines[number])
        checksum = line.pop("checksum", None) if isinstance(line, dict) else None
        changed = change_value(line, rng)
        if checksum is not None:
            line = json.loads(changed)
            changed = json.dumps({**line, "checksum": zlib.crc32(canonical_json(line))}).encode()
    except (ValueError, RecursionError, OSError):
        return flip_bytes(path, rng)
    texts = [text.encode() for text in lines]
    texts[number] = changed + b"\n"
    path.write_bytes(b"".join(texts))
    return f"line {number} is now {changed[:20_000]!r}"


_FILE_CHANGES: tuple[Callable[[Path, Rng], str], ...] = (
    *(flip_bytes, flip_bytes, write_number, write_number),
    *(cut, insert, remove, replace),
)


def rewrite(folder: Path, shards: list[Path], rng: Rng) -> str:
    """Change shards so that everything agrees with the manifest; return what was done."""
    path = rng.choice(shards)
    if rng.random() < 0.4:
        done = rng.choice((flip_bytes, write_number, write_number))(path, rng)
        agree(folder, [path])
        return f"{path.name}: {done}, and the hash agrees"
    chosen = shards if rng.random() < 0.4 else [path]
    change = rng.choice(_SHARD_CHANGES)
    seed = rng.random()
    counts = {}
    compression = rng.choice((None, None, None, "zstd", "lz4"))
    for each in chosen:
        schema, batches, done = change(*_read(each), random.Random(seed))  # noqa: S311
        _write(each, schema, batches, compression)
        counts[each.name] = _count(batches)
    agree(folder, chosen)
    if rng.random() < 0.8:
        _change_rows(folder, counts)
    return f"{', '.join(shard.name for shard in chosen)}: {done}"


Batches = list[pa.RecordBatch]
Changed = tuple[pa.Schema, Batches, str]


def _read(path: Path) -> tuple[pa.Schema, Batches]:
    reader = pa.ipc.open_file(path.read_bytes())
    return reader.schema, [reader.get_batch(i) for i in range(reader.num_record_batches)]


def _write(path: Path, schema: pa.Schema, batches: Batches, compression: str | None) -> None:
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.OSFile(str(path), "w") as sink, pa.ipc.new_file(sink, schema, options=options) as out:
        for batch in batches:
            out.write(batch)


def agree(folder: Path, shards: list[Path]) -> None:
    """Give the manifest the sizes and hashes of shards."""
    facts = {}
    for path in shards:
        data = path.read_bytes()
        facts[path.name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    _change_rows(folder, facts)


def _change_rows(folder: Path, facts: dict[str, dict[str, Any]]) -> None:
    def change(manifest: Any) -> None:
        for row in manifest["shards"]:
            row.update(facts.get(row["name"], {}))

    edit_manifest(folder, change)


def _count(batches: Batches) -> dict[str, Any]:
    """Return the rows and tokens of record batches, as far as they have any."""
    tokens = 0
    for batch in batches:
        column = batch.column("input_ids") if "input_ids" in batch.schema.names else pa.array([])
        if pa.types.is_large_list(column.type) and len(column):
            offsets = column.offsets
            tokens += max(0, offsets[-1].as_py() - offsets[0].as_py())
    return {"rows": sum(map(len, batches)), "tokens": tokens}


def change_header(schema: pa.Schema, batches: Batches, rng: Rng) -> Changed:
    """Change one key of the header."""
    metadata = dict(schema.metadata)
    key = rng.choice([*metadata])
    text = rng.choice((*VALUES, *map(str, NUMBERS), "tokens", "instances", "31", "33", "121", "64"))
    metadata[key] = text.encode()[:100_000]
    if rng.random() < 0.1:
        del metadata[key]
    schema = schema.with_metadata(metadata)
    return (
        schema,
        [batch.replace_schema_metadata(metadata) for batch in batches],
        (f"{key.decode()} is {text[:50]}"),
    )


def change_value_of_column(schema: pa.Schema, batches: Batches, rng: Rng) -> Changed:
    """Change a value of a column, or an offset, without a check of any library."""
    index, place = rng.randrange(len(batches)), rng.randrange(len(schema))
    column = batches[index].column(place)
    buffers = [buffer and bytearray(buffer.to_pybytes()) for buffer in column.buffers()]
    number = rng.choice([i for i, buffer in enumerate(buffers) if buffer])
    data = buffers[number]
    assert data is not None
    is_offsets = number == 1 and len(buffers) > 2
    width = (
        4 if schema[place].name == "document" and is_offsets and column.type == pa.string() else 8
    )
    if not is_offsets:
        width = rng.choice((1, 2, 4, 8))
    at = rng.randrange(max(1, len(data) // width)) * width
    value = rng.choice((*NUMBERS, *range(40), *range(0, 400, 7)))
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")[: len(data) - at]
    made = [buffer and pa.py_buffer(bytes(buffer)) for buffer in buffers]
    return (
        schema,
        _with_column(batches, index, place, _from_buffers(column.type, len(column), made), schema),
        f"batch {index}, {schema[place].name}, buffer {number}: {width} bytes at {at} are {value}",
    )


def _from_buffers(kind: pa.DataType, length: int, buffers: list[Any]) -> pa.Array:
    if not pa.types.is_large_list(kind):
        return pa.Array.from_buffers(kind, length, buffers)
    width = max(1, kind.value_type.bit_width // 8)
    size = buffers[3].size if buffers[3] else 0
    count = size * 8 if pa.types.is_boolean(kind.value_type) else size // width
    values = pa.Array.from_buffers(kind.value_type, count, buffers[2:])
    return pa.Array.from_buffers(kind, length, buffers[:2], children=[values])


def _with_column(
    batches: Batches, index: int, place: int, column: pa.Array, schema: pa.Schema
) -> Batches:
    columns = batches[index].columns
    columns[place] = column
    changed = pa.RecordBatch.from_arrays(columns, schema=schema)
    return [*batches[:index], changed, *batches[index + 1 :]]


def add_nulls(schema: pa.Schema, batches: Batches, rng: Rng) -> Changed:
    """Make a row of a column null, whatever its field says."""
    index, place = rng.randrange(len(batches)), rng.randrange(len(schema))
    column = batches[index].column(place)
    if not len(column):
        return schema, batches, "nothing"
    row = rng.randrange(len(column))
    values = [None if number == row else value for number, value in enumerate(column.to_pylist())]
    changed = pa.array(values, column.type)
    return (
        schema,
        _with_column(batches, index, place, changed, schema),
        f"batch {index}, {schema[place].name}: row {row} is null",
    )


_OTHER_VALUES: dict[str, tuple[Any, pa.DataType]] = {
    "null": (None, pa.null()),
    "wide": ([1 << 60], pa.large_list(pa.uint64())),
    "text": ("x", pa.large_string()),
    "dictionary": ("x", pa.dictionary(pa.int8(), pa.string())),
}


def change_columns(schema: pa.Schema, batches: Batches, rng: Rng) -> Changed:
    """Leave out, rename, repeat, move or convert a column."""
    place = rng.randrange(len(schema))
    field = schema[place]
    kind = rng.choice(("drop", "rename", "repeat", "move", *_OTHER_VALUES))
    fields, columns = (
        [*schema],
        [[batch.column(i) for i in range(len(schema))] for batch in batches],
    )
    for list_ in (fields, *columns):
        if kind in ("drop", "move"):
            taken = list_.pop(place)
            if kind == "move":
                list_.insert(rng.randrange(len(list_) + 1) if list_ is fields else 0, taken)
        elif kind == "repeat":
            list_.append(list_[place])
    if kind == "move":
        order = [field.name for field in fields]
        columns = [[batch.column(name) for name in order] for batch in batches]
    elif kind == "rename":
        fields[place] = field.with_name(rng.choice((*schema.names, "", "a\0b", "\x1b[2J")))
    elif kind in _OTHER_VALUES:
        value, target = _OTHER_VALUES[kind]
        fields[place] = pa.field(field.name, target)
        for each, batch in zip(columns, batches, strict=True):
            each[place] = pa.array([value] * len(batch), target)
    changed = pa.schema(fields, metadata=schema.metadata)
    made = [pa.RecordBatch.from_arrays(each, schema=changed) for each in columns]
    return changed, made, f"{kind} {field.name}"


def change_batches(schema: pa.Schema, batches: Batches, rng: Rng) -> Changed:
    """Leave out, repeat, empty, slice or reverse record batches."""
    index = rng.randrange(len(batches))
    before, batch, after = batches[:index], batches[index], batches[index + 1 :]
    kinds = {
        "drop": [*before, *after],
        "repeat": [*batches, batch],
        "empty": [*before, batch.slice(0, 0), *after],
        "slice": [*before, batch.slice(1), *after],
        "reverse": batches[::-1],
        "copy": batches,
    }
    kind = rng.choice([*kinds])
    return schema, kinds[kind], f"{kind} batch {index}"


_SHARD_CHANGES: tuple[Callable[[pa.Schema, Batches, Rng], Changed], ...] = (
    *(change_value_of_column,) * 6,
    *(change_header, change_header, add_nulls, change_columns, change_columns),
    *(change_batches, change_batches),
)
