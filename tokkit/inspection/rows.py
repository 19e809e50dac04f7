"""Rows of shards as text that people read."""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.shards.reader import check_batch, open_shard, ragged, read_header
from tokkit.vocab.tokenizer import Tokenizer, load_tokenizer

SENTENCES_SHOWN = 5


def show_rows(path: Path, num_rows: int) -> list[str]:
    """The first rows of a shard.

    Args:
        path: of the shard; the tokenizer that made it lies beside it.
        num_rows: how many to show, if there are as many.

    Raises:
        TokkitError: where the shard is damaged or its tokenizer missing.
    """
    header = read_header(path)
    tokenizer = load_tokenizer(path.parent / "tokenizer")
    if tokenizer.fingerprint != header.tokenizer_fingerprint:
        raise TokkitError(
            f"{path}: was not made with the tokenizer beside it; make the folder again"
        )
    show = show_document if header.kind == "tokens" else show_instance
    return [show(row, tokenizer) for row in islice(_read_rows(path), num_rows)]


def _read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a shard as dictionaries, ids as arrays."""
    header, reader = read_header(path), open_shard(path)
    for index in range(reader.num_record_batches):
        batch = reader.get_batch(index)
        check_batch(batch, header, f"{path}, record batch {index}", check_ids=True)
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


def show_document(row: dict[str, Any], tokenizer: Tokenizer) -> str:
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


LABELS = {None: "", 0: ", B follows A", 1: ", B is random"}


def show_instance(row: dict[str, Any], tokenizer: Tokenizer) -> str:
    """An instance: where it is from, and its tokens with the masks."""
    masks = dict(zip(row.get("masked_positions", ()), row.get("masked_labels", ()), strict=True))
    size = (
        f"{len(row['input_ids'])} tokens, {len(masks)} masked"
        if masks
        else f"{len(row['input_ids'])} tokens"
    )
    head = f"document {row['document']}: {size}{LABELS[row['next_sentence_label']]}"
    words = show_tokens(row["input_ids"], row["word_starts"], tokenizer, masks)
    return f"{head}\n  {words}"


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
