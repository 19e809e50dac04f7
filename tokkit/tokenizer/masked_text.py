"""Sentences with masks, as a person writes them for a trained model (``The [MASK] is empty.``).

``[MASK]`` stands for the mask token of any tokenizer; its own spelling, such as RoBERTa's ``<mask>``,
is understood as well.
"""

import re

from tokkit.errors import TokkitError, UsageError
from tokkit.tokenizer.tokenizer import Tokenizer

MASK = "[MASK]"


def encode_masked(tokenizer: Tokenizer, sentence: str) -> list[int]:
    """Return the ids of ``[CLS]``, the sentence with its masks, and ``[SEP]``.

    Text never becomes a special token, so the text between two masks is encoded by itself. White
    space before a mask belongs to the mask, as in RoBERTa; that after it may belong to a word.

    Raises:
        UsageError: where the sentence holds no mask.
        TokkitError: where the tokenizer lacks a special token, or is a sentencepiece model.
    """
    tokenizer.require_special("cls", "sep", "mask")
    special = tokenizer.special_ids
    pieces = split_at_masks(sentence, tokenizer.tokens[special["mask"]])
    if tokenizer.library is None:
        raise TokkitError(f"{tokenizer.path}: sentencepiece models cannot fill masks yet")
    ids = [special["cls"]]
    for number, piece in enumerate(pieces):
        if number:
            ids.append(special["mask"])
        ids += tokenizer.library.encode(piece.rstrip(), add_special_tokens=False).ids
    return [*ids, special["sep"]]


def split_at_masks(sentence: str, mask_token: str) -> list[str]:
    """Return the text before, between and after the masks, at least two pieces.

    Raises:
        UsageError: where the sentence holds no mask.
    """
    pieces = re.split(f"{re.escape(MASK)}|{re.escape(mask_token)}", sentence)
    if len(pieces) == 1:
        known = MASK if mask_token == MASK else f"{MASK} or {mask_token}"
        raise UsageError(f"{sentence!r}: has no {known} to predict")
    return pieces
