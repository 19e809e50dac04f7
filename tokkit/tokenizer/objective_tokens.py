"""The control tokens that objectives beside BERT's need, found among a vocabulary's entries.

    ends a text     what the tokenizer's configuration names as eos_token, else <|endoftext|>,
                    <eod> or </s>, else the entry that separates segments
    sentinels       <extra_id_0>, <extra_id_1>, … as T5 has them, else the unused entries
                    [unused0], <unused0>, … of BERT and Gemma

Either must be an entry that no text becomes, or a model could not tell it from text.
"""

import re

from tokkit.errors import TokkitError
from tokkit.instances.build_config import BuildConfig
from tokkit.tokenizer.tokenizer import Tokenizer

_ENDS_OF_TEXT = ("<|endoftext|>", "<eod>", "</s>")
_SENTINEL = re.compile(r"<extra_id_(\d+)>")


def require_control_tokens(config: BuildConfig, tokenizer: Tokenizer) -> None:
    """Refuse to go on without the control tokens that an objective needs.

    Raises:
        TokkitError: naming the entry that is missing.
    """
    if config.is_masked:
        tokenizer.require_special("cls", "sep", "mask")
    if config.objective == "plm":
        tokenizer.require_special("cls", "sep")
    if not config.is_masked:
        find_end_of_text(tokenizer)


def find_end_of_text(tokenizer: Tokenizer) -> int:
    """The id of the entry that ends a text.

    Raises:
        TokkitError: where there is none.
    """
    named = tokenizer.config.get("eos_token")
    if isinstance(named, dict):
        named = named.get("content")
    ids = {tokenizer.token(number): number for number in tokenizer.control_ids}
    for form in (named, *_ENDS_OF_TEXT):
        if form in ids:
            return ids[form]
    if "sep" in tokenizer.special_ids:
        return tokenizer.special_ids["sep"]
    raise TokkitError(
        f"{tokenizer.path}: no entry {', '.join(_ENDS_OF_TEXT)} or [SEP], which must stand between "
        f"documents; use a vocabulary with one, or name it as eos_token in a tokenizer_config.json "
        f"beside this file"
    )


def find_sentinels(tokenizer: Tokenizer, number: int) -> tuple[int, ...]:
    """The ids that stand for corrupted spans, in their order.

    Args:
        tokenizer: whose entries they are.
        number: how many are needed.

    Raises:
        TokkitError: where there are fewer.
    """
    numbered = {
        int(match[1]): i
        for i in tokenizer.control_ids
        if (match := _SENTINEL.fullmatch(tokenizer.token(i)))
    }
    found = tuple(numbered[n] for n in sorted(numbered)) or tokenizer.unused_ids
    if len(found) < number:
        raise TokkitError(
            f"{tokenizer.path}: {len(found)} entries such as <extra_id_0> or [unused0] can stand "
            f"for spans, and it takes {number}; train a vocabulary with that many "
            f"(--special-token '<extra_id_0>' and so on), or pass a smaller --max-seq-length"
        )
    return found[:number]
