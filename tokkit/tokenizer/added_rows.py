"""Which added tokens a text may become, as a tokenizer's definition lists them."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from tokkit.tokenizer.definitions import WORD_BEGINNING
from tokkit.tokenizer.tokenizer import Tokenizer


def explain_added(tokenizer: Tokenizer, *, spaced: bool) -> str | None:
    """Return which added token needs the tokenizer's library, or None.

    Of two tokens that are equal once they are normalized the library takes any.
    """
    raw, normalized = read_rows(tokenizer)
    counts = Counter(content for content, _ in normalized)
    marks = set()
    if spaced and b" " in _normalize(tokenizer, "a b"):  # the pre-tokenizer puts U+2581 there
        marks = {b" ", WORD_BEGINNING.encode()}
    for content, row in [*raw, *normalized]:
        name = f"its added token {row['content']!r}"
        for flag in ("lstrip", "rstrip", "single_word"):
            if row[flag] and not row["special"]:
                return f"{flag} of {name}"
        if row["normalized"] and (content == b"" or counts[content] > 1):
            return f"{name}, which is normalized to {content.decode()!r}"
        if row["normalized"] and any(mark in content for mark in marks):
            return f"{name}, which has white space"
    return None


def read_rows(tokenizer: Tokenizer) -> list[list[tuple[bytes, Mapping[str, Any]]]]:
    """Return the added tokens to search for before and after normalization, with their contents.

    A kind without a token that text may become is left out.
    """
    kinds: list[list[tuple[bytes, Mapping[str, Any]]]] = [[], []]
    for row in tokenizer.definition.get("added_tokens", ()):
        content = row["content"].encode()
        if row["normalized"]:
            content = _normalize(tokenizer, row["content"])
        kinds[row["normalized"]].append((content, row))
    return [rows if any(not row["special"] for _, row in rows) else [] for rows in kinds]


def _normalize(tokenizer: Tokenizer, text: str) -> bytes:
    normalizer = getattr(tokenizer.library, "normalizer", None)
    return (normalizer.normalize_str(text) if normalizer else text).encode()
