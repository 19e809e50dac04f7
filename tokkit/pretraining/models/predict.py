"""Predictions of a trained model: which tokens belong in the masks of a sentence."""

from pathlib import Path

import torch

from tokkit.errors import TokkitError
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.models.bert import Inputs
from tokkit.pretraining.models.export import read_config, read_export
from tokkit.tokenizer.masked_text import encode_masked
from tokkit.tokenizer.tokenizer import load_tokenizer

Answer = tuple[str, float]


def fill_mask(folder: Path, sentence: str, top: int = 5) -> list[list[Answer]]:
    """Predict the masked tokens of a sentence.

    Args:
        folder: an export, with model and tokenizer.
        sentence: text with masks, such as ``The [MASK] is empty.``, see ``encode_masked``.
        top: number of answers for each mask.

    Returns:
        For each mask, in order, the most likely tokens with their probabilities, best first.

    Raises:
        UsageError: where the sentence holds no mask.
        TokkitError: where the folder is not a complete export, its model was trained without masks,
            or the sentence is too long.
    """
    config = read_config(folder)
    if config.is_causal:
        raise TokkitError(
            f"{folder}: a GPT-2 predicts the next token and fills no masks; "
            f"use GPT2LMHeadModel of transformers to generate text"
        )
    tokenizer = load_tokenizer(folder)
    ids = encode_masked(tokenizer, sentence)
    if len(ids) > config.max_position_embeddings:
        raise TokkitError(
            f"{folder}: the sentence has {len(ids)} tokens, but the model "
            f"{config.max_position_embeddings} positions; shorten it"
        )
    model = read_export(folder)
    with torch.inference_mode():
        logits_MV, _ = model.logits(_make_inputs(ids, tokenizer.special_ids["mask"]))
    best = logits_MV.softmax(dim=1).topk(min(top, tokenizer.vocab_size))
    return [
        [(tokenizer.tokens[number], share) for number, share in zip(numbers, shares, strict=True)]
        for numbers, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def _make_inputs(ids: list[int], mask_id: int) -> Inputs:
    """Return a batch of one sequence, whose masks are predicted."""
    input_ids_N = torch.tensor(ids)
    masked_positions_M = torch.nonzero(input_ids_N == mask_id).flatten()
    return Inputs(
        input_ids_N=input_ids_N,
        token_type_ids_N=torch.zeros_like(input_ids_N),
        position_ids_N=torch.arange(len(ids)),
        row_ids_N=torch.zeros_like(input_ids_N),
        cu_seqlens=torch.tensor([0, len(ids)], dtype=torch.int32),
        predicted_positions_M=masked_positions_M,
        labels_M=torch.full_like(masked_positions_M, NO_LABEL),
        pair_labels_S=torch.tensor([NO_LABEL]),
        max_seqlen=len(ids),
    )
