"""Rows of shards as text.

A row of tokens is shown sentence by sentence. An instance is shown as a model sees it, with the
token to be predicted next to each token that is masked:

    [CLS] the cat [MASK→sat] on the [dog→mat] [SEP] it was [warm→warm] [SEP]
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tokkit.errors import TokkitError, escape_controls, plural
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.masking.masks import MaskOptions, mask_instances
from tokkit.pretraining.data.instance_reader import InstanceReader
from tokkit.pretraining.data.loader import EVALUATION_EPOCH
from tokkit.pretraining.pretrain_config import LoaderConfig
from tokkit.shards.instances import Instances
from tokkit.shards.reader import ShardFolder, header_of, open_shard
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
    kind = header_of(open_shard(path).schema, path).kind
    folder = ShardFolder.open(path.parent, kind)
    if path.name not in folder.shards:
        raise TokkitError(f"{path}: is not in the manifest of its folder; remove it")
    tokenizer = load_tokenizer(folder.tokenizer_path)
    folder.require_tokenizer(tokenizer)
    if folder.manifest.options.get("masking") == "dynamic":
        rows = _read_masked(folder, path.name, num_rows, tokenizer)
    else:
        rows = _read_rows(folder, path.name, num_rows)
    if folder.header.kind == "tokens":
        return [show_document(row, tokenizer) for row in rows]
    objective = folder.manifest.options["objective"]
    return [show_instance(row, tokenizer, objective) for row in rows]


def _read_rows(folder: ShardFolder, shard: str, num_rows: int) -> list[Row]:
    """Read the first rows of a shard, by the names of their columns."""
    rows: list[Row] = []
    for ref in folder.batch_refs(shard):
        if len(rows) == num_rows:
            break
        rows += folder.read_batch(ref).slice(0, num_rows - len(rows)).to_pylist()
    return rows


def _read_masked(folder: ShardFolder, shard: str, num_rows: int, tokenizer: Tokenizer) -> list[Row]:
    """Read the first instances of a shard, masked as in epoch 0 with the default options."""
    prefix = shard.split("-", maxsplit=1)[0] + "-"
    reader = InstanceReader(folder, prefix, with_words=True)
    size = folder.shards[shard].rows
    start = sum(row.rows for name, row in folder.shards.items() if prefix <= name < shard)
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
    word_starts = np.unpackbits(instances.word_starts, bitorder="little").astype(np.bool_)
    labels, masks = instances.next_sentence_labels.tolist(), instances.masks
    return [
        {
            "document": instances.documents[number],
            "input_ids": instances.input_ids[start:stop].tolist(),
            "word_starts": word_starts[start:stop].tolist(),
            "segment_length": int(instances.segment_lengths[number]),
            "masked_positions": masks.positions[first:last].tolist(),
            "masked_labels": masks.labels[first:last].tolist(),
            "next_sentence_label": None if labels[number] == NO_LABEL else labels[number],
        }
        for number, ((start, stop), (first, last)) in enumerate(
            zip(pairwise(instances.offsets), pairwise(masks.offsets), strict=True)
        )
    ]


def show_document(row: Row, tokenizer: Tokenizer) -> str:
    """Show a document: its name and size, and its first sentences, one per line."""
    lengths = row["sentence_lengths"]
    size = f"{plural(len(lengths), 'sentence')}, {plural(len(row['input_ids']), 'token')}"
    lines = [f"{escape_controls(row['document'])}: {size}"]
    for start, stop in pairwise(accumulate(lengths[:SENTENCES_SHOWN], initial=0)):
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
        words = escape_controls(tokenizer.decode(row["target_ids"]))
        lines.append(f"  targets: {words}")
    if "target_positions" in row:
        order = (
            f"{p} {show_token(row['input_ids'][p], tokenizer)}" for p in row["target_positions"]
        )
        lines.append(f"  predicted in this order: {', '.join(order)}")
    return "\n".join(lines)


def show_tokens(
    ids: Sequence[int],
    word_starts: Sequence[bool],
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
    text = ""
    for position, (token, begins_word) in enumerate(zip(ids, word_starts, strict=True)):
        shown = show_token(token, tokenizer)
        if position in masks:
            if token == tokenizer.special_ids.get("mask"):
                shown = shown.strip("[]<>")
            shown = f"[{shown}→{show_token(masks[position], tokenizer)}]"
        alone = begins_word or token in tokenizer.all_special_ids
        text += f" {shown}" if alone else shown
    return text.strip()


def show_token(token: int, tokenizer: Tokenizer) -> str:
    """Show a token without the mark of where it stands in a word; never as nothing."""
    text = tokenizer.decode([token]).strip()
    if tokenizer.kind == "wordpiece":
        text = text.removeprefix("##")
    return escape_controls(text or tokenizer.tokens[token])
