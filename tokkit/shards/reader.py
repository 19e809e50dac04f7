"""Reading folders of shards, memory-mapped, with every value checked that a kernel indexes by.

A folder is opened by its manifest; the size, schema and header of every shard are compared with it.
A record batch is returned only if its offsets run forward and stay in bounds and its ids are in the
vocabulary: kernels check no bounds. A byte that has flipped inside an id that is still valid is
found by ``tokkit verify`` alone, by the hashes.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.shards.schema import Header, expected_schema

# What pyarrow raises if a file is damaged.
DAMAGE = (pa.ArrowException, OSError, ValueError, SystemError)


def ragged(column: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Return the ``values`` and ``offsets`` of a list column.

    Args:
        column: large_list, or a slice of one.

    Returns:
        values: without a copy, except that packed booleans become ``np.bool_``.
        offsets: int64 ``[num_rows + 1]``, from 0 for a slice too.

    Example:
        >>> ragged(pa.array([[7, 8], [9]], pa.large_list(pa.int32())))
        (array([7, 8, 9], dtype=int32), array([0, 2, 3]))
    """
    offsets = column.offsets.to_numpy()
    values = column.values[offsets[0] : offsets[-1]]
    if offsets[0]:
        offsets = offsets - offsets[0]
    return values.to_numpy(zero_copy_only=not pa.types.is_boolean(values.type)), offsets


def packed_bits(column: pa.LargeListArray) -> tuple[npt.NDArray[np.uint8], int]:
    """Return the bits of a column of booleans without a copy, and which is the first row's first."""
    values = column.values
    bits = np.frombuffer(values.buffers()[1], np.uint8)
    return bits, values.offset + column.offsets[0].as_py()


@contextmanager
def _report_damage(where: str, fault: str = "damaged") -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        reason = str(error).split("\n", 1)[0]
        raise TokkitError(f"{where}: {fault} ({reason}); recreate the folder") from error


def open_shard(path: Path) -> pa.RecordBatchFileReader:
    """Open one shard, memory-mapped.

    From a buffer pyarrow reads the footer at once; for a file it would start threads.

    Raises:
        TokkitError: it is missing, truncated, or not an Arrow file.
    """
    with wrap_os_errors(path):
        mapped = pa.memory_map(str(path)).read_buffer()
    with _report_damage(str(path), "not a whole Arrow file"):
        return pa.ipc.open_file(mapped)


def map_batch(reader: pa.RecordBatchFileReader, index: int, where: str) -> pa.RecordBatch:
    """Map one record batch, the sizes of its buffers checked.

    Args:
        reader: from ``open_shard``.
        index: of the record batch.
        where: its name in errors.

    Raises:
        TokkitError: it is damaged.
    """
    with _report_damage(where):
        batch = reader.get_batch(index)
        batch.validate()
        return batch


def read_header(path: Path) -> Header:
    """Read the header of a shard, its columns checked against that.

    Raises:
        TokkitError: it is not a shard of tokkit, or has other columns than its kind.
    """
    schema = open_shard(path).schema
    header = Header.from_metadata(schema.metadata, str(path))
    with _report_damage(str(path)):
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
    """One file of a folder: its name, its path, and its row in the manifest."""

    name: str
    path: Path
    rows: int
    tokens: int


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
        shards: in the manifest's order.
    """

    path: Path
    manifest: Manifest
    header: Header
    shards: tuple[Shard, ...]

    @classmethod
    def open(cls, path: Path, kind: str) -> "ShardFolder":
        """Open a folder and compare each shard with the manifest.

        Args:
            path: the folder.
            kind: ``tokens`` or ``instances``.

        Raises:
            TokkitError: the folder is unfinished or of another kind, or a shard is missing, of
                another size, of other columns, or made with another tokenizer.
        """
        manifest = Manifest.read(path, kind)
        shards = tuple(
            Shard(row["name"], path / row["name"], row["rows"], row["tokens"])
            for row in manifest.shards
        )
        if not shards:
            raise TokkitError(f"{path}: holds no shard; recreate the folder")
        headers = [
            _check_shard(shard.path, row["bytes"], manifest)
            for shard, row in zip(shards, manifest.shards, strict=True)
        ]
        return cls(path, manifest, headers[0], shards)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer that made the ids."""
        return self.path / "tokenizer"

    def batch_refs(self, prefix: str = "") -> list[BatchRef]:
        """List the record batches of the shards whose name begins with ``prefix``, in order."""
        refs = []
        for shard in self.shards:
            if shard.name.startswith(prefix):
                reader = open_shard(shard.path)
                for index in range(reader.num_record_batches):
                    where = f"{shard.path}, record batch {index}"
                    ids = map_batch(reader, index, where).column("input_ids")
                    num_tokens = ids.offsets[-1].as_py() - ids.offsets[0].as_py()
                    refs.append(BatchRef(shard.name, index, len(ids), num_tokens))
        return refs

    def read_batch(self, ref: BatchRef, *, check_ids: bool = True) -> pa.RecordBatch:
        """Map one record batch into memory, every value checked that a kernel indexes by.

        Args:
            ref: from ``batch_refs``.
            check_ids: also check every id, which reads the whole batch.

        Raises:
            TokkitError: offsets run backwards or out of bounds, lengths do not add up, or an id is
                beyond the vocabulary.
        """
        path = self.path / ref.shard
        where = f"{path}, record batch {ref.index}"
        with wrap_os_errors(path):
            written = path.stat().st_mtime_ns
        batch = map_batch(_cached_reader(path, written), ref.index, where)
        check_batch(batch, self.header, where, check_ids=check_ids)
        return batch


@lru_cache(maxsize=1024)
def _cached_reader(path: Path, _written: int) -> pa.RecordBatchFileReader:
    # A loader returns to each shard thousands of times; opening one takes 0.1 ms.
    return open_shard(path)


def _check_shard(path: Path, size: int, manifest: Manifest) -> Header:
    """Compare one shard's size and header with the manifest."""
    with wrap_os_errors(path):
        found = path.stat().st_size
    if found != size:
        raise TokkitError(
            f"{path}: has {found} bytes, the manifest says {size}; recreate the folder"
        )
    header = read_header(path)
    if header.kind != manifest.kind:
        raise TokkitError(f"{path}: holds {header.kind}, the manifest says {manifest.kind}")
    if header.tokenizer_fingerprint != manifest.tokenizer_fingerprint:
        raise TokkitError(
            f"{path}: made with another tokenizer than the manifest says; recreate the folder"
        )
    return header


def check_batch(batch: pa.RecordBatch, header: Header, where: str, *, check_ids: bool) -> None:
    """Refuse a batch that would lead a kernel out of bounds.

    Args:
        batch: of a shard with this header.
        header: for kind and vocabulary size.
        where: the name of the batch in errors.
        check_ids: also check every id.

    Raises:
        TokkitError: says what is wrong.
    """
    lengths = _check_columns(batch, where)
    if (lengths["word_starts"] != lengths["input_ids"]).any():
        raise TokkitError(f"{where}: word_starts and input_ids differ in length")
    if header.kind == "tokens":
        _check_sentences(batch, lengths["input_ids"], where)
    else:
        _check_instances(batch, header, lengths, where)
    if check_ids:
        for name in {"input_ids", "masked_labels", "target_ids"} & set(lengths):
            values, _ = ragged(batch.column(name))
            if values.size and int(values.max()) >= header.vocab_size:
                raise TokkitError(
                    f"{where}: {name} holds id {values.max()}, but the vocabulary has "
                    f"{header.vocab_size} tokens"
                )


def _check_columns(batch: pa.RecordBatch, where: str) -> dict[str, npt.NDArray[np.int64]]:
    """Check nulls, text and offsets; return the lengths of the rows of each list column."""
    lengths = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if column.null_count and not batch.schema.field(name).nullable:
            raise TokkitError(f"{where}: {name} holds nulls")
        if pa.types.is_string(column.type):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                raise TokkitError(f"{where}: {name} holds damaged text") from error
        if pa.types.is_large_list(column.type):
            offsets = column.offsets.to_numpy()
            if offsets[0] < 0 or (np.diff(offsets) < 0).any() or offsets[-1] > len(column.values):
                raise TokkitError(f"{where}: offsets of {name} run backwards or out of bounds")
            lengths[name] = np.diff(offsets)
    return lengths


def _check_sentences(batch: pa.RecordBatch, num_tokens: npt.NDArray[np.int64], where: str) -> None:
    """Check that sentences have at least one token, and add up to their document."""
    sentence_lengths, offsets = ragged(batch.column("sentence_lengths"))
    if (np.diff(offsets) < 1).any() or (sentence_lengths < 1).any():
        raise TokkitError(f"{where}: a document without sentences, or a sentence without tokens")
    if not len(num_tokens):
        return
    sums = np.add.reduceat(sentence_lengths, offsets[:-1], dtype=np.int64)
    if not np.array_equal(sums, num_tokens):
        raise TokkitError(f"{where}: sentence_lengths do not add up to the length of input_ids")


def _check_instances(
    batch: pa.RecordBatch, header: Header, lengths: dict[str, npt.NDArray[np.int64]], where: str
) -> None:
    """Check that instances are not too long, and that segments and positions are inside them."""
    num_tokens = lengths["input_ids"]
    segment_length = batch.column("segment_length").to_numpy()
    if (num_tokens < 1).any() or (num_tokens > header.max_seq_length).any():
        raise TokkitError(f"{where}: an instance is empty or longer than {header.max_seq_length}")
    if (segment_length < 0).any() or (segment_length > num_tokens).any():
        raise TokkitError(f"{where}: a segment_length is beyond its instance")
    if (
        "masked_positions" in lengths
        and (lengths["masked_positions"] != lengths["masked_labels"]).any()
    ):
        raise TokkitError(f"{where}: masked_positions and masked_labels differ in length")
    for name in {"masked_positions", "target_positions"} & set(lengths):
        positions, _ = ragged(batch.column(name))
        if (positions >= np.repeat(num_tokens, lengths[name])).any():
            raise TokkitError(f"{where}: one of {name} is beyond its instance")
