"""Special tokens: tokens with a meaning for the model, which plain text never becomes.

Some have a role, a key of ``ROLES``, that the stages ask for by name. A vocabulary spells it in one
of a few ways, of which the first that it has counts. A token that ``tokenizer_config.json`` names
comes first, so ``"cls_token": "[start]"`` is found, too. Capitals matter: ``[cls]`` is an ordinary
token, since models never see it where they expect ``[CLS]``.

To add a role, add a line to ``ROLES``. If its token occurs in instances, masking must not choose it
(``MaskOptions.unmaskable_ids``; ``shards/schema.py`` holds static masks to the same), and
``instances/build_plan.py`` decides where it goes.
The ids of roles are part of a tokenizer's fingerprint (see ``tokenizer.py``), so folders that were
made with a tokenizer that has such a token are then out of date.

Only where a person writes a sentence for a trained model (``The [MASK] is empty.``) are masks found in
text. ``[MASK]`` stands for the mask token of any tokenizer; its own spelling, such as RoBERTa's
``<mask>``, is understood as well.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tokkit.errors import TokkitError, UsageError

if TYPE_CHECKING:
    from tokkit.tokenizer.tokenizer import Tokenizer

ROLES: Mapping[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}
MASK = "[MASK]"
ENDS_OF_TEXT = ("<|endoftext|>", "<eod>", "</s>")

# XLNet's end of a paragraph has no role here.
SPECIAL_TOKENS = frozenset(token for tokens in ROLES.values() for token in tokens) | {
    *ENDS_OF_TEXT,
    "<eop>",
}

_SENTINEL = re.compile(r"<extra_id_(\d+)>")  # T5's
# Placeholders for later tokens in BERT and Gemma, and those that fairseq pads a vocabulary with.
_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")


def named_roles(config: Mapping[str, Any]) -> dict[str, str]:
    """Return the tokens, by role, that ``tokenizer_config.json`` and the like name.

    Example:
        >>> named_roles({"cls_token": "<s>", "mask_token": {"content": "<mask>", "lstrip": True}})
        {'cls': '<s>', 'mask': '<mask>'}
    """
    tokens = {role: named_token(config, role) for role in ROLES}
    return {role: token for role, token in tokens.items() if token is not None}


def named_token(config: Mapping[str, Any], role: str) -> str | None:
    """Return the token that a configuration names for one role, or None."""
    token = config.get(f"{role}_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def find_special_ids(ids: Mapping[str, int], named: Mapping[str, str]) -> dict[str, int]:
    """Return the ids of the roles that a vocabulary has.

    Args:
        ids: the id of each token.
        named: tokens that a configuration names, by role.
    """
    found = {}
    for role, spellings in ROLES.items():
        candidates = (named[role], *spellings) if role in named else spellings
        token = next((token for token in candidates if token in ids), None)
        if token is not None:
            found[role] = ids[token]
    return found


def find_sentinel_ids(tokens: Sequence[str], special_ids: Iterable[int]) -> tuple[int, ...]:
    """Return the ids of ``<extra_id_0>``, ``<extra_id_1>``, … in the order of their numbers."""
    numbered = {int(match[1]): i for i in special_ids if (match := _SENTINEL.fullmatch(tokens[i]))}
    return tuple(numbered[n] for n in sorted(numbered))


def find_unused_ids(tokens: Iterable[str]) -> tuple[int, ...]:
    """Return the ids of tokens such as ``[unused7]``, which have no meaning yet."""
    return tuple(i for i, token in enumerate(tokens) if _UNUSED.fullmatch(token))


def encode_masked(tokenizer: "Tokenizer", sentence: str) -> list[int]:
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
