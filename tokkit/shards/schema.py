"""The columns of shards, and the metadata of their schemas.

A shard is an Arrow IPC file. Token ids are ``uint16`` if the vocabulary has at most 65,536 tokens,
else ``uint32``; nothing is padded. The schema's metadata identifies the tokenizer that made the
ids, so that shards of two tokenizers are never mixed:

    tokkit.format_version   2
    tokkit.kind             tokens
    tokkit.tokenizer        SHA-256 of the canonical tokenizer.json
    tokkit.vocab_size       30522
    tokkit.special_ids      {"cls": 101, "mask": 103, "pad": 0, "sep": 102, "unk": 100}
    tokkit.max_seq_length   128                      (instances)
"""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
import numpy.typing as npt
import pyarrow as pa

from tokkit.engine.json_files import RECREATE
from tokkit.engine.manifest import FORMAT_VERSION, READABLE_VERSIONS
from tokkit.errors import TokkitError
from tokkit.shards.arrow import id_dtype
from tokkit.shards.objectives import TARGET_COLUMNS

LARGEST_VOCABULARY = 1 << 32
LONGEST_INSTANCE = 1 << 16  # positions are uint16

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

    A column is added in these places:

    - here, and in ``to_record_batch`` and ``Instances`` of ``shards/instances.py``;
    - ``instances/pairs.py`` and ``instances/packs.py``, which make its values;
    - ``TABLE_DTYPE`` and ``gather_rows`` of ``kernels/instances/gather.py``, and ``gather``,
      ``_map_columns`` and ``join_instances`` of ``pretraining/data/instance_reader.py``, which load it;
    - ``pretraining/data/batches.py``, if the model reads it;
    - ``inspection/row_text.py``, which shows it;
    - ``FORMAT_VERSION`` of ``engine/manifest.py``, unless shards without it can still be read, as
      ``expected_schema`` allows for the columns of masks and targets.

    Args:
        header: the metadata.
        static: instances are masked, so there are the masked columns.
        targets: the column of targets, of ``TARGET_COLUMNS``, if the objective has one.
    """
    fields = [
        pa.field("input_ids", pa.large_list(header.id_type), nullable=False),
        pa.field("segment_length", pa.int32(), nullable=False),
        pa.field("document", pa.uint64(), nullable=False),
        pa.field("next_sentence_label", pa.int8()),
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
