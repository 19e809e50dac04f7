r"""From a work unit to batches of documents, whatever its format.

For a corpus of one file ``two.txt`` that holds ``A cat.\r\nIt sat.\r\n\r\nA dog.``:

    config = CorpusConfig(inputs=("two.txt",))
    for unit in plan_units(config):
        for batch in read_documents(unit, config):
            batch.texts     # A cat.\nIt sat.    A dog.
            batch.names     # two.txt:0          two.txt:19
"""

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.documents import EMPTY, DocumentBatch
from tokkit.corpus.records import read_records
from tokkit.corpus.streams import open_stream, require_unchanged
from tokkit.corpus.table_rows import read_rows
from tokkit.corpus.text import read_text
from tokkit.corpus.units import CorpusUnit, Group
from tokkit.engine.accounts import Accounts
from tokkit.errors import TokkitError

BATCH_BYTES = 8 << 20

__all__ = ["BATCH_BYTES", "DocumentBatch", "digest_unit", "read_documents"]


def read_documents(
    unit: CorpusUnit,
    config: CorpusConfig,
    *,
    language_field: str | None = None,
    digest: "hashlib._Hash | None" = None,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[DocumentBatch]:
    """Read a unit's documents in order.

    A unit that is all of its file and yields nothing counts as one empty document.

    Args:
        unit: from ``plan_units``.
        config: what the unit was planned with.
        language_field: the field of a record that holds its language.
        digest: updated with the bytes that are read, after decompression: for a plain file read
            whole, the file's own SHA-256 comes out. Of a table it gets the columns that are read.
        batch_bytes: about how many bytes of text a batch has; a longer document has its own.

    Raises:
        TokkitError: where the input is damaged, has changed since the planning, or holds what
            ``config.errors`` refuses.
    """
    if unit.source.format == "counts":
        raise TokkitError(
            f"{unit.source.name}: holds words and their counts, which only tokkit train takes; "
            f"name a file of text, or pass --format text"
        )
    num_met = 0
    for batch in _read(unit, config, language_field, digest, batch_bytes):
        num_met += len(batch.texts) + sum(batch.dropped.values())
        if language_field is not None and batch.languages is None:
            yield replace(batch, languages=pa.nulls(len(batch.texts), pa.string()))
        else:
            yield batch
    require_unchanged(unit.source)
    if unit.is_whole and not num_met:
        none = pa.array([], pa.string())
        yield DocumentBatch(
            none.cast(pa.large_string()),
            none,
            None if language_field is None else none,
            dropped={EMPTY: 1},
        )


def read_and_count(
    unit: CorpusUnit,
    config: CorpusConfig,
    accounts: Accounts,
    digest: "hashlib._Hash",
    *,
    language_field: str | None = None,
) -> Iterator[DocumentBatch]:
    """Read a unit's documents as ``read_documents`` does, and enter them into ``accounts``.

    Every document counts as having come in; what the readers drop is entered with its reason. The
    caller enters what it keeps of the rest.
    """
    for batch in read_documents(unit, config, language_field=language_field, digest=digest):
        accounts.add("documents", len(batch.texts) + sum(batch.dropped.values()))
        for reason, number in batch.dropped.items():
            accounts.drop("documents", reason, number)
        if batch.replaced:
            accounts.count("replaced_documents", batch.replaced)
        yield batch


def digest_unit(
    unit: CorpusUnit, config: CorpusConfig, *, language_field: str | None = None
) -> str:
    """SHA-256 of what ``read_documents`` reads of a unit, without keeping any of it.

    Raises:
        TokkitError: where the input is damaged or has changed since the planning.
    """
    digest = hashlib.sha256()
    if unit.source.is_table:
        for _ in read_rows(unit, config, language_field, digest, BATCH_BYTES):
            pass
    else:
        buffer = memoryview(bytearray(BATCH_BYTES))
        with open_stream(unit, digest) as stream:
            while stream.fill(buffer) == len(buffer):
                pass
    require_unchanged(unit.source)
    return digest.hexdigest()


def _read(
    unit: CorpusUnit,
    config: CorpusConfig,
    language_field: str | None,
    digest: "hashlib._Hash | None",
    batch_bytes: int,
) -> Iterator[DocumentBatch]:
    """Read a unit by its format."""
    if unit.source.is_table:
        yield from read_rows(unit, config, language_field, digest, batch_bytes)
        return
    with open_stream(unit, digest) as stream:
        if unit.source.format == "jsonl":
            yield from read_records(stream, config, language_field, batch_bytes)
        else:
            yield from read_text(stream, config, batch_bytes)


def digest_group(
    group: Group, config: CorpusConfig, language_field: str | None = None
) -> list[str]:
    """SHA-256 of what is read of each of its files, without keeping any of it.

    Raises:
        TokkitError: where an input is damaged or has changed since the planning.
    """
    return [digest_unit(unit, config, language_field=language_field) for unit in group]
