"""One shard of a folder, compared with what the manifest says of it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import Manifest
from tokkit.engine.mirrors import fetch_files, find_size, is_stored
from tokkit.errors import TokkitError, describe_os_error
from tokkit.shards.objectives import OBJECTIVES
from tokkit.shards.schema import Header, check_batch, expected_schema
from tokkit.shards.shard_file import (
    count_tokens,
    has_unreadable_pages,
    map_batch,
    open_shard,
    read_schema,
    report_damage,
    require_file_inside,
)


class FileIdentity(NamedTuple):
    """What tells whether a path is still the same file with the same content."""

    device: int
    inode: int
    size: int
    changed_ns: int

    @classmethod
    def of(cls, path: str | Path) -> "FileIdentity":
        """Return the identity of the file at ``path``, after links.

        Raises:
            TokkitError: it is missing.
        """
        if is_stored(path):  # the copy in the cache is nobody else's, on whichever machine
            return cls(0, 0, find_size(path) or 0, 0)
        try:  # not wrap_os_errors, which takes as long as the call: loaders make it at each step
            found = os.stat(path)  # noqa: PTH116  half of the time of Path.stat
        except OSError as error:
            raise TokkitError(f"{path}: {describe_os_error(error)}") from error
        return cls(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns)


def header_of(schema: pa.Schema, path: Path) -> Header:
    """Read the header in a shard's schema, its columns checked against that.

    Raises:
        TokkitError: it is not that of a shard of tokkit, or has other columns than its kind.
    """
    header = Header.from_metadata(schema.metadata, str(path))
    with report_damage(str(path)):
        expected = expected_schema(header, schema.names)
        found = ", ".join(str(field) for field in schema)
    if not schema.equals(expected):
        raise TokkitError(
            f"{path}: its columns are not those of {header.kind} shards ({found}); "
            f"recreate the folder"
        )
    return header


@dataclass(frozen=True)
class Shard:
    """One file of a folder.

    Attributes:
        path: of the file.
        row: what the manifest says of it.
        header: of the file.
        columns: names of its columns.
        identity: of the file when it was opened.
        is_read: whether the file was compared with the manifest when the folder was opened.
    """

    path: Path
    row: FileRow
    header: Header
    columns: tuple[str, ...]
    identity: FileIdentity
    is_read: bool = True

    @classmethod
    def open(cls, folder: Path, row: FileRow, manifest: Manifest) -> "Shard":
        """Open a shard and compare its size, header and columns with the manifest.

        Raises:
            TokkitError: it is missing, damaged, or differs from what the manifest says.
        """
        path = folder / row["name"]
        fetch_files(folder, [(row["name"], row["sha256"], row["bytes"])])
        require_file_inside(path, folder)
        identity = FileIdentity.of(path)
        require_size(path, identity, row)
        schema = read_schema(path)
        header, columns = header_of(schema, path), tuple(schema.names)
        shard = cls(path, row, header, columns, identity)
        shard.require_unchanged()
        shard.compare(manifest)
        return shard

    def like(self, row: FileRow, identity: FileIdentity) -> "Shard":
        """Return another shard of the folder, of which only the size is compared yet."""
        path = self.path.with_name(row["name"])
        return replace(self, path=path, row=row, identity=identity, is_read=False)

    @property
    def rows(self) -> int:
        """Number of rows in the manifest."""
        return self.row.get("rows", 0)

    @property
    def batches(self) -> Sequence[tuple[int, int]] | None:
        """Rows and tokens of each record batch in the manifest; None without them."""
        return self.row.get("batches")

    def count_batches(self) -> list[tuple[int, int]]:
        """Return the rows and tokens of each record batch of the file."""
        reader = self.open_reader()
        batches = []
        for index in range(reader.num_record_batches):
            batch = map_batch(reader, index, f"{self.path}, record batch {index}")
            batches.append((len(batch), count_tokens(batch)))
        self.require_unchanged()
        return batches

    def require_unchanged(self) -> None:
        """Refuse a file that was replaced, cut or written to since it was opened."""
        is_same = FileIdentity.of(self.path) == self.identity
        if not is_same or has_unreadable_pages(self.path):
            raise TokkitError(
                f"{self.path}: has changed while it was read; wait until nothing writes the folder, "
                f"and check it with tokkit verify"
            )

    def open_reader(self) -> pa.RecordBatchFileReader:
        """Map the file that was opened, and no other that has its name now."""
        fetch_files(self.path.parent, [(self.row["name"], self.row["sha256"], self.row["bytes"])])
        self.require_unchanged()
        reader = open_shard(self.path)
        self.require_unchanged()
        if not self.is_read:
            schema = read_schema(self.path)
            columns, header = tuple(schema.names), header_of(schema, self.path)
            replace(self, header=header, columns=columns).require_same_header(self)
        return reader

    def read_batch(
        self,
        reader: pa.RecordBatchFileReader,
        index: int,
        *,
        check: bool = True,
        check_ids: bool = True,
    ) -> pa.RecordBatch:
        """Map one record batch; see ``ShardFolder.read_batch``.

        Args:
            reader: from ``open_reader``, or from ``open_copy`` of the file.
            index: of the record batch.
            check: whether to check values.
            check_ids: also check every id of ``input_ids``.
        """
        where = f"{self.path}, record batch {index}"
        try:
            batch = map_batch(reader, index, where)
            if check:
                with report_damage(where):
                    check_batch(batch, self.header, where, check_ids=check_ids)
        except TokkitError:
            self.require_unchanged()  # which would be why it is damaged
            raise
        if check:
            self.require_unchanged()
        return batch

    def compare(self, manifest: Manifest) -> None:
        """Compare header and columns with the manifest.

        Raises:
            TokkitError: naming the first difference.
        """
        header, options = self.header, manifest.options
        if header.kind != manifest.kind:
            raise TokkitError(
                f"{self.path}: holds {header.kind}, the manifest says {manifest.kind}"
            )
        if header.tokenizer_fingerprint != manifest.tokenizer_fingerprint:
            raise TokkitError(
                f"{self.path}: made with another tokenizer than the manifest says; "
                f"recreate the folder"
            )
        if header.kind == "instances" and options.get("objective") not in OBJECTIVES:
            raise TokkitError(
                f"{self.path}: its manifest names no --objective of tokkit build; recreate the folder"
            )
        length = options.get("max_seq_length", header.max_seq_length)
        if header.kind == "instances" and header.max_seq_length != length:
            raise TokkitError(
                f"{self.path}: its max_seq_length is {header.max_seq_length}, the manifest says "
                f"{length}; recreate the folder"
            )
        is_static = "masked_positions" in self.columns
        if "masking" in options and is_static != (options["masking"] == "static"):
            raise TokkitError(
                f"{self.path}: {'has' if is_static else 'lacks'} the columns of static masks, but "
                f"the manifest says --masking {options['masking']}; recreate the folder"
            )

    def require_same_header(self, other: "Shard") -> None:
        """Refuse a shard whose header or columns differ from those of another one.

        Raises:
            TokkitError: naming the first difference.
        """
        for entry in fields(Header):
            mine, others = getattr(self.header, entry.name), getattr(other.header, entry.name)
            if mine != others:
                raise TokkitError(
                    f"{self.path}: its {entry.name} is {mine}, but that of {other.path.name} is "
                    f"{others}; recreate the folder"
                )
        if self.columns != other.columns:
            raise TokkitError(
                f"{self.path}: its columns are not those of {other.path.name}; recreate the folder"
            )

    def check_totals(self, rows: int, tokens: int) -> None:
        """Compare the rows and tokens of a shard with the manifest.

        Raises:
            TokkitError: if they differ.
        """
        counted = ("rows", rows, self.rows), ("tokens", tokens, self.row.get("tokens", 0))
        for noun, found, expected in counted:
            if found != expected:
                raise TokkitError(
                    f"{self.path}: has {found:,} {noun}, but the manifest says {expected:,}; "
                    f"recreate the folder"
                )


def require_size(path: Path, identity: FileIdentity, row: FileRow) -> None:
    """Refuse a shard of another size than the manifest says."""
    if identity.size != row["bytes"]:
        raise TokkitError(
            f"{path}: has {identity.size} bytes, the manifest says {row['bytes']}; "
            f"recreate the folder"
        )
