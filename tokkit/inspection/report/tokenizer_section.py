"""The part of a report about tokenizers: how they cut text, and what their vocabularies hold.

tokens per word        tokens per stretch between white space
whole words            share of the words of letters alone that are one token, not unknown
bytes per token        UTF-8 bytes of the text
unknown                share of unknown tokens among the tokens
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.encoding.text_survey import count_characters, is_unknown_character
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
from tokkit.inspection.report.text_samples import SampleConfig, read_samples, read_training_text
from tokkit.inspection.report.vocabulary_section import (
    count_lengths,
    count_scripts,
    draw_vocabulary,
    name_script,
    read_entries,
)
from tokkit.shards.arrow import string_buffers
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.hub_names import find_folder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tokkit.vocab.measure import count_entries
from tokkit.vocab.training_record import TrainingRecord

NUM_UNKNOWN = 100
NUM_LINES = 8  # cut side by side
LINE_LENGTHS = (40, 220)
MAX_UNKNOWN_TESTED = 20_000
WHITE_SPACE = np.isin(np.arange(256), np.frombuffer(b" \t\n\r\v\f", np.uint8))


@dataclass(frozen=True)
class _Text:
    """Lines of one source or language, and where their words end."""

    lines: pa.LargeStringArray
    ends: npt.NDArray[np.int64]  # of words, and of lines
    is_word: npt.NDArray[np.bool_]  # made of letters alone
    num_words: int
    num_characters: int
    num_bytes: int


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
    texts = {name: _measure_text(lines) for name, lines in samples.items()}
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


def _measure_text(lines: pa.LargeStringArray) -> _Text:
    """Find the words of lines: what stands between ASCII white space."""
    lines = pa.concat_arrays([lines])
    values, bounds = string_buffers(lines)
    data = values[bounds[0] : bounds[-1]]
    is_space = WHITE_SPACE[data]
    is_last = np.zeros(len(data), np.bool_)
    is_last[bounds[1:] - bounds[0] - 1] = True
    ends_word = ~is_space & (is_last | np.append(is_space[1:], True))
    places = np.flatnonzero(ends_word | is_last)
    is_word = np.zeros(len(places), np.bool_)
    start = 0
    whole = data.tobytes()
    for number, place in enumerate(places.tolist()):
        is_word[number] = whole[start : place + 1].decode(errors="replace").strip().isalpha()
        start = place + 1
    return _Text(
        lines=lines,
        ends=places + 1 + bounds[0],
        is_word=is_word,
        num_words=int(ends_word.sum()),
        num_characters=len(whole.decode()),
        num_bytes=len(data),
    )


def _describe(
    name: str, tokenizer: Tokenizer, texts: Mapping[str, _Text], record: TrainingRecord | None
) -> dict[str, Any]:
    encoder = Encoder(tokenizer) if texts else None
    entries = read_entries(tokenizer)
    return {
        "name": name,
        "model": tokenizer.kind,
        "vocab_size": tokenizer.vocab_size,
        "tokenizer": tokenizer.fingerprint,
        "special": {role: tokenizer.tokens[n] for role, n in tokenizer.special_ids.items()},
        "entries": count_entries(tokenizer),
        "by_length": count_lengths(entries),
        "scripts": count_scripts(entries),
        "measured": [
            {"text": text, **_measure(tokenizer, encoder, found)}
            for text, found in texts.items()
            if encoder is not None
        ],
        "unknown_characters": _find_unknown(tokenizer, texts),
        "training": None
        if record is None
        else {
            "trainer": record.trainer,
            "options": dict(record.options),
            "held_out": dict(record.report.held_out),
            "measured": dict(record.report.measured),
            "coverage": record.report.coverage,
        },
    }


def _measure(tokenizer: Tokenizer, encoder: Encoder, text: _Text) -> dict[str, float]:
    encoded = encoder.encode(text.lines, text.ends)
    num_tokens = max(len(encoded.ids), 1)
    unknown = encoded.ids == tokenizer.special_ids.get("unk", -1)
    lengths = np.diff(encoded.offsets)
    firsts = encoded.offsets[:-1].clip(max=num_tokens - 1)
    is_known = ~unknown[firsts] if len(encoded.ids) else np.zeros(len(firsts), np.bool_)
    whole = text.is_word & (lengths == 1) & is_known
    return {
        "tokens": len(encoded.ids),
        "words": text.num_words,
        "tokens_per_word": len(encoded.ids) / max(text.num_words, 1),
        "tokens_per_character": len(encoded.ids) / max(text.num_characters, 1),
        "bytes_per_token": text.num_bytes / num_tokens,
        "whole_words": float(whole.sum() / max(int(text.is_word.sum()), 1)),
        "unknown": float(unknown.sum() / num_tokens),
    }


def _find_unknown(tokenizer: Tokenizer, texts: Mapping[str, _Text]) -> list[dict[str, Any]]:
    """Return the commonest characters of the texts that become the unknown token."""
    if "unk" not in tokenizer.special_ids:
        return []
    counts = Counter[str]()
    for text in texts.values():
        values, bounds = string_buffers(text.lines)
        whole = values[bounds[0] : bounds[-1]].tobytes().decode()
        counts.update(dict(count_characters(whole)))
    common = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MAX_UNKNOWN_TESTED]
    unknown = [(c, n) for c, n in common if is_unknown_character(tokenizer, c)][:NUM_UNKNOWN]
    return [
        {"character": c, "code": f"U+{ord(c):04X}", "script": name_script(c), "count": n}
        for c, n in unknown
    ]


def _cut_lines(
    tokenizers: Mapping[str, Tokenizer], samples: Mapping[str, pa.LargeStringArray]
) -> list[dict[str, Any]]:
    """Return a few lines of each text as every tokenizer cuts them."""
    each = max(1, NUM_LINES // max(len(samples), 1))
    chosen = [
        (name, line)
        for name, lines in samples.items()
        for line in _choose_lines([text.as_py() for text in lines[:1000]], each)
    ][: NUM_LINES * 2]
    return [
        {
            "text": name,
            "line": line,
            "cut": {title: _cut_text(tokenizer, line) for title, tokenizer in tokenizers.items()},
        }
        for name, line in chosen
    ]


def _choose_lines(lines: Sequence[str], number: int) -> list[str]:
    low, high = LINE_LENGTHS
    fitting = [line for line in lines if low <= len(line) <= high]
    if not fitting:
        return [line[:high] for line in lines[:number]]
    return [fitting[place * len(fitting) // number] for place in range(min(number, len(fitting)))]


def _cut_text(tokenizer: Tokenizer, text: str) -> list[dict[str, Any]]:
    """Return the tokens of a text, as ``list_tokens`` does."""
    encoded = Encoder(tokenizer).encode(pa.array([text], pa.large_string()))
    return list_tokens(encoded.ids.tolist(), encoded.word_starts.to_pylist(), tokenizer)


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
    measured: list[Content]
    if figures["texts"]:
        measured = [
            _draw_measured(figures, tokenizers),
            None if is_single else _draw_matrix(tokenizers),
        ]
    else:
        note = "There is no text to measure on; name some with --text."
        measured = [card("Measured on text", element("p", note, class_="note"))]
    # A row of cards for each vocabulary, or one for all where there is one vocabulary.
    rows: list[list[Content]] = [[*draw_vocabulary(one, is_single=is_single)] for one in tokenizers]
    rows = [[*measured, *rows[0]]] if is_single else [measured, *rows]
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
    return tiles(
        {
            "tokens": one["vocab_size"],
            "model": one["model"],
            "tokens per word, held out": _format(measured.get("tokens_per_word"), ".3f"),
            "characters per token, held out": _format(measured.get("characters_per_token"), ".3f"),
            "unknown, held out": _format(measured.get("unknown"), ".3%"),
        }
    )


def _format(value: float | None, how: str) -> str | None:
    return None if value is None else f"{value:{how}}"


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
    rows = [
        {
            "text": row["text"],
            **{
                str(number): one["measured"][place]["tokens_per_word"]
                for number, one in enumerate(tokenizers)
            },
        }
        for place, row in enumerate(tokenizers[0]["measured"])
    ]
    return card("Tokens per word", table(columns, rows), wide=True)


def _draw_lines(lines: Sequence[Mapping[str, Any]], *, is_single: bool) -> Markup:
    blocks, texts = [], {row["text"] for row in lines}
    for row in lines:
        title = element("h4", row["text"], dir="auto") if len(texts) > 1 else None
        cuts = []
        labels = shorten_names(list(row["cut"]))
        for name, tokens in row["cut"].items():
            size = plural(len(tokens), "token")
            cuts.append(
                element("p", size if is_single else f"{labels[name]}: {size}", class_="note")
            )
            cuts.append(draw_tokens(tokens))
        blocks.append(element("div", title, *cuts, class_="sample"))
    return card("Sample lines", *blocks, wide=True, note="A colour is a token.")


def _draw_facts(one: Mapping[str, Any]) -> Markup:
    training = one["training"] or {"options": {}}
    options = format_options(training["options"])
    special = ", ".join(f"{role} {token}" for role, token in one["special"].items())
    facts = {"special tokens": special, "trainer": training.get("trainer"), **options}
    facts["fingerprint"] = one["tokenizer"]
    return folded(f"Options and facts: {one['name']}", facts_list(facts))
