"""Reading folders of shards, memory-mapped.

A folder is opened by its manifest. Its files are compared with that and with each other: size,
columns, header, and, from the lengths of record batches, rows and tokens. Values are checked when a
record batch is first read; see ``tokkit.shards.schema``.

A folder that changes while it is read is refused: a shard is one file with one size and one time of
change, which each visit compares.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from tokkit.engine.files import FileIdentity, require_file_inside
from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import Manifest
from tokkit.engine.mirrors import fetch_files, is_stored
from tokkit.engine.progress import open_bar
from tokkit.errors import TokkitError
from tokkit.shards.mapping import has_unreadable_pages
from tokkit.shards.objectives import OBJECTIVES
from tokkit.shards.schema import Header, check_batch, expected_schema
from tokkit.shards.shard_file import (
    count_tokens,
    map_batch,
    open_copy,
    open_shard,
    read_schema,
    report_damage,
)

# Shards that are opened with their folder, so that a fault is found before any work; opening all of
# 100,000 took half a minute.
MAX_OPENED = 1000


class MadeIds(Protocol):
    """The part of a tokenizer that headers describe."""

    @property
    def fingerprint(self) -> str: ...  # noqa: D102

    @property
    def vocab_size(self) -> int: ...  # noqa: D102

    @property
    def special_ids(self) -> Mapping[str, int]: ...  # noqa: D102


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
        fetch_files([(path, row["sha256"], row["bytes"])])
        require_file_inside(path, folder)
        identity = _identify(path, row)
        schema = read_schema(path)
        header, columns = header_of(schema, path), tuple(schema.names)
        shard = cls(path, row, header, columns, identity)
        shard.require_unchanged()
        shard.compare(manifest)
        return shard

    def like(self, row: FileRow) -> "Shard":
        """Return another shard of the folder, of which only the size is compared yet.

        Raises:
            TokkitError: it is missing, or of another size than the manifest says.
        """
        path = self.path.with_name(row["name"])
        return replace(self, path=path, row=row, identity=_identify(path, row), is_read=False)

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
        fetch_files([(self.path, self.row["sha256"], self.row["bytes"])])
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


def _identify(path: Path, row: FileRow) -> FileIdentity:
    """Return the identity of a shard's file, which has the size that the manifest says."""
    identity = FileIdentity.of(path)
    if identity.size != row["bytes"]:
        raise TokkitError(
            f"{path}: has {identity.size} bytes, the manifest says {row['bytes']}; "
            f"recreate the folder"
        )
    return identity


@dataclass(frozen=True)
class BatchRef:
    """A record batch: its shard's name, its number in it, and its size."""

    shard: str
    index: int
    rows: int
    tokens: int


@dataclass(frozen=True)
class ShardFolder:
    """A finished folder of shards.

    Attributes:
        path: the folder.
        manifest: of the folder.
        header: of every shard.
        shards: by name, in the manifest's order.
    """

    path: Path
    manifest: Manifest
    header: Header
    shards: Mapping[str, Shard]

    @classmethod
    def open(cls, path: Path, kind: str) -> "ShardFolder":
        """Open a folder and compare each shard with the manifest and with the first shard.

        Of the shards after the first ``MAX_OPENED``, or of a store the first, only the sizes are
        compared now: all else when they are first read.

        Args:
            path: the folder.
            kind: ``tokens`` or ``instances``.

        Raises:
            TokkitError: the folder is unfinished or of another kind, or a shard is missing, of
                another size, of other columns, or made with another tokenizer.
        """
        manifest = Manifest.read(path, kind)
        rows = manifest.shards
        num_opened = 1 if is_stored(path) else MAX_OPENED  # each is copied first
        shards = {row["name"]: Shard.open(path, row, manifest) for row in rows[:num_opened]}
        if not shards:
            raise TokkitError(f"{path}: holds no shard; recreate the folder")
        first = next(iter(shards.values()))
        for shard in shards.values():
            shard.require_same_header(first)
        shards |= {row["name"]: first.like(row) for row in rows[num_opened:]}
        return cls(path, manifest, first.header, shards)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer that made the ids."""
        return self.path / "tokenizer"

    def require_tokenizer(self, tokenizer: MadeIds) -> None:
        """Refuse shards whose headers describe another tokenizer than the one next to them.

        Raises:
            TokkitError: naming the first difference.
        """
        if tokenizer.fingerprint != self.header.tokenizer_fingerprint:
            raise TokkitError(
                f"{self.tokenizer_path}: is not the tokenizer that made the shards next to it; "
                f"recreate the folder"
            )
        for name in ("vocab_size", "special_ids"):
            said, found = getattr(self.header, name), getattr(tokenizer, name)
            if said != found:
                raise TokkitError(
                    f"{self.path}: the {name} of its shards is {said}, but that of the tokenizer "
                    f"next to them is {found}; recreate the folder"
                )

    def fetch(self, prefix: str) -> None:
        """Copy the shards whose name begins with ``prefix`` from their store, if there is one."""
        shards = [shard for name, shard in self.shards.items() if name.startswith(prefix)]
        files = [(shard.path, shard.row["sha256"], shard.row["bytes"]) for shard in shards]
        total = sum(size for _, _, size in files)
        with open_bar("copy", "B", total=total, show=is_stored(self.path)) as bar:
            fetch_files(files, bar.update)

    def batch_refs(self, prefix: str = "") -> list[BatchRef]:
        """List the record batches of the shards whose name begins with ``prefix``, in order.

        Raises:
            TokkitError: a shard has other numbers of rows or tokens than the manifest says.
        """
        refs = []
        for name, shard in self.shards.items():
            if name.startswith(prefix):
                batches = shard.count_batches() if shard.batches is None else shard.batches
                shard.check_totals(sum(rows for rows, _ in batches), sum(n for _, n in batches))
                refs += [BatchRef(name, number, *size) for number, size in enumerate(batches)]
        return refs

    def read_batch(
        self, ref: BatchRef, *, check: bool = True, check_ids: bool = True, copied: bool = False
    ) -> pa.RecordBatch:
        """Map one record batch into memory, every value checked that a kernel indexes by.

        Args:
            ref: from ``batch_refs``.
            copied: copy it before it is checked, since pyarrow's own code is to follow its offsets,
                which in a map another process may change after any check.
            check: whether to check values; False for a batch that was checked before.
            check_ids: also check every id of ``input_ids``, which reads the whole batch.

        Raises:
            TokkitError: the shard has changed, offsets run backwards or out of bounds, lengths do
                not add up, or an id is beyond the vocabulary.
        """
        shard = self.shards[ref.shard]
        reader = shard.open_reader()
        if copied:
            reader, _ = open_copy(shard.path)
        # A further record batch is none of the manifest's, and ``verify`` would refuse it.
        is_whole = shard.batches is None or len(shard.batches) == reader.num_record_batches
        if is_whole and ref.index < reader.num_record_batches:
            batch = shard.read_batch(reader, ref.index, check=check, check_ids=check_ids)
            if (len(batch), count_tokens(batch)) == (ref.rows, ref.tokens):
                return batch
        raise TokkitError(
            f"{shard.path}, record batch {ref.index}: has other rows or tokens than the manifest says; "
            f"recreate the folder"
        )
