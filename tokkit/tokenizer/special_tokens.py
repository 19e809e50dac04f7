"""Control tokens: entries that steer a model and that no text may yield.

Five of them have a role that the stages ask for by name. A vocabulary spells them in one of a few
forms, of which the first that it has counts:

    pad    [PAD]   <pad>
    unk    [UNK]   <unk>
    cls    [CLS]   <cls>   <s>
    sep    [SEP]   <sep>   </s>
    mask   [MASK]  <mask>

What a ``tokenizer_config.json`` names goes before these, so ``"cls_token": "[start]"`` is found
too. Capitals matter: ``[cls]`` is an ordinary entry, since models never see it where they expect
``[CLS]``.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ROLES: Mapping[str, tuple[str, ...]] = {
    "pad": ("[PAD]", "<pad>"),
    "unk": ("[UNK]", "<unk>"),
    "cls": ("[CLS]", "<cls>", "<s>"),
    "sep": ("[SEP]", "<sep>", "</s>"),
    "mask": ("[MASK]", "<mask>"),
}

# GPT-2's and XLNet's separators of documents and paragraphs have no role here.
_WITHOUT_ROLE = ("<|endoftext|>", "<eod>", "<eop>")

SPECIAL_TOKENS = frozenset(form for forms in ROLES.values() for form in forms) | {*_WITHOUT_ROLE}

ENDS_OF_TEXT = ("<|endoftext|>", "<eod>", "</s>")
_SENTINEL = re.compile(r"<extra_id_(\d+)>")

# BERT's and Gemma's places for later entries, and those that fairseq pads a vocabulary with.
_UNUSED = re.compile(r"\[unused\d+\]|<unused\d+>|madeupword\d+")


def named_roles(config: Mapping[str, Any]) -> dict[str, str]:
    """The entries that a ``tokenizer_config.json`` or ``special_tokens_map.json`` names.

    Example:
        >>> named_roles({"cls_token": "<s>", "mask_token": {"content": "<mask>", "lstrip": True}})
        {'cls': '<s>', 'mask': '<mask>'}
    """
    named = {}
    for role in ROLES:
        token = named_token(config, role)
        if token is not None:
            named[role] = token
    return named


def named_token(config: Mapping[str, Any], role: str) -> str | None:
    """The token of one role that a configuration names, or None."""
    token = config.get(f"{role}_token")
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def find_special_ids(ids: Mapping[str, int], named: Mapping[str, str]) -> dict[str, int]:
    """The ids of the roles that a vocabulary has.

    Args:
        ids: the id of each entry.
        named: the entry of a role, where a configuration names it.
    """
    found = {}
    for role, forms in ROLES.items():
        candidates = (named[role], *forms) if role in named else forms
        form = next((form for form in candidates if form in ids), None)
        if form is not None:
            found[role] = ids[form]
    return found


def find_unused_ids(tokens: Iterable[str]) -> tuple[int, ...]:
    """The ids of entries such as ``[unused7]``, which stand for nothing yet.

    Args:
        tokens: all entries, by id.
    """
    return tuple(i for i, token in enumerate(tokens) if _UNUSED.fullmatch(token))


def find_sentinel_ids(tokens: Sequence[str], special_ids: Iterable[int]) -> tuple[int, ...]:
    """The ids of ``<extra_id_0>``, ``<extra_id_1>``, … among the special tokens, by their numbers."""
    numbered = {int(match[1]): i for i in special_ids if (match := _SENTINEL.fullmatch(tokens[i]))}
    return tuple(numbered[n] for n in sorted(numbered))
