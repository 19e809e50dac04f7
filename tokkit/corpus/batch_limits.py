"""Refuses pieces of tables that are read as a whole and take too much memory, before they are read.

pyarrow reads a record batch, or a page of Parquet, as a whole. How much it unpacks to is in the file,
see ``shards/claims.py`` and ``parquet_pages.py``.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.corpus.sources import Source
from tokkit.corpus.units import CorpusUnit
from tokkit.errors import TokkitError
from tokkit.shards.claims import (
    DICTIONARIES,
    RECORD_BATCHES,
    Message,
    find_messages,
    measure_message,
    read_footer,
    read_message,
)

MAX_PIECE_BYTES = 512_000_000  # unpacked; pyarrow writes pages of 1,024 values, however long


@dataclass(frozen=True)
class BatchLimits:
    """Refuses record batches and dictionaries of more memory than there should be, before it is asked for.

    On a store, this reads what the record batch's reader then finds in the buffer of the file.

    Args:
        file: of the table.
        source: the same.
        config: the largest document.
        types: of all columns.
        columns: indices of those that are read.
    """

    file: Any
    source: Source
    config: CorpusConfig
    types: list[pa.DataType]
    columns: list[int]

    def check_file(self, unit: CorpusUnit) -> Iterator[int]:
        """Yield the numbers of the record batches of a unit, each checked."""
        try:
            footer = read_footer(self.file)
            for message in find_messages(footer, DICTIONARIES):
                self._check(message, "a dictionary")
            messages = find_messages(footer, RECORD_BATCHES)
            for index in range(unit.start, unit.stop):
                self._check(messages[index], f"record batch {index}")
                yield index
        except (struct.error, IndexError) as error:
            raise ValueError("a damaged footer") from error

    def check_stream(self, table: Any) -> Iterator[pa.RecordBatch]:
        """Yield the record batches of a stream, each checked with the dictionaries before it."""
        first = stop = self.file.tell()  # after the schema
        while True:
            try:
                while (message := read_message(self.file, stop)) is not None:
                    self._check(message, f"the message at byte {stop}")
                    stop = message.stop
                    if message.has_rows:
                        break
            except struct.error as error:
                raise ValueError("a damaged message") from error
            self.file.seek(first)
            first = stop
            if (rows := next(table, None)) is None:
                return
            yield rows

    def _check(self, message: Message, part: str) -> None:
        size = measure_message(self.file, message, self.types, self.columns)
        if size > max(MAX_PIECE_BYTES, self.config.max_document_bytes):
            raise TokkitError(
                f"{self.source.name}, {part}: {size:,} bytes, which are read as a whole; pass "
                f"--max-document-bytes {size}, or write it with smaller record batches, such as "
                f"1,000 rows each"
            )
