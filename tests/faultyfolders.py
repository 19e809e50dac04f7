"""Changes folders of shards the way a fault or a stranger would, with a manifest that agrees."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from instancefolders import write_shard

from tokkit.shards.shard_file import open_shard


def edit_manifest(folder: Path, change: Callable[[Any], object]) -> None:
    """Change the parsed manifest of a folder."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def rewrite_shard(
    folder: Path,
    name: str,
    columns: Mapping[str, Callable[[pa.Array], pa.Array]] | None = None,
    metadata: Mapping[str, str] | None = None,
    id_type: pa.DataType | None = None,
) -> None:
    """Write a shard again with other columns or another header; bytes and hash are made to agree.

    Args:
        folder: of the shard.
        name: of the shard.
        columns: functions that replace columns of the first record batch, by their names.
        metadata: keys of the header that replace those of the same name.
        id_type: another type of ids.
    """
    reader = open_shard(folder / name)
    batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
    schema = reader.schema
    for column, change in (columns or {}).items():
        place = schema.get_field_index(column)
        changed = change(batches[0].column(column))
        batches[0] = batches[0].set_column(place, schema.field(place), changed)
    old = {key.decode(): value.decode() for key, value in schema.metadata.items()}
    schema = schema.with_metadata({**old, **(metadata or {})})
    if id_type is not None:
        for place, field in enumerate(schema):
            if field.name in ("input_ids", "masked_labels"):
                schema = schema.set(place, field.with_type(pa.large_list(id_type)))
    batches = [batch.cast(schema) for batch in batches]
    row = write_shard(folder / name, batches, "none")

    def replace_row(manifest: Any) -> None:
        (old_row,) = (row for row in manifest["shards"] if row["name"] == name)
        old_row.update({key: row[key] for key in ("bytes", "sha256")})

    edit_manifest(folder, replace_row)
