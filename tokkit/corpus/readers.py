r"""Reading a unit as batches of documents, of any format.

For a corpus of one file ``two.txt`` that holds ``A cat.\r\nIt sat.\r\n\r\nA dog.``:

    config = CorpusConfig(inputs=("two.txt",))
    for unit in plan_units(config):
        for batch in read_documents(unit, config):
            batch.texts     # A cat.\nIt sat.    A dog.
            batch.names     # two.txt:0          two.txt:19
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pyarrow as pa

from tokkit.corpus.corpus_config import FORMATS, CorpusConfig, names_language
from tokkit.corpus.csv_rows import read_csv
from tokkit.corpus.documents import EMPTY, DocumentBatch, empty_batch
from tokkit.corpus.file_systems import open_files
from tokkit.corpus.records import read_records
from tokkit.corpus.streams import open_stream, require_same
from tokkit.corpus.text import read_text
from tokkit.corpus.units import CorpusUnit
from tokkit.engine.accounts import Accounts
from tokkit.errors import TokkitError

BATCH_BYTES = 8 << 20
_READERS = {"text": read_text, "records": read_records, "csv": read_csv}


def read_and_count(
    unit: CorpusUnit,
    config: CorpusConfig,
    accounts: Accounts,
    digest: "hashlib._Hash",
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[DocumentBatch]:
    """Read a unit's documents as ``read_documents`` does, and enter them into ``accounts``.

    Every document counts as having come in; dropped documents are entered by reason. The caller
    enters those that it keeps. A language that is none becomes null, for ``--language``, and counts.
    """
    for batch in read_documents(unit, config, digest, batch_bytes):
        accounts.add("documents", len(batch.texts) + sum(batch.dropped.values()))
        for reason, number in batch.dropped.items():
            accounts.drop("documents", reason, number)
        if batch.replaced:
            accounts.count("replaced_documents", batch.replaced)
        if config.language_field is not None and batch.languages is not None:
            own = batch.languages.to_pylist()
            known = set(filter(names_language, set(own)))
            languages = [name if name in known else None for name in own]
            accounts.count("documents_of_unknown_language", languages.count(None))
            batch = replace(batch, languages=pa.array(languages, pa.string()))  # noqa: PLW2901
        yield batch


def read_documents(
    unit: CorpusUnit,
    config: CorpusConfig,
    digest: "hashlib._Hash | None" = None,
    batch_bytes: int = BATCH_BYTES,
) -> Iterator[DocumentBatch]:
    """Read a unit's documents in order.

    A whole file without any document counts as one empty document.

    Args:
        unit: from ``plan_units``.
        config: the config that the unit was planned with.
        digest: updated with the bytes that are read, after decompression: of a whole plain file, it
            becomes the file's own SHA-256. For a table, it gets the columns that are read.
        batch_bytes: about how many bytes of text a batch has; a longer document has its own.

    Raises:
        TokkitError: if the input is damaged, has changed since it was planned, or holds what
            ``config.errors`` refuses.
    """
    if unit.source.format == "counts":
        raise TokkitError(
            f"{unit.source.name}: holds words and their counts, which only tokkit train reads; "
            f"name a file of text, or pass --format text"
        )
    num_documents = 0
    for batch in _read(unit, config, digest, batch_bytes):
        num_documents += len(batch.texts) + sum(batch.dropped.values())
        yield batch
    require_same(unit)
    if unit.is_whole and not num_documents:
        yield empty_batch({EMPTY: 1})


def _read(
    unit: CorpusUnit, config: CorpusConfig, digest: "hashlib._Hash | None", batch_bytes: int
) -> Iterator[DocumentBatch]:
    if unit.source.is_table:
        from tokkit.corpus.table_rows import read_rows  # imports modules of pyarrow for 80 ms

        yield from read_rows(unit, config, digest, batch_bytes)
        return
    with open_stream(unit, digest) as stream:
        yield from _READERS[FORMATS[unit.source.format].reader](stream, config, batch_bytes)


def read_ahead(group: Sequence[CorpusUnit]) -> Iterator[CorpusUnit]:
    """Yield the units of a group; small files on S3 are read several ahead, and have their content."""
    if all(unit.source.uri is None for unit in group):
        yield from group
        return
    from tokkit.corpus.remote_files import NUM_AHEAD, RemoteFiles, read_several

    for uri in {unit.source.uri for unit in group}:
        open_files(uri)  # once, and not in each thread

    def read(unit: CorpusUnit) -> CorpusUnit:
        source, content = unit.source, None
        files = open_files(source.uri)
        if isinstance(files, RemoteFiles) and unit.is_whole and not source.is_table:
            content = files.read_small(source.path, source.bytes, source.mtime_ns)
        return unit if content is None else replace(unit, content=content)

    yield from read_several(read, group, NUM_AHEAD)


def digest_unit(unit: CorpusUnit, config: CorpusConfig) -> str:
    """Return the SHA-256 of what ``read_documents`` reads of a unit, without keeping any text.

    Raises:
        TokkitError: if an input is damaged or has changed since it was planned.
    """
    digest = hashlib.sha256()
    if unit.source.is_table:
        from tokkit.corpus.table_rows import read_rows

        for _ in read_rows(unit, config, digest, BATCH_BYTES):
            pass
    else:
        buffer = memoryview(bytearray(BATCH_BYTES))
        with open_stream(unit, digest) as stream:
            while stream.fill(buffer) == len(buffer):
                pass
    require_same(unit)
    return digest.hexdigest()
