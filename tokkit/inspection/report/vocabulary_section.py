"""What a vocabulary is spent on: the lengths, kinds and scripts of its tokens."""

import unicodedata
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from typing import Any

import numpy as np

from tokkit.encoding.text_survey import script_of
from tokkit.inspection.report.markup import Column, Markup, card, element, table
from tokkit.inspection.report.plots import plot_bars
from tokkit.tokenizer.definitions import (
    CONTINUING_SUBWORD_PREFIX,
    WORD_BEGINNING,
    byte_level_alphabet,
)
from tokkit.tokenizer.tokenizer import Tokenizer

LONGEST_LENGTH = 24  # longer tokens are counted together
NUM_EXAMPLES = 6


def read_entries(tokenizer: Tokenizer) -> list[str]:
    """Return the text of each token that is neither special nor unused, without marks."""
    apart = {*tokenizer.all_special_ids, *tokenizer.unused_ids}
    tokens = [token for number, token in enumerate(tokenizer.tokens) if number not in apart]
    if "ByteLevel" in str(tokenizer.definition.get("decoder")):
        byte_of = {char: byte for byte, char in enumerate(byte_level_alphabet())}
        return [
            bytes(byte_of[char] for char in token).decode(errors="replace")
            if all(char in byte_of for char in token)
            else token
            for token in tokens
        ]
    mark = CONTINUING_SUBWORD_PREFIX if tokenizer.kind == "wordpiece" else WORD_BEGINNING
    return [token.removeprefix(mark) for token in tokens]


def count_lengths(entries: Sequence[str]) -> dict[str, Any]:
    """Count tokens by their characters, long ones together."""
    lengths = np.array([len(entry.strip()) for entry in entries], np.int64).clip(0, LONGEST_LENGTH)
    counts = np.bincount(lengths, minlength=LONGEST_LENGTH + 1)
    used = int(np.flatnonzero(counts).max(initial=1))
    return {"edges": [*range(used + 2)], "counts": counts[: used + 1].tolist()}


def name_script(text: str) -> str:
    """Return the script of a token's letters, or what it is made of instead."""
    for char in text:
        if unicodedata.category(char)[0] in "LM":  # a letter, or a mark on one
            return script_of(char).title()
    if any(char.isdigit() for char in text):
        return "digits"
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "parts of characters"
    return "punctuation and signs" if text.strip() else "white space"


def count_scripts(entries: Sequence[str]) -> list[dict[str, Any]]:
    """Return how many tokens each script has, with its longest ones as examples."""
    groups: dict[str, list[str]] = {}
    for entry in entries:
        groups.setdefault(name_script(entry), []).append(entry)
    rows = [
        {
            "script": script,
            "tokens": len(found),
            "share": len(found) / len(entries),
            "longest": nsmallest(NUM_EXAMPLES, set(found), key=lambda entry: (-len(entry), entry)),
        }
        for script, found in groups.items()
    ]
    return sorted(rows, key=lambda row: (-row["tokens"], row["script"]))


def draw_vocabulary(one: Mapping[str, Any], *, is_single: bool) -> list[Markup]:
    """Return the cards about one vocabulary."""
    suffix = "" if is_single else f": {one['name']}"
    lengths = one["by_length"]
    total = sum(one["entries"].values())
    kinds = [
        {"kind": "special" if kind == "control" else kind, "tokens": n, "share": n / max(total, 1)}
        for kind, n in one["entries"].items()
    ]
    counted = (Column("tokens", "tokens", ",", is_bar=True), Column("share", "share", ".1%"))
    scripts = [
        {**row, "longest": Markup("  ".join(element("bdi", token) for token in row["longest"]))}
        for row in one["scripts"]
    ]
    drawn = [
        card(
            f"Tokens by length{suffix}",
            plot_bars({"tokens": lengths["counts"]}, lengths["edges"], "characters of a token"),
        ),
        card(
            f"What the vocabulary is spent on{suffix}",
            table((Column("kind", "kind"), *counted), kinds),
        ),
        card(
            f"Tokens by script{suffix}",
            table((Column("script", "script"), *counted, Column("longest", "longest")), scripts),
            wide=True,
        ),
    ]
    if one["unknown_characters"]:
        columns = (
            Column("character", "character"),
            Column("code", "code point"),
            Column("script", "script"),
            Column("count", "times", ",", is_bar=True),
        )
        shown = table(columns, one["unknown_characters"])
        drawn.append(card(f"Commonest unknown characters{suffix}", shown))
    return drawn
