"""The part of a report about tokenizers: how they cut text, and what their vocabularies hold.

What a vocabulary is spent on, it shows by the lengths, kinds and scripts of its tokens.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from heapq import nsmallest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokkit.encoding.text_survey import count_characters, find_unknown_characters, script_of
from tokkit.engine.manifest import TRAINING
from tokkit.errors import plural
from tokkit.inspection.report.markup import (
    Column,
    Content,
    Markup,
    Section,
    card,
    cards,
    draw_tokens,
    element,
    facts_list,
    folded,
    format_options,
    list_tokens,
    shorten_names,
    table,
    tiles,
)
from tokkit.inspection.report.plots import plot_bars
from tokkit.inspection.report.text_samples import (
    SampleConfig,
    TextSample,
    find_words,
    measure,
    read_samples,
    read_training_text,
)
from tokkit.inspection.token_text import BYTE_OF, is_byte_level
from tokkit.tokenizer.definitions import CONTINUING_SUBWORD_PREFIX, WORD_BEGINNING
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.hub_names import find_folder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tokkit.vocab.measure import count_entries
from tokkit.vocab.training_record import TrainingRecord

LONGEST_LENGTH = 24  # longer tokens are counted together
NUM_EXAMPLES = 6
NUM_UNKNOWN = 100
NUM_LINES = 8  # cut side by side
LINE_LENGTHS = (40, 220)
MAX_UNKNOWN_TESTED = 20_000


def describe_tokenizers(
    paths: Sequence[Path], compared: Sequence[str] = (), config: SampleConfig | None = None
) -> Section:
    """Load tokenizers, measure them on the same texts, and return their part of the page.

    Args:
        paths: tokenizer folders.
        compared: further ones, as ``-t`` takes them.
        config: texts to measure on; None for those that the first was learned from.

    Raises:
        TokkitError: if a tokenizer or a text cannot be read.
    """
    named = {str(path): path for path in paths}
    named |= {name: find_folder(Path(name)) for name in compared}
    tokenizers = {name: load_tokenizer(path) for name, path in named.items()}
    records = {
        name: TrainingRecord.read(path)
        for name, path in named.items()
        if (path / TRAINING).is_file()
    }
    if config is not None:
        samples = read_samples(config)
    else:
        record = next(iter(records.values()), None)
        names = [row["name"] for row in record.inputs] if record else []
        samples = read_training_text(names, record.options) if record else {}
    texts = {name: find_words(lines) for name, lines in samples.items()}
    figures = {
        "tokenizers": [
            _describe(name, tokenizer, texts, records.get(name))
            for name, tokenizer in tokenizers.items()
        ],
        "texts": list(texts),
        "is_training_text": config is None,
        "lines": _cut_lines(tokenizers, samples),
    }
    title = next(iter(named)) if len(named) == 1 else f"{len(named)} tokenizers"
    return Section(title, "tokenizer", figures, _draw(figures))


def _describe(
    name: str, tokenizer: Tokenizer, texts: Mapping[str, TextSample], record: TrainingRecord | None
) -> dict[str, Any]:
    entries = _read_entries(tokenizer)
    training = record and {
        "trainer": record.trainer,
        "options": dict(record.options),
        "held_out": dict(record.report.held_out),
        "measured": dict(record.report.measured),
        "coverage": record.report.coverage,
    }
    measured, unknown = [], []
    if texts:
        encoder = Encoder(tokenizer)
        measured = [{"text": name, **measure(tokenizer, encoder, texts[name])} for name in texts]
        unknown = _find_unknown(tokenizer, encoder, texts)
    return {
        "name": name,
        "model": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "special": {role: tokenizer.tokens[n] for role, n in tokenizer.special_ids.items()},
        "entries": count_entries(tokenizer),
        "by_length": _count_lengths(entries),
        "scripts": _count_scripts(entries),
        "measured": measured,
        "unknown_characters": unknown,
        "training": training,
    }


def _find_unknown(
    tokenizer: Tokenizer, encoder: Encoder, texts: Mapping[str, TextSample]
) -> list[dict[str, Any]]:
    """Return the commonest characters of the texts that become the unknown token."""
    if "unk" not in tokenizer.special_ids:
        return []
    counts = Counter[str]()
    for text in texts.values():
        counts.update(dict(count_characters("".join(text.lines.to_pylist()))))
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_UNKNOWN_TESTED]
    characters = [character for character, _ in common]
    unknown = find_unknown_characters(encoder, characters, tokenizer.special_ids["unk"])
    return [
        {"character": c, "code": f"U+{ord(c):04X}", "script": _name_script(c), "count": n}
        for c, n in common
        if c in unknown
    ][:NUM_UNKNOWN]


def _read_entries(tokenizer: Tokenizer) -> list[str]:
    """Return the text of each token that is neither special nor unused, without marks."""
    apart = {*tokenizer.all_special_ids, *tokenizer.unused_ids}
    tokens = [token for number, token in enumerate(tokenizer.tokens) if number not in apart]
    if is_byte_level(tokenizer):
        return [
            bytes(map(BYTE_OF.__getitem__, token)).decode(errors="replace")
            if BYTE_OF.keys() >= {*token}
            else token
            for token in tokens
        ]
    mark = CONTINUING_SUBWORD_PREFIX if tokenizer.kind == "wordpiece" else WORD_BEGINNING
    return [token.removeprefix(mark) for token in tokens]


def _count_lengths(entries: Sequence[str]) -> dict[str, Any]:
    """Count tokens by their characters, long ones together."""
    lengths = np.array([len(entry.strip()) for entry in entries], np.int64).clip(0, LONGEST_LENGTH)
    counts = np.bincount(lengths, minlength=LONGEST_LENGTH + 1)
    used = int(np.flatnonzero(counts).max(initial=1))
    return {"edges": [*range(used + 2)], "counts": counts[: used + 1].tolist()}


def _name_script(text: str) -> str:
    """Return the script of a token's letters, or what it is made of instead."""
    for char in text:
        if unicodedata.category(char)[0] in "LM":  # a letter, or a mark on one
            return script_of(char).title()
    if any(char.isdigit() for char in text):
        return "digits"
    if "\N{REPLACEMENT CHARACTER}" in text:
        return "parts of characters"
    return "punctuation and signs" if text.strip() else "white space"


def _count_scripts(entries: Sequence[str]) -> list[dict[str, Any]]:
    """Return how many tokens each script has, with its longest ones as examples."""
    groups: dict[str, list[str]] = {}
    for entry in entries:
        groups.setdefault(_name_script(entry), []).append(entry)
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


def _cut_lines(
    tokenizers: Mapping[str, Tokenizer], samples: Mapping[str, pa.LargeStringArray]
) -> list[dict[str, Any]]:
    """Return a few lines of each text as every tokenizer cuts them."""
    each = max(1, NUM_LINES // max(len(samples), 1))
    chosen = [(name, line) for name in samples for line in _choose_lines(samples[name], each)]
    chosen = chosen[: NUM_LINES * 2]
    cuts: list[dict[str, Any]] = [{} for _ in chosen]
    for title, tokenizer in tokenizers.items() if chosen else ():
        encoder = Encoder(tokenizer)
        for cut, (_, line) in zip(cuts, chosen, strict=True):
            encoded = encoder.encode(pa.array([line], pa.large_string()))
            word_starts = encoded.word_starts.to_pylist()
            cut[title] = list_tokens(encoded.ids.tolist(), word_starts, tokenizer)
    return [
        {"text": name, "line": line, "cut": cut}
        for cut, (name, line) in zip(cuts, chosen, strict=True)
    ]


def _choose_lines(texts: pa.LargeStringArray, number: int) -> list[str]:
    """Return lines of a good length from all over a text, or else its first ones."""
    lines, (low, high) = texts[:1000].to_pylist(), LINE_LENGTHS
    fitting = [line for line in lines if low <= len(line) <= high]
    if not fitting:
        return [line[:high] for line in lines[:number]]
    return [fitting[place * len(fitting) // number] for place in range(min(number, len(fitting)))]


def _draw(figures: Mapping[str, Any]) -> Content:
    labels = shorten_names([one["name"] for one in figures["tokenizers"]])
    texts = shorten_names(figures["texts"])
    tokenizers = [
        {
            **one,
            "name": labels[one["name"]],
            "measured": [{**row, "text": texts[row["text"]]} for row in one["measured"]],
        }
        for one in figures["tokenizers"]
    ]
    is_single = len(tokenizers) == 1
    note = element("p", "There is no text to measure on; name some with --text.", class_="note")
    measured: list[Content] = [card("Measured on text", note)]
    if figures["texts"]:
        matrix = None if is_single else _draw_matrix(tokenizers)
        measured = [_draw_measured(figures, tokenizers), matrix]
    # A row of cards for each vocabulary, or one for all where there is one vocabulary.
    drawn = [_draw_vocabulary(one, is_single=is_single) for one in tokenizers]
    rows: list[list[Content]] = [[*measured, *drawn[0]]] if is_single else [measured, *drawn]
    if figures["lines"]:
        lines = [{**row, "text": texts[row["text"]]} for row in figures["lines"]]
        rows[-1] = [*rows[-1], _draw_lines(lines, is_single=is_single)]
    return [
        _draw_tiles(tokenizers[0]) if is_single else None,
        [cards(row) for row in rows],
        [_draw_facts(one) for one in tokenizers],
    ]


def _draw_tiles(one: Mapping[str, Any]) -> Markup:
    measured = (one["training"] or {}).get("measured", {})
    formats = {"tokens_per_word": ".3f", "characters_per_token": ".3f", "unknown": ".3%"}
    held_out = {
        f"{name.replace('_', ' ')}, held out": f"{measured[name]:{how}}"
        for name, how in formats.items()
        if measured.get(name) is not None
    }
    return tiles({"tokens": one["vocab_size"], "model": one["model"], **held_out})


def _draw_measured(figures: Mapping[str, Any], tokenizers: Sequence[Mapping[str, Any]]) -> Markup:
    rows = [{"name": one["name"], **row} for one in tokenizers for row in one["measured"]]
    columns = [
        Column("name", "tokenizer"),
        Column("text", "text"),
        Column("tokens_per_word", "tokens per word", ".3f", is_bar=True),
        Column("tokens_per_character", "tokens per character", ".3f"),
        Column("bytes_per_token", "bytes per token", ".2f"),
        Column("whole_words", "whole words", ".1%"),
        Column("unknown", "unknown", ".3%"),
        Column("tokens", "tokens", ","),
    ]
    shown = columns[1:] if len(tokenizers) == 1 else columns
    what = (
        "what the first vocabulary was learned from" if figures["is_training_text"] else "each text"
    )
    note = f"On the first 256 kB of {what}. A word is what stands between white space."
    return card("Measured on text", table(shown, rows), wide=True, note=note)


def _draw_matrix(tokenizers: Sequence[Mapping[str, Any]]) -> Markup:
    """Return tokens per word, with a row for each text and a column for each tokenizer."""
    largest = max(row["tokens_per_word"] for one in tokenizers for row in one["measured"])
    columns = [Column("text", "text")]
    columns += [
        Column(str(number), one["name"], ".3f", is_bar=True, largest=largest)
        for number, one in enumerate(tokenizers)
    ]
    rows = []
    for measured in zip(*(one["measured"] for one in tokenizers), strict=True):
        shown = {str(number): row["tokens_per_word"] for number, row in enumerate(measured)}
        rows.append({"text": measured[0]["text"], **shown})
    return card("Tokens per word", table(columns, rows), wide=True)


def _draw_lines(lines: Sequence[Mapping[str, Any]], *, is_single: bool) -> Markup:
    blocks, texts = [], {row["text"] for row in lines}
    for row in lines:
        title = element("h4", row["text"], dir="auto") if len(texts) > 1 else None
        cuts = []
        labels = shorten_names(list(row["cut"]))
        for name, tokens in row["cut"].items():
            size = ("" if is_single else f"{labels[name]}: ") + plural(len(tokens), "token")
            cuts += [element("p", size, class_="note"), draw_tokens(tokens)]
        blocks.append(element("div", title, *cuts, class_="sample"))
    return card("Sample lines", *blocks, wide=True, note="A colour is a token.")


def _draw_facts(one: Mapping[str, Any]) -> Markup:
    training = one["training"] or {"options": {}}
    options = format_options(training["options"])
    special = ", ".join(f"{role} {token}" for role, token in one["special"].items())
    facts = {"special tokens": special, "trainer": training.get("trainer"), **options}
    facts["fingerprint"] = one["tokenizer"]
    return folded(f"Options and facts: {one['name']}", facts_list(facts))


def _draw_vocabulary(one: Mapping[str, Any], *, is_single: bool) -> list[Content]:
    """Return the cards about one vocabulary."""
    suffix = "" if is_single else f": {one['name']}"
    lengths = one["by_length"]
    bars = plot_bars({"tokens": lengths["counts"]}, lengths["edges"], "characters of a token")
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
    by_kind = table((Column("kind", "kind"), *counted), kinds)
    columns = (Column("script", "script"), *counted, Column("longest", "longest"))
    drawn: list[Content] = [
        card(f"Tokens by length{suffix}", bars),
        card(f"What the vocabulary is spent on{suffix}", by_kind),
        card(f"Tokens by script{suffix}", table(columns, scripts), wide=True),
    ]
    if one["unknown_characters"]:
        unknown = (
            Column("character", "character"),
            Column("code", "code point"),
            Column("script", "script"),
            Column("count", "times", ",", is_bar=True),
        )
        shown = table(unknown, one["unknown_characters"])
        drawn.append(card(f"Commonest unknown characters{suffix}", shown))
    return drawn
