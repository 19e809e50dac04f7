"""Tokens of a row as coloured spans: where each begins, what is masked, which segment it is in."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from tokkit.inspection.report.markup import Markup, element, join
from tokkit.inspection.row_text import show_token
from tokkit.tokenizer.tokenizer import Tokenizer

MAX_TOKENS = 400
NUM_BACKGROUNDS = 5

show_once = lru_cache(maxsize=1 << 16)(show_token)


def list_tokens(
    ids: Sequence[int],
    word_starts: Sequence[bool],
    tokenizer: Tokenizer,
    *,
    segment_length: int | None = None,
    masks: Mapping[int, int] | None = None,
    sentence_ends: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Return what is shown of each token, as JSON values.

    Args:
        ids: token ids; of a long row the first 400 are taken.
        word_starts: whether a word begins at each.
        tokenizer: of the ids.
        segment_length: tokens of segment A; None if there is one segment.
        masks: the id to be predicted at each masked position.
        sentence_ends: positions before which a sentence ends.
    """
    special, unknown = set(tokenizer.all_special_ids), tokenizer.special_ids.get("unk", -1)
    masks = masks or {}
    tokens: list[dict[str, Any]] = []
    for position, token in enumerate(ids[:MAX_TOKENS]):
        entry: dict[str, Any] = {"id": int(token), "text": show_once(int(token), tokenizer)}
        if position in masks:
            entry["label"] = show_once(int(masks[position]), tokenizer)
        elif token == unknown:
            entry["unknown"] = True
        elif token in special:
            entry["special"] = True
        if not word_starts[position] and token not in special:
            entry["joined"] = True
        if segment_length is not None:
            entry["segment"] = "a" if position < segment_length else "b"
        if position in sentence_ends and position:
            entry["sentence"] = True
        tokens.append(entry)
    return tokens


def draw_tokens(tokens: Sequence[Mapping[str, Any]]) -> Markup:
    """Return spans for what ``list_tokens`` returned."""
    parts = []
    for number, token in enumerate(tokens):
        classes = [name for name in ("special", "unknown", "joined") if token.get(name)]
        if "label" in token:
            classes.append("masked")
        elif "segment" in token:
            classes.append(token["segment"])
        elif color := number % NUM_BACKGROUNDS:
            classes.append(f"t{color}")
        if token.get("sentence"):
            parts.append(element("span", class_="end"))
        label = element("i", token["label"]) if "label" in token else None
        title = f"id {token['id']}"
        span = element("b", token["text"], label, class_=" ".join(classes) or None, title=title)
        parts.append(span if token.get("joined") else join((" ", span)))
    return element("p", *parts, class_="tokens", dir="auto")


def draw_sample(title: str, tokens: Sequence[Mapping[str, Any]], *more: Markup) -> Markup:
    """Return tokens below a line about where they are from."""
    return element(
        "div", element("h4", title, dir="auto"), draw_tokens(tokens), *more, class_="sample"
    )
