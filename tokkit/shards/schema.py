"""The columns of shards, the metadata of their schemas, and checks of both.

A shard is an Arrow IPC file. Token ids are ``uint16`` if the vocabulary has at most 65,536 tokens,
else ``uint32``; nothing is padded. The schema's metadata identifies the tokenizer that made the
ids, so that shards of two tokenizers are never mixed:

    tokkit.format_version   2
    tokkit.kind             tokens
    tokkit.tokenizer        SHA-256 of the canonical tokenizer.json
    tokkit.vocab_size       30522
    tokkit.special_ids      {"cls": 101, "mask": 103, "pad": 0, "sep": 102, "unk": 100}
    tokkit.max_seq_length   128                      (instances)

Record batches are checked against them: kernels check no bounds, so what they index by is checked
here. Each function looks at a whole column at once, and refuses the batch with one line. What they do
not find is a byte that has flipped inside a value that is still valid; the hashes find that.
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.engine.json_files import RECREATE
from tokkit.engine.manifest import FORMAT_VERSION, READABLE_VERSIONS
from tokkit.errors import TokkitError
from tokkit.shards.arrow import id_dtype, ragged
from tokkit.shards.instances import VALUE_COLUMNS
from tokkit.shards.objectives import TARGET_COLUMNS

LARGEST_VOCABULARY = 1 << 32
LONGEST_INSTANCE = 1 << 16  # positions are uint16
ALIGNMENT = 8  # bytes, which Arrow's format requires of buffers

Int64 = npt.NDArray[np.int64]

_Size = Annotated[int, msgspec.Meta(ge=1, le=LARGEST_VOCABULARY)]
_Id = Annotated[int, msgspec.Meta(ge=0, lt=LARGEST_VOCABULARY)]
_Length = Annotated[int, msgspec.Meta(ge=0, le=LONGEST_INSTANCE)]


@dataclass(frozen=True, kw_only=True)
class Header:
    """The metadata of a shard.

    Attributes:
        kind: ``tokens`` or ``instances``.
        tokenizer_fingerprint: SHA-256 of the canonical tokenizer.json.
        vocab_size: number of tokens; every id is below it.
        special_ids: ids of the roles that the tokenizer has, by keys of ``ROLES``; see
            ``tokenizer/special_tokens.py``.
        max_seq_length: maximum tokens of an instance; 0 for token shards.
    """

    kind: Literal["tokens", "instances"]
    tokenizer_fingerprint: str
    vocab_size: _Size
    special_ids: Mapping[str, _Id]
    max_seq_length: _Length = 0

    @property
    def id_dtype(self) -> npt.DTypeLike:
        """The NumPy type of token ids."""
        return id_dtype(self.vocab_size)

    @property
    def id_type(self) -> pa.DataType:
        """The Arrow type of token ids."""
        return pa.from_numpy_dtype(self.id_dtype)

    def to_metadata(self) -> dict[str, str]:
        """The metadata of a shard's schema."""
        metadata = {
            "tokkit.format_version": str(FORMAT_VERSION),
            "tokkit.kind": self.kind,
            "tokkit.tokenizer": self.tokenizer_fingerprint,
            "tokkit.vocab_size": str(self.vocab_size),
            "tokkit.special_ids": json.dumps(dict(self.special_ids), sort_keys=True),
        }
        if self.max_seq_length:
            metadata["tokkit.max_seq_length"] = str(self.max_seq_length)
        return metadata

    @classmethod
    def from_metadata(cls, metadata: Mapping[bytes, bytes] | None, path: str) -> "Header":
        """Read the metadata of the shard at ``path``.

        Raises:
            TokkitError: it is not that of a shard, or of an unknown format version.
        """
        ours = {
            key.decode(errors="replace").removeprefix("tokkit."): value.decode(errors="replace")
            for key, value in (metadata or {}).items()
            if key.startswith(b"tokkit.")
        }
        if not ours:
            raise TokkitError(f"{path}: an Arrow file, but not a shard of tokkit")
        if ours.get("format_version") not in {*map(str, READABLE_VERSIONS)}:
            raise TokkitError(
                f"{path}: format version {ours.get('format_version')} is not known to this "
                f"release, which reads {' and '.join(map(str, READABLE_VERSIONS))}; install the "
                f"release that wrote it"
            )
        try:
            data = {
                **ours,
                "tokenizer_fingerprint": ours["tokenizer"],
                "special_ids": msgspec.json.decode(ours["special_ids"], type=dict[str, _Id]),
            }
            return msgspec.convert(data, cls, strict=False)
        except (KeyError, ValueError, RecursionError) as error:
            raise TokkitError(f"{path}: damaged metadata ({error}); {RECREATE}") from error


def tokens_schema(header: Header) -> pa.Schema:
    """The schema of documents; ``sentence_lengths`` add up to the length of ``input_ids``."""
    return pa.schema(
        [
            pa.field("document", pa.string(), nullable=False),
            pa.field("input_ids", pa.large_list(header.id_type), nullable=False),
            pa.field("sentence_lengths", pa.large_list(pa.int32()), nullable=False),
            pa.field("word_starts", pa.large_list(pa.bool_()), nullable=False),
        ],
        metadata=header.to_metadata(),
    )


def instances_schema(header: Header, *, static: bool, targets: str | None = None) -> pa.Schema:
    """The schema of instances.

    Args:
        header: the metadata.
        static: instances are masked, so there are the masked columns.
        targets: the column of targets, of ``TARGET_COLUMNS``, if the objective has one.
    """
    fields = [
        pa.field("input_ids", pa.large_list(header.id_type), nullable=False),
        *(
            pa.field(column.name, column.type, nullable=column.null is not None)
            for column in VALUE_COLUMNS.values()
        ),
        pa.field("word_starts", pa.large_list(pa.bool_()), nullable=False),
    ]
    if static:
        fields += [
            pa.field("masked_positions", pa.large_list(pa.uint16()), nullable=False),
            pa.field("masked_labels", pa.large_list(header.id_type), nullable=False),
        ]
    if targets is not None:
        kind = header.id_type if targets == "target_ids" else pa.uint16()
        fields.append(pa.field(targets, pa.large_list(kind), nullable=False))
    return pa.schema(fields, metadata=header.to_metadata())


def expected_schema(header: Header, names: Collection[str]) -> pa.Schema:
    """The schema that a shard with this header must have.

    Args:
        header: for the kind and the type of ids.
        names: of its columns, which tell whether there are the columns that not all shards have.
    """
    if header.kind == "tokens":
        return tokens_schema(header)
    targets = next((name for name in TARGET_COLUMNS if name in names), None)
    return instances_schema(header, static="masked_positions" in names, targets=targets)


def check_batch(batch: pa.RecordBatch, header: Header, where: str, *, check_ids: bool) -> None:
    """Refuse a batch that would lead a kernel out of bounds, or a model astray.

    Args:
        batch: of a shard with this header.
        header: for kind, vocabulary size and special ids.
        where: the name of the batch in errors.
        check_ids: also check every id of ``input_ids``.

    Raises:
        TokkitError: says what is wrong.
    """
    lengths = check_columns(batch, where)
    if (lengths["word_starts"] != lengths["input_ids"]).any():
        raise TokkitError(f"{where}: word_starts and input_ids differ in length")
    if header.kind == "tokens":
        check_sentences(batch, lengths["input_ids"], where)
    else:
        check_values(batch, header, lengths["input_ids"], where)
        check_masks(batch, header, lengths, where)
        check_targets(batch, lengths, where)
    names = {"masked_labels", "target_ids"} | ({"input_ids"} if check_ids else set())
    for name in sorted(names & set(lengths)):
        check_ids_below(ragged(batch.column(name))[0], header.vocab_size, f"{where}: {name}")


def check_ids_below(ids: npt.NDArray[Any], vocab_size: int, where: str) -> None:
    """Check that ids are in the vocabulary."""
    if ids.size and int(ids.max()) >= vocab_size:
        raise TokkitError(
            f"{where} holds id {ids.max()}, but the vocabulary has {vocab_size} tokens; "
            f"recreate the folder"
        )


def check_columns(batch: pa.RecordBatch, where: str) -> dict[str, Int64]:
    """Check nulls, text, offsets and alignment; return the lengths of the rows of list columns."""
    lengths = {}
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        is_list = pa.types.is_large_list(column.type)
        parts = [column, column.values] if is_list else [column]
        if not batch.schema.field(name).nullable and any(part.null_count for part in parts):
            raise TokkitError(f"{where}: {name} holds nulls")
        if any(buffer and buffer.address % ALIGNMENT for buffer in column.buffers()):
            raise TokkitError(f"{where}: {name} is not aligned to {ALIGNMENT} bytes")
        if pa.types.is_string(column.type):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid as error:
                raise TokkitError(f"{where}: {name} holds damaged text") from error
        if is_list:
            offsets = column.offsets.to_numpy()
            row_lengths = np.diff(offsets)
            if offsets[0] < 0 or (row_lengths < 0).any() or offsets[-1] > len(column.values):
                raise TokkitError(f"{where}: offsets of {name} run backwards or out of bounds")
            lengths[name] = row_lengths
    return lengths


def check_sentences(batch: pa.RecordBatch, num_tokens: Int64, where: str) -> None:
    """Check that sentences have at least one token, and add up to their document."""
    sentence_lengths, offsets = ragged(batch.column("sentence_lengths"))
    if (np.diff(offsets) < 1).any() or (sentence_lengths < 1).any():
        raise TokkitError(f"{where}: a document without sentences, or a sentence without tokens")
    if not len(num_tokens):
        return
    sums = np.add.reduceat(sentence_lengths, offsets[:-1], dtype=np.int64)
    if not np.array_equal(sums, num_tokens):
        raise TokkitError(f"{where}: sentence_lengths do not add up to the length of input_ids")


def check_values(batch: pa.RecordBatch, header: Header, num_tokens: Int64, where: str) -> None:
    """Check that instances are not too long, and the columns with a value for each."""
    if (num_tokens < 1).any() or (num_tokens > header.max_seq_length).any():
        raise TokkitError(f"{where}: an instance is empty or longer than {header.max_seq_length}")
    for column in VALUE_COLUMNS.values():
        is_null = batch.column(column.name).null_count == len(batch)
        if column.check and not is_null and not column.check(column.read(batch), num_tokens).all():
            raise TokkitError(f"{where}: a {column.name} {column.fault}")


def check_masks(
    batch: pa.RecordBatch, header: Header, lengths: dict[str, Int64], where: str
) -> None:
    """Check that masked positions ascend within each instance, and that no special token is masked."""
    if "masked_positions" not in lengths:
        return
    num_masked = lengths["masked_positions"]
    if (num_masked != lengths["masked_labels"]).any():
        raise TokkitError(f"{where}: masked_positions and masked_labels differ in length")
    positions, offsets = ragged(batch.column("masked_positions"))
    is_masked = num_masked > 0
    is_first = np.zeros(len(positions), np.bool_)
    is_first[offsets[:-1][is_masked]] = True
    if not (is_first[1:] | (positions[1:] > positions[:-1])).all():
        raise TokkitError(f"{where}: masked_positions of an instance do not ascend")
    if (positions[offsets[1:][is_masked] - 1] >= lengths["input_ids"][is_masked]).any():
        raise TokkitError(f"{where}: one of masked_positions is beyond its instance")
    labels, _ = ragged(batch.column("masked_labels"))
    for role in ("cls", "sep"):
        if (labels == header.special_ids.get(role, header.vocab_size)).any():
            raise TokkitError(f"{where}: masked_labels holds the special token of {role}")


def check_targets(batch: pa.RecordBatch, lengths: dict[str, Int64], where: str) -> None:
    """Check that positions to predict are within their instance, each once."""
    if "target_positions" not in lengths:
        return
    positions, _ = ragged(batch.column("target_positions"))
    num_targets = lengths["target_positions"]
    if (positions >= np.repeat(lengths["input_ids"], num_targets)).any():
        raise TokkitError(f"{where}: one of target_positions is beyond its instance")
    # Sorted, which is 15 times as fast as np.unique of numpy 2.4.
    places = np.sort((np.repeat(np.arange(len(num_targets)), num_targets) << 16) + positions)
    if (places[1:] == places[:-1]).any():
        raise TokkitError(f"{where}: target_positions of an instance hold a position twice")
