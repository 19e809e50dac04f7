"""Reading folders of shards, memory-mapped.

A folder is opened by its manifest. Its files are compared with that and with each other: size,
columns, header, and, from the lengths of record batches, rows and tokens. Values are checked when a
record batch is first read; see ``tokkit.shards.schema``.

A folder that changes while it is read is refused: a shard is one file with one size and one time of
change, which each visit compares.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import pyarrow as pa

from tokkit.engine.json_files import FileRow
from tokkit.engine.manifest import Manifest
from tokkit.engine.mirrors import fetch_files, is_stored
from tokkit.engine.progress import open_bar
from tokkit.errors import TokkitError
from tokkit.shards.schema import Header
from tokkit.shards.shard import FileIdentity, Shard, require_size
from tokkit.shards.shard_file import count_tokens, open_copy

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


class _Shards(Mapping[str, Shard]):
    """The shards of a folder by name, in the manifest's order.

    There may be 100,000, so each is made when it is asked for.

    Args:
        opened: the first ones.
        files: of all, what the manifest says of them, and the identities of the files.
    """

    def __init__(
        self, opened: dict[str, Shard], files: dict[str, tuple[FileRow, FileIdentity]]
    ) -> None:
        self._made = opened
        self._files = files

    def __getitem__(self, name: str) -> Shard:
        if name not in self._made:
            first = next(iter(self._made.values()))
            self._made[name] = first.like(*self._files[name])
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


class BatchRef(NamedTuple):
    """A record batch: its shard's name, its number in it, and its size."""

    shard: str
    number: int
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
        opened = {row["name"]: Shard.open(path, row, manifest) for row in rows[:num_opened]}
        if not opened:
            raise TokkitError(f"{path}: holds no shard; recreate the folder")
        first = next(iter(opened.values()))
        for shard in opened.values():
            shard.require_same_header(first)
        files = {name: (shard.row, shard.identity) for name, shard in opened.items()}
        for row in rows[num_opened:]:
            identity = FileIdentity.of(
                f"{path}/{row['name']}"
            )  # no path is made for each of 100,000
            if identity.size != row["bytes"]:
                require_size(path / row["name"], identity, row)
            files[row["name"]] = row, identity
        return cls(path, manifest, first.header, _Shards(opened, files))

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
        rows = [row for row in self.manifest.shards if row["name"].startswith(prefix)]
        total = sum(row["bytes"] for row in rows)
        with open_bar("copy", "B", total=total, show=is_stored(self.path)) as bar:
            files = ((row["name"], row["sha256"], row["bytes"]) for row in rows)
            fetch_files(self.path, files, bar.update)

    def batch_refs(self, prefix: str = "") -> list[BatchRef]:
        """List the record batches of the shards whose name begins with ``prefix``, in order.

        Raises:
            TokkitError: a shard has other numbers of rows or tokens than the manifest says.
        """
        refs: list[BatchRef] = []
        for row in self.manifest.shards:
            name, batches = row["name"], row.get("batches")
            if not name.startswith(prefix):
                continue
            if batches is None:
                batches = self.shards[name].count_batches()
            num_rows = num_tokens = 0
            for number, (rows, tokens) in enumerate(batches):
                refs.append(BatchRef(name, number, rows, tokens))
                num_rows += rows
                num_tokens += tokens
            if (num_rows, num_tokens) != (row.get("rows", 0), row.get("tokens", 0)):
                self.shards[name].check_totals(num_rows, num_tokens)
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
        if is_whole and ref.number < reader.num_record_batches:
            batch = shard.read_batch(reader, ref.number, check=check, check_ids=check_ids)
            if (len(batch), count_tokens(batch)) == (ref.rows, ref.tokens):
                return batch
        raise TokkitError(
            f"{shard.path}, record batch {ref.number}: has other rows or tokens than the manifest says; "
            f"recreate the folder"
        )
