"""Reading folders of shards: memory-mapped, and trusting nothing that a kernel would index by.

A folder is opened by its manifest; every shard's size, schema and header are compared with it.
A record batch is handed on only when its offsets run forward and stay in bounds and its ids lie
in the vocabulary: kernels check no bounds. That a byte has flipped inside an id that is still
valid, only ``tokkit verify`` can tell, by the hashes.
"""

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


def ragged(column: pa.Array) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """A list column as ``values`` and ``offsets``.

    Args:
        column: large_list, also a slice of one.

    Returns:
        values: without a copy, except that packed booleans become ``np.bool_``.
        offsets: int64 ``[num_rows + 1]``, beginning at 0 for a slice too.

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
    """The bits of a column of booleans, without a copy, and which of them is the first row's first."""
    values = column.values
    bits = np.frombuffer(values.buffers()[1], np.uint8)
    return bits, values.offset + column.offsets[0].as_py()


@dataclass(frozen=True)
class Shard:
    """One file of a folder: its name, its path, and its row in the manifest."""

    name: str
    path: Path
    rows: int
    tokens: int


@dataclass(frozen=True)
class BatchRef:
    """Where a record batch lies: the shard's name, its number in it, and how much it holds."""

    shard: str
    index: int
    rows: int
    tokens: int


# What pyarrow raises on a file whose bytes have changed, wherever in it they did.
DAMAGE = (pa.ArrowException, OSError, ValueError, SystemError)


def open_shard(path: Path) -> pa.RecordBatchFileReader:
    """Open one shard, memory-mapped.

    Of a buffer pyarrow reads the footer at once, of a file in threads that it starts for that.

    Raises:
        TokkitError: where it is missing, truncated, or no Arrow file.
    """
    with wrap_os_errors(path):
        mapped = pa.memory_map(str(path)).read_buffer()
    try:
        return pa.ipc.open_file(mapped)
    except DAMAGE as error:
        raise TokkitError(
            f"{path}: not a whole Arrow file ({_first_line(error)}); make the folder again"
        ) from error


def map_batch(reader: pa.RecordBatchFileReader, index: int, where: str) -> pa.RecordBatch:
    """Map one record batch, its buffers checked for their sizes.

    Args:
        reader: from ``open_shard``.
        index: of the record batch.
        where: what the error calls it.

    Raises:
        TokkitError: where it is damaged.
    """
    try:
        batch = reader.get_batch(index)
        batch.validate()
    except DAMAGE as error:
        raise TokkitError(
            f"{where}: damaged ({_first_line(error)}); make the folder again"
        ) from error
    return batch


def read_header(path: Path) -> Header:
    """What a shard says of itself, its columns checked against that.

    Raises:
        TokkitError: where it is not a shard of ours, or its columns are others.
    """
    schema = open_shard(path).schema
    header = Header.from_metadata(schema.metadata, str(path))
    try:
        expected = expected_schema(header, schema.names)
        found = ", ".join(str(field) for field in schema)
    except DAMAGE as error:
        raise TokkitError(
            f"{path}: damaged ({_first_line(error)}); make the folder again"
        ) from error
    if not schema.equals(expected):
        raise TokkitError(
            f"{path}: its columns are not those of {header.kind} shards ({found}); "
            f"make the folder again"
        )
    return header


@dataclass(frozen=True)
class ShardFolder:
    """A finished folder of shards.

    Attributes:
        path: the folder.
        manifest: what it says of itself.
        header: what every shard's schema says.
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
            TokkitError: where the folder is unfinished or of another kind, or a shard is missing,
                of another size, of other columns, or made with another tokenizer.
        """
        manifest = Manifest.read(path, kind)
        shards = tuple(
            Shard(row["name"], path / row["name"], row["rows"], row["tokens"])
            for row in manifest.shards
        )
        if not shards:
            raise TokkitError(f"{path}: holds no shard; make the folder again")
        headers = [
            _check_shard(shard.path, row["bytes"], manifest)
            for shard, row in zip(shards, manifest.shards, strict=True)
        ]
        return cls(path, manifest, headers[0], shards)

    @property
    def tokenizer_path(self) -> Path:
        """The tokenizer that made the ids, kept beside them."""
        return self.path / "tokenizer"

    def batch_refs(self, prefix: str = "") -> list[BatchRef]:
        """All record batches, in order, of the shards whose name begins with ``prefix``."""
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
        """Map one record batch into memory, checked for what kernels index by.

        Args:
            ref: from ``batch_refs``.
            check_ids: also look at every id, which reads the whole batch.

        Raises:
            TokkitError: where offsets run backwards or out of bounds, lengths do not add up, or
                an id is beyond the vocabulary.
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
    # A loader comes back to each shard thousands of times; opening one takes 0.1 ms.
    return open_shard(path)


def _first_line(error: Exception) -> str:
    return str(error).split("\n", 1)[0]


def _check_shard(path: Path, size: int, manifest: Manifest) -> Header:
    """Compare one shard's size and header with the manifest."""
    with wrap_os_errors(path):
        found = path.stat().st_size
    if found != size:
        raise TokkitError(
            f"{path}: has {found} bytes, the manifest says {size}; make the folder again"
        )
    header = read_header(path)
    if header.kind != manifest.kind:
        raise TokkitError(f"{path}: holds {header.kind}, the manifest says {manifest.kind}")
    if header.tokenizer_fingerprint != manifest.tokenizer_fingerprint:
        raise TokkitError(
            f"{path}: was made with another tokenizer than the manifest says; make the folder again"
        )
    return header


def check_batch(batch: pa.RecordBatch, header: Header, where: str, *, check_ids: bool) -> None:
    """Refuse a batch that would lead a kernel out of bounds.

    Args:
        batch: of a shard with this header.
        header: for kind and vocabulary size.
        where: what the error calls the batch.
        check_ids: also look at every id and masked position.

    Raises:
        TokkitError: naming what is wrong.
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
                    f"{header.vocab_size} entries"
                )


def _check_columns(batch: pa.RecordBatch, where: str) -> dict[str, npt.NDArray[np.int64]]:
    """Nulls, text and offsets of every column; returns the lengths of the rows of list columns."""
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
    """Sentences must be of at least one token each, and add up to their document."""
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
    """Instances must fit, and segments and masked positions lie inside them."""
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
