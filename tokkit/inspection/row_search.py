"""Finding rows of shards: the first ones, the longest, or those with a text or of a source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from heapq import nlargest

import pyarrow as pa

from tokkit.errors import require
from tokkit.shards.reader import BatchRef, ShardFolder
from tokkit.tokenizer.tokenizer import Tokenizer

Place = tuple[str, int]  # name of the shard, number of the row in it


@dataclass(frozen=True)
class RowQuery:
    """Which rows are wanted.

    Attributes:
        num_rows: how many, at most.
        text: they contain this text, in whatever case.
        source: the name of their document contains this, such as a file's name.
        longest: those with the most tokens come first; else the first rows.
    """

    num_rows: int
    text: str | None = None
    source: str | None = None
    longest: bool = False

    @property
    def is_search(self) -> bool:
        """Whether rows are looked for in all shards."""
        return self.longest or self.text is not None or self.source is not None


def find_rows(
    folder: ShardFolder, shards: Sequence[str], query: RowQuery, tokenizer: Tokenizer
) -> list[Place]:
    """Return where the wanted rows are.

    Args:
        folder: of the shards.
        shards: names of those that are searched, in order.
        query: what is wanted.
        tokenizer: of the folder.

    Raises:
        UsageError: if instances are searched for a source, whose name they do not have.
        TokkitError: if a shard is damaged.
    """
    require(
        query.source is None or folder.header.kind == "tokens",
        f"{folder.path}: instances do not name their documents; leave out --source, or look into "
        f"the token folder",
    )
    found: list[tuple[int, Place]] = []
    for shard in shards:
        if not query.is_search:
            rows = min(folder.shards[shard].rows, query.num_rows - len(found))
            found += ((0, (shard, row)) for row in range(rows))
            continue
        start = 0
        for ref in folder.batch_refs(shard):
            for row, length in _match(folder, ref, query, tokenizer):
                if len(found) == query.num_rows and not query.longest:
                    return [place for _, place in found]
                found.append((length, (shard, start + row)))
            start += ref.rows
            if query.longest:  # of equally long ones, the first
                found = nlargest(query.num_rows, found, key=lambda entry: entry[0])
    return [place for _, place in found]


def _match(
    folder: ShardFolder, ref: BatchRef, query: RowQuery, tokenizer: Tokenizer
) -> Iterator[tuple[int, int]]:
    """Yield the number and the length of each row of a record batch that matches."""
    batch = folder.read_batch(ref, copied=True)
    offsets = batch.column("input_ids").offsets.to_numpy()
    for row in range(len(batch)):
        if query.source is not None and query.source not in batch.column("document")[row].as_py():
            continue
        if query.text is not None and not _contains(batch, row, query.text, tokenizer):
            continue
        yield row, int(offsets[row + 1] - offsets[row])


def _contains(batch: pa.RecordBatch, row: int, text: str, tokenizer: Tokenizer) -> bool:
    """Return whether a row contains a text; static masks are undone."""
    ids = batch.column("input_ids")[row].as_py()
    if "masked_positions" in batch.schema.names:
        positions = batch.column("masked_positions")[row].as_py()
        labels = batch.column("masked_labels")[row].as_py()
        for position, label in zip(positions, labels, strict=True):
            ids[position] = label
    return contains_text(ids, text, tokenizer)


def contains_text(ids: Sequence[int], text: str, tokenizer: Tokenizer) -> bool:
    """Return whether what ids decode to contains a text, in whatever case."""
    return text.casefold() in tokenizer.decode(ids).casefold()
