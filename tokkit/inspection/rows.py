"""Rows of shards as text that people read."""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.data import InstanceReader
from tokkit.pretraining.epochs import EVALUATION_EPOCH, EpochPart
from tokkit.pretraining.masker import Masker
from tokkit.shards.reader import ShardFolder, ragged, read_header
from tokkit.vocab.tokenizer import Tokenizer, load_tokenizer

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
    rows = list(islice(_read_rows(folder, path.name), num_rows))
    if folder.header.kind == "tokens":
        return [show_document(row, tokenizer) for row in rows]
    if folder.manifest.options.get("masking") == "dynamic" and rows:
        rows = _mask_rows(rows, folder, path.name, tokenizer)
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


def _mask_rows(rows: list[Row], folder: ShardFolder, shard: str, tokenizer: Tokenizer) -> list[Row]:
    """Mask instances as the loader will in epoch 0 of a run with the default options."""
    prefix = shard.split("-", maxsplit=1)[0] + "-"
    earlier = [there.rows for there in folder.shards if prefix <= there.name < shard]
    numbers = np.arange(sum(earlier), sum(earlier) + len(rows), dtype=np.uint64)
    config = PretrainConfig(instances=folder.path, output=folder.path)
    masked = Masker(folder, tokenizer, config).mask(
        InstanceReader(folder, prefix).gather(numbers),
        numbers,
        [EpochPart(EVALUATION_EPOCH if prefix == "eval-" else 0, 0, slice(0, len(rows)))],
    )
    return [
        {
            **row,
            "input_ids": masked.input_ids[slice(*ids)],
            "masked_positions": masked.masked_positions[slice(*places)],
            "masked_labels": masked.masked_labels[slice(*places)],
        }
        for row, ids, places in zip(
            rows, pairwise(masked.offsets), pairwise(masked.masked_offsets), strict=True
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
        alone = starts or token in tokenizer.control_ids
        parts.append(f" {text}" if alone else text)
    return "".join(parts).strip()


def _token_text(token: int, tokenizer: Tokenizer) -> str:
    return tokenizer.decode([token]).strip().removeprefix("##")
