"""Asking a trained model: what stands where a sentence says ``[MASK]``?"""

from pathlib import Path

import torch

from tokkit.errors import TokkitError, UsageError
from tokkit.pretraining.export import read_export
from tokkit.vocab.tokenizer import Tokenizer, load_tokenizer

Answer = tuple[str, float]


def fill_mask(folder: Path, sentence: str, top: int = 5) -> list[list[Answer]]:
    """Predict the masked tokens of a sentence.

    Args:
        folder: an export, with model and tokenizer.
        sentence: text that holds the mask token, such as ``The [MASK] is empty.``
        top: how many answers to give for each mask.

    Returns:
        For each mask, in order, the likeliest entries with their probabilities, best first.

    Raises:
        UsageError: where the sentence holds no mask token.
        TokkitError: where the folder is not a whole export, or the sentence is too long for it.
    """
    tokenizer = load_tokenizer(folder)
    ids = encode_masked(tokenizer, sentence)
    masked_positions = [
        i for i, number in enumerate(ids) if number == tokenizer.special_ids["mask"]
    ]
    model = read_export(folder)
    if len(ids) > model.config.max_position_embeddings:
        raise TokkitError(
            f"{folder}: the sentence has {len(ids)} tokens, "
            f"the model {model.config.max_position_embeddings} positions; shorten it"
        )
    input_ids_BT = torch.tensor([ids])
    with torch.inference_mode():
        logits_MV, _ = model(
            input_ids_BT, torch.zeros_like(input_ids_BT), None, torch.tensor(masked_positions)
        )
    best = logits_MV.softmax(dim=1).topk(min(top, tokenizer.vocab_size))
    return [
        [(tokenizer.token(number), share) for number, share in zip(numbers, shares, strict=True)]
        for numbers, shares in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def encode_masked(tokenizer: Tokenizer, sentence: str) -> list[int]:
    """Ids of ``[CLS]``, the sentence with its masks, and ``[SEP]``.

    Text never becomes a control token, so the text between two masks is encoded by itself. White
    space before a mask is the mask's own, as in RoBERTa; that after it may belong to a word.
    """
    tokenizer.require_special("cls", "sep", "mask")
    special = tokenizer.special_ids
    mask = tokenizer.token(special["mask"])
    pieces = sentence.split(mask)
    if len(pieces) == 1:
        raise UsageError(f"{sentence!r}: has no {mask} to predict")
    if tokenizer.library is None:
        raise TokkitError(f"{tokenizer.path}: sentencepiece models cannot be asked for masks yet")
    ids = [special["cls"]]
    for number, piece in enumerate(pieces):
        if number:
            ids.append(special["mask"])
        ids += tokenizer.library.encode(piece.rstrip(), add_special_tokens=False).ids
    return [*ids, special["sep"]]
