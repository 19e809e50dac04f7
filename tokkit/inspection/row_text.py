"""Rows of shards as text, and which: the first ones, the longest, or those with a text or of a source.

A row of tokens is shown sentence by sentence. An instance is shown as a model sees it, with the
token to be predicted next to each token that is masked:

    [CLS] the cat [MASK→sat] on the [dog→mat] [SEP] it was [warm→warm] [SEP]
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import nlargest
from itertools import accumulate, islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokkit.errors import TokkitError, escape_controls, keep_ends, plural, require
from tokkit.inspection.token_text import show_token, show_tokens
from tokkit.masking.masks import MaskOptions, mask_instances
from tokkit.pretraining.data.instance_reader import InstanceReader
from tokkit.pretraining.data.loader import EVALUATION_EPOCH
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.shards.instances import VALUE_COLUMNS, Instances
from tokkit.shards.reader import ShardFolder
from tokkit.shards.shard import header_of
from tokkit.shards.shard_file import read_schema
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

SENTENCES_SHOWN = 5
LABELS = {
    "nsp": {0: ", B follows A", 1: ", B is random"},
    "sop": {0: ", A and B in order", 1: ", A and B swapped"},
}

Place = tuple[str, int]  # name of the shard, number of the row in it
Row = dict[str, Any]  # by the names of columns


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
) -> dict[Place, pa.RecordBatch]:
    """Return the rows that are wanted, each as a record batch of it alone.

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
    found: list[tuple[int, Place, pa.RecordBatch]] = []
    for shard in shards:
        start = 0
        for ref in folder.batch_refs(shard):
            if len(found) >= query.num_rows and not query.longest:
                break
            batch = folder.read_batch(ref, copied=True)  # which no writer of the file changes
            lengths = np.diff(batch.column("input_ids").offsets.to_numpy()).tolist()
            rows = (row for row in range(len(batch)) if _matches(batch, row, query, tokenizer))
            chosen: Iterable[int] = islice(rows, max(0, query.num_rows - len(found)))
            if query.longest:  # of equally long ones, the first
                chosen = nlargest(query.num_rows, rows, key=lengths.__getitem__)
            found += [(lengths[n], (shard, start + n), batch.slice(n, 1)) for n in chosen]
            if query.longest:
                found = nlargest(query.num_rows, found, key=lambda entry: entry[0])
            start += ref.rows
    return {place: batch for _, place, batch in found}


def _matches(batch: pa.RecordBatch, row: int, query: RowQuery, tokenizer: Tokenizer) -> bool:
    if query.source is not None and query.source not in batch.column("document")[row].as_py():
        return False
    return query.text is None or _contains(batch, row, query.text, tokenizer)


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


def show_rows(
    path: Path, shards: Sequence[str], query: RowQuery, *, color: bool = False
) -> list[str]:
    """Return rows as text, with static masks or those of the first epoch.

    Args:
        path: folder of the shards.
        shards: names of the shards that are searched.
        query: which rows.
        color: whether to tell tokens apart by their background, for a terminal.

    Raises:
        UsageError: if the query has no effect.
        TokkitError: if a shard is damaged, or its folder is unfinished.
    """
    kind = header_of(read_schema(path / shards[0]), path / shards[0]).kind
    folder = ShardFolder.open(path, kind)
    for name in shards:
        if name not in folder.shards:
            raise TokkitError(f"{path / name}: is not in the manifest of its folder; remove it")
    tokenizer = load_tokenizer(folder.tokenizer_path)
    folder.require_tokenizer(tokenizer)
    found = find_rows(folder, shards, query, tokenizer)
    if folder.manifest.options.get("masking") == "dynamic":
        rows = _read_masked(folder, [*found], tokenizer)
    else:
        rows = [batch.to_pylist()[0] for batch in found.values()]
    if folder.header.kind == "tokens":
        return [show_document(row, tokenizer, text=query.text, color=color) for row in rows]
    objective = folder.manifest.options["objective"]
    return [show_instance(row, tokenizer, objective, color=color) for row in rows]


def _read_masked(folder: ShardFolder, places: Sequence[Place], tokenizer: Tokenizer) -> list[Row]:
    """Read instances, masked as in epoch 0 with the default options."""
    config = LoaderConfig(instances=(folder.path,))
    options = MaskOptions.make(config, tokenizer, folder.header)
    rows: dict[Place, Row] = {}
    for prefix in ("train-", "eval-"):
        own = [place for place in places if place[0].startswith(prefix)]
        if not own:
            continue
        starts, size = {}, 0
        for name, shard in folder.shards.items():
            if name.startswith(prefix):
                starts[name] = size
                size += shard.rows
        numbers = np.array([starts[shard] + row for shard, row in own], np.uint64)
        masked = mask_instances(
            InstanceReader(folder, prefix, with_words=True).gather(numbers),
            options,
            seed=config.seed,
            epoch=EVALUATION_EPOCH if prefix == "eval-" else 0,
        )
        rows |= zip(own, split_instances(masked), strict=True)
    return [rows[place] for place in places]


def split_instances(instances: Instances) -> list[Row]:
    """Split ragged instances into rows by the names of their columns."""
    word_starts = np.unpackbits(instances.word_starts, bitorder="little").astype(np.bool_)
    predicted = instances.predictions
    values = [
        (column.name, column.write(getattr(instances, name)).to_pylist())
        for name, column in VALUE_COLUMNS.items()
    ]
    return [
        {
            "input_ids": instances.input_ids[start:stop].tolist(),
            "word_starts": word_starts[start:stop].tolist(),
            **{name: column[first:last].tolist() for name, column in predicted.columns.items()},
            **{name: column[number] for name, column in values},
        }
        for number, ((start, stop), (first, last)) in enumerate(
            zip(pairwise(instances.offsets), pairwise(predicted.offsets), strict=True)
        )
    ]


def show_document(
    row: Row, tokenizer: Tokenizer, *, text: str | None = None, color: bool = False
) -> str:
    """Show a document: its name and size, and its first sentences, one per line.

    With ``text``, the sentences that contain it are shown, if any does by itself.
    """
    lengths = row["sentence_lengths"]
    size = f"{plural(len(lengths), 'sentence')}, {plural(len(row['input_ids']), 'token')}"
    lines = [f"{escape_controls(keep_ends(row['document']))}: {size}"]
    bounds = [*pairwise(accumulate(lengths, initial=0))]
    if text is not None:
        ids = row["input_ids"]
        found = [b for b in bounds if contains_text(ids[slice(*b)], text, tokenizer)]
        bounds = found or bounds
    for start, stop in bounds[:SENTENCES_SHOWN]:
        words = show_tokens(
            row["input_ids"][start:stop], row["word_starts"][start:stop], tokenizer, color=color
        )
        lines.append(f"  {words}")
    if len(lengths) > len(lines) - 1:
        lines.append(f"  ({len(lengths) - len(lines) + 1:,} more)")
    return "\n".join(lines)


def masks_of(row: Row) -> dict[int, int]:
    """Return the id to be predicted at each masked position of an instance."""
    return dict(zip(row.get("masked_positions", ()), row.get("masked_labels", ()), strict=True))


def show_instance(row: Row, tokenizer: Tokenizer, objective: str, *, color: bool = False) -> str:
    """Show an instance: the document that it begins in, its tokens, and what is predicted."""
    facts = [plural(len(row["input_ids"]), "token")]
    masks = masks_of(row)
    if "masked_positions" in row:
        facts.append(f"{len(masks)} masked")
    label = LABELS.get(objective, {}).get(row["next_sentence_label"], "")
    lines = [f"document {row['document']}: {', '.join(facts)}{label}"]
    words = show_tokens(row["input_ids"], row["word_starts"], tokenizer, masks, color=color)
    lines.append(f"  {words}")
    if "target_ids" in row:
        words = escape_controls(tokenizer.decode(row["target_ids"]))
        lines.append(f"  targets: {words}")
    if "target_positions" in row:
        order = (
            f"{p} {show_token(row['input_ids'][p], tokenizer)}" for p in row["target_positions"]
        )
        lines.append(f"  predicted in this order: {', '.join(order)}")
    return "\n".join(lines)
