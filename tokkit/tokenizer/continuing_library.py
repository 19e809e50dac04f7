"""Libraries that encode the text behind other text, and put no white space in front of it.

whole text    "the cat"        ▁the ▁cat
behind "the"  " cat"           ▁▁cat by the tokenizer's library, ▁cat by this one
"""

import json
from collections.abc import Mapping
from typing import Any

from tokkit.tokenizer.definitions import change_parts
from tokkit.tokenizer.sentencepiece_model import NO_DUMMY_PREFIX, PieceProcessor
from tokkit.tokenizer.tokenizer import Tokenizer

_PARTS = ("normalizer", "pre_tokenizer")


def make_continuing_library(tokenizer: Tokenizer) -> Any | None:
    """Return the library, of the kind that the tokenizer has.

    Returns:
        A processor of sentencepiece or a tokenizer of the tokenizers library; None if the tokenizer's
        own puts nothing in front of a text, or also in front of words within, which is kept.
    """
    processor = tokenizer.processor
    if isinstance(processor, PieceProcessor):
        return PieceProcessor(processor.vocabulary, continues=True)
    if processor is not None:
        import sentencepiece

        model = processor.serialized_model_proto() + NO_DUMMY_PREFIX
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    import tokenizers

    old = tokenizer.definition
    new = {**old, **{name: change_parts(old[name], _without_prefix) for name in _PARTS}}
    within = tokenizer.pre_tokenizers[1:]
    if new == old or within != list(map(_without_prefix, within)):
        return None
    # A normalized token is searched for with what is put in front of a text. A single word may be
    # found only where a text begins.
    rows = [row for row in old["added_tokens"] if not row["special"]]
    is_prepended = new["normalizer"] != old["normalizer"]
    if any(row["single_word"] or (row["normalized"] and is_prepended) for row in rows):
        return None
    library = tokenizers.Tokenizer.from_str(json.dumps(new))
    library.encode_special_tokens = True
    return library


def _without_prefix(part: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a part of a normalizer or pre-tokenizer such that it puts no space in front of a text."""
    never = {"add_prefix_space": False, "prepend_scheme": "never"}
    is_prefix = part.get("type") == "Prepend"
    return None if is_prefix else {name: never.get(name, value) for name, value in part.items()}
