"""Rows of shards as text that people read."""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
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


def show_rows(path: Path, num_rows: int) -> list[str]:
    """The first rows of a shard, with the masks that its instances have or will get.

    Args:
        path: of the shard; its manifest and the tokenizer that made it lie beside it.
        num_rows: how many to show, if there are as many.

    Raises:
        TokkitError: where the shard is damaged, or its folder unfinished.
    """
    folder = ShardFolder.open(path.parent, read_header(path).kind)
    tokenizer = load_tokenizer(folder.tokenizer_path)
    if tokenizer.fingerprint != folder.header.tokenizer_fingerprint:
        raise TokkitError(
            f"{folder.tokenizer_path}: is not what {path} was made with; make the folder again"
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
    """The rows of a shard as dictionaries, ids as arrays."""
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
    """The first instances of a shard as the loader masks them in epoch 0 with default options."""
    prefix = shard.split("-", maxsplit=1)[0] + "-"
    reader = InstanceReader(folder, prefix, with_words=True)
    (there,) = (there for there in folder.shards if there.name == shard)
    start = sum(before.rows for before in folder.shards if prefix <= before.name < shard)
    numbers = np.arange(start, start + min(num_rows, there.rows), dtype=np.uint64)
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
    """Ragged instances as rows, by the names of their columns."""
    words = np.unpackbits(instances.word_starts, bitorder="little").astype(np.bool_)
    labels = instances.next_sentence_labels.tolist()
    return [
        {
            "document": instances.documents[number],
            "input_ids": instances.input_ids[slice(*ids)],
            "word_starts": words[slice(*ids)],
            "masked_positions": instances.masks.positions[slice(*places)],
            "masked_labels": instances.masks.labels[slice(*places)],
            "next_sentence_label": None if labels[number] == NO_LABEL else labels[number],
        }
        for number, (ids, places) in enumerate(
            zip(pairwise(instances.offsets), pairwise(instances.masks.offsets), strict=True)
        )
    ]


def show_document(row: Row, tokenizer: Tokenizer) -> str:
    """A document: its name and size, and its first sentences, a line each."""
    lengths = row["sentence_lengths"]
    lines = [f"{row['document']}: {len(lengths)} sentences, {len(row['input_ids'])} tokens"]
    offsets = np.cumsum([0, *lengths[:SENTENCES_SHOWN]])
    for start, stop in pairwise(offsets):
        words = show_tokens(row["input_ids"][start:stop], row["word_starts"][start:stop], tokenizer)
        lines.append(f"  {words}")
    if len(lengths) > SENTENCES_SHOWN:
        lines.append(f"  ({len(lengths) - SENTENCES_SHOWN} more)")
    return "\n".join(lines)


LABELS = {
    "nsp": {0: ", B follows A", 1: ", B is random"},
    "sop": {0: ", A and B in order", 1: ", A and B swapped"},
}


def show_instance(row: Row, tokenizer: Tokenizer, objective: str) -> str:
    """An instance: where it is from, its tokens with the masks, and what is to be predicted."""
    facts = [f"{len(row['input_ids'])} tokens"]
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
            f"{p} {_token_text(row['input_ids'][p], tokenizer)}" for p in row["target_positions"]
        )
        lines.append(f"  predicted in this order: {', '.join(order)}")
    return "\n".join(lines)


def show_tokens(
    ids: npt.NDArray[Any],
    word_starts: npt.NDArray[np.bool_],
    tokenizer: Tokenizer,
    masks: dict[int, int] | None = None,
) -> str:
    """Tokens as text, those of one word together.

    Args:
        ids: token ids.
        word_starts: true where a token begins a word; control tokens stand alone.
        tokenizer: that made them.
        masks: the true id at each masked position.
    """
    masks = masks or {}
    parts: list[str] = []
    for position, (token, starts) in enumerate(
        zip(ids.tolist(), word_starts.tolist(), strict=True)
    ):
        text = _token_text(token, tokenizer)
        if position in masks:
            shown = text.strip("[]<>") if token == tokenizer.special_ids.get("mask") else text
            text = f"[{shown}→{_token_text(masks[position], tokenizer)}]"
        alone = starts or token in tokenizer.all_special_ids
        parts.append(f" {text}" if alone else text)
    return "".join(parts).strip()


def _token_text(token: int, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([token]).strip().removeprefix("##")
