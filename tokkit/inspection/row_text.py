"""Rows of shards as text.

A row of tokens is shown sentence by sentence. An instance is shown as a model sees it, with the
token to be predicted next to each token that is masked:

    [CLS] the cat [MASK→sat] on the [dog→mat] [SEP] it was [warm→warm] [SEP]
"""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError, plural
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.masking.masks import MaskOptions, mask_instances
from tokkit.pretraining.data.instance_reader import InstanceReader
from tokkit.pretraining.data.loader import EVALUATION_EPOCH
from tokkit.pretraining.pretrain_config import LoaderConfig
from tokkit.shards.instances import Instances
from tokkit.shards.reader import ShardFolder, ragged, read_header
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

Row = dict[str, Any]

SENTENCES_SHOWN = 5

LABELS = {
    "nsp": {0: ", B follows A", 1: ", B is random"},
    "sop": {0: ", A and B in order", 1: ", A and B swapped"},
}


def show_rows(path: Path, num_rows: int) -> list[str]:
    """Return the first rows of a shard as text, with static masks or those of the first epoch.

    Args:
        path: the shard, in its folder.
        num_rows: maximum number of rows.

    Raises:
        TokkitError: if the shard is damaged, or its folder is unfinished.
    """
    folder = ShardFolder.open(path.parent, read_header(path).kind)
    tokenizer = load_tokenizer(folder.tokenizer_path)
    if tokenizer.fingerprint != folder.header.tokenizer_fingerprint:
        raise TokkitError(
            f"{folder.tokenizer_path}: is not the tokenizer that made {path}; make the folder again"
        )
    if folder.manifest.options.get("masking") == "dynamic":
        rows = _read_masked(folder, path.name, num_rows, tokenizer)
    else:
        rows = list(islice(_read_rows(folder, path.name), num_rows))
    if folder.header.kind == "tokens":
        return [show_document(row, tokenizer) for row in rows]
    objective = folder.manifest.options["objective"]
    return [show_instance(row, tokenizer, objective) for row in rows]


def _read_rows(folder: ShardFolder, shard: str) -> Iterator[Row]:
    """Yield the rows of a shard by the names of their columns, ids as arrays."""
    for ref in folder.batch_refs(shard):
        batch = folder.read_batch(ref)
        columns = {
            name: ragged(column) if pa.types.is_large_list(column.type) else column.to_pylist()
            for name, column in zip(batch.schema.names, batch.columns, strict=True)
        }
        for row in range(len(batch)):
            yield {
                name: column[0][column[1][row] : column[1][row + 1]]
                if isinstance(column, tuple)
                else column[row]
                for name, column in columns.items()
            }


def _read_masked(folder: ShardFolder, shard: str, num_rows: int, tokenizer: Tokenizer) -> list[Row]:
    """Read the first instances of a shard, masked as in epoch 0 with the default options."""
    prefix = shard.split("-", maxsplit=1)[0] + "-"
    reader = InstanceReader(folder, prefix, with_words=True)
    (size,) = (row.rows for row in folder.shards if row.name == shard)
    start = sum(row.rows for row in folder.shards if prefix <= row.name < shard)
    numbers = np.arange(start, start + min(num_rows, size), dtype=np.uint64)
    if not len(numbers):
        return []
    config = LoaderConfig(instances=(folder.path,))
    return split_instances(
        mask_instances(
            reader.gather(numbers),
            MaskOptions.make(config, tokenizer, folder.header),
            seed=config.seed,
            epoch=EVALUATION_EPOCH if prefix == "eval-" else 0,
        )
    )


def split_instances(instances: Instances) -> list[Row]:
    """Split ragged instances into rows by the names of their columns."""
    words = np.unpackbits(instances.word_starts, bitorder="little").astype(np.bool_)
    labels = instances.next_sentence_labels.tolist()
    masks = instances.masks
    return [
        {
            "document": instances.documents[number],
            "input_ids": instances.input_ids[slice(*tokens)],
            "word_starts": words[slice(*tokens)],
            "masked_positions": masks.positions[slice(*masked)],
            "masked_labels": masks.labels[slice(*masked)],
            "next_sentence_label": None if labels[number] == NO_LABEL else labels[number],
        }
        for number, (tokens, masked) in enumerate(
            zip(pairwise(instances.offsets), pairwise(masks.offsets), strict=True)
        )
    ]


def show_document(row: Row, tokenizer: Tokenizer) -> str:
    """Show a document: its name and size, and its first sentences, one per line."""
    lengths = row["sentence_lengths"]
    size = f"{plural(len(lengths), 'sentence')}, {plural(len(row['input_ids']), 'token')}"
    lines = [f"{row['document']}: {size}"]
    offsets = np.cumsum([0, *lengths[:SENTENCES_SHOWN]])
    for start, stop in pairwise(offsets):
        words = show_tokens(row["input_ids"][start:stop], row["word_starts"][start:stop], tokenizer)
        lines.append(f"  {words}")
    if len(lengths) > SENTENCES_SHOWN:
        lines.append(f"  ({len(lengths) - SENTENCES_SHOWN:,} more)")
    return "\n".join(lines)


def show_instance(row: Row, tokenizer: Tokenizer, objective: str) -> str:
    """Show an instance: the document that it begins in, its tokens, and what is predicted."""
    facts = [plural(len(row["input_ids"]), "token")]
    masks: dict[int, int] = {}
    if "masked_positions" in row:
        masks = dict(zip(row["masked_positions"], row["masked_labels"], strict=True))
        facts.append(f"{len(masks)} masked")
    label = LABELS.get(objective, {}).get(row["next_sentence_label"], "")
    lines = [f"document {row['document']}: {', '.join(facts)}{label}"]
    lines.append(f"  {show_tokens(row['input_ids'], row['word_starts'], tokenizer, masks)}")
    if "target_ids" in row:
        words = tokenizer.decode(row["target_ids"].tolist())
        lines.append(f"  targets: {words}")
    if "target_positions" in row:
        order = (
            f"{p} {show_token(row['input_ids'][p], tokenizer)}" for p in row["target_positions"]
        )
        lines.append(f"  predicted in this order: {', '.join(order)}")
    return "\n".join(lines)


def show_tokens(
    ids: npt.NDArray[Any],
    word_starts: npt.NDArray[np.bool_],
    tokenizer: Tokenizer,
    masks: dict[int, int] | None = None,
) -> str:
    """Show tokens, those of one word without a space between them.

    Args:
        ids: token ids.
        word_starts: whether a word begins at each token; special tokens always stand alone.
        tokenizer: the tokenizer of the ids.
        masks: the id to be predicted at each masked position.
    """
    masks = masks or {}
    parts: list[str] = []
    for position, (token, starts) in enumerate(
        zip(ids.tolist(), word_starts.tolist(), strict=True)
    ):
        text = show_token(token, tokenizer)
        if position in masks:
            shown = text.strip("[]<>") if token == tokenizer.special_ids.get("mask") else text
            text = f"[{shown}→{show_token(masks[position], tokenizer)}]"
        alone = starts or token in tokenizer.all_special_ids
        parts.append(f" {text}" if alone else text)
    return "".join(parts).strip()


def show_token(token: int, tokenizer: Tokenizer) -> str:
    """Show a token without the mark of where it stands in a word; never as nothing."""
    text = tokenizer.decode([token]).strip()
    if tokenizer.kind == "wordpiece":
        text = text.removeprefix("##")
    return text or tokenizer.tokens[token]
