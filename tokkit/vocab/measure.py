"""What a vocabulary is like, and how well it cuts text that it was not learned from.

    entries: 1 word beginning, 5 characters, …            of what kind they are
    tokens per word        tokens over stretches between white space, for any tokenizer
    characters per token   code points of the text over tokens: more is better, in any language
    unknown                share of the tokens that stand for what the vocabulary does not have

The text is that of whole documents that were held out, so the figures are those of new text; it is
encoded line by line. Other tokenizers are measured on the same text in the same way, words being
what stands between white space whatever each takes for a word.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokkit.tokenizer.definitions import (
    CONTINUING_SUBWORD_PREFIX,
    WORD_BEGINNING,
    byte_level_alphabet,
)
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

_NUM_LONGEST = 10
_NUM_REMOVED = 50
_BLANK = byte_level_alphabet()[ord(" ")]
_BYTES = frozenset(f"<0x{byte:02X}>" for byte in range(256))


@dataclass(frozen=True, kw_only=True)
class Report:
    """The facts, as they stand in ``training.json``.

    Attributes:
        entries: how many there are of each kind.
        longest: entries of the most characters, as text, the longest first.
        coverage: share of the held-out characters, white space left out, that are entries after
            normalization; None without such text.
        removed: rows with ``character``, ``name`` and ``count`` of what normalization took out of
            the corpus, the most frequent first; at most 50.
        held_out: ``documents``, ``words`` and ``characters`` of the text that was measured.
        measured: ``tokens_per_word``, ``characters_per_token`` and ``unknown``; empty without text.
    """

    entries: Mapping[str, int]
    longest: Sequence[str]
    coverage: float | None
    removed: Sequence[Mapping[str, Any]]
    held_out: Mapping[str, int]
    measured: Mapping[str, float]


def make_report(
    tokenizer: Tokenizer, held_out: pa.LargeStringArray, removed: Mapping[str, int]
) -> Report:
    """Describe a vocabulary, and measure it.

    Args:
        tokenizer: that was learned.
        held_out: whole documents that were not learned from.
        removed: how often normalization took each character out of the corpus.
    """
    texts = split_lines(held_out)
    return Report(
        entries=count_entries(tokenizer),
        longest=_find_longest(tokenizer),
        coverage=_measure_coverage(tokenizer, texts),
        removed=_name_characters(removed),
        held_out={"documents": len(held_out), **_count_text(texts)},
        measured=measure(tokenizer, texts),
    )


def compare(names: Sequence[str], held_out: pa.LargeStringArray) -> list[dict[str, Any]]:
    """Measure other tokenizers on the same text.

    Args:
        names: folders or files, as ``-t`` takes them.
        held_out: whole documents.

    Returns:
        Rows with ``name``, ``vocab_size`` and the figures of ``measure``.

    Raises:
        TokkitError: where one cannot be loaded.
    """
    tokenizers = {name: load_tokenizer(Path(name)) for name in names}
    texts = split_lines(held_out)
    return [
        {"name": name, "vocab_size": other.vocab_size, **measure(other, texts)}
        for name, other in tokenizers.items()
    ]


def split_lines(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """The lines of documents, which is how text reaches encoders that take no longer one."""
    lines = pc.list_flatten(pc.split_pattern(texts, "\n"))
    return lines.filter(pc.not_equal(lines, "")).cast(pa.large_string())


def measure(tokenizer: Tokenizer, texts: pa.LargeStringArray) -> dict[str, float]:
    """Tokens per word, characters per token and the share of unknown ones; nothing of no text."""
    sizes = _count_text(texts)
    if not sizes["words"]:
        return {}
    ids = Encoder(tokenizer).encode(texts).ids
    unknown = tokenizer.special_ids.get("unk", -1)
    num_unknown = int(np.count_nonzero(ids == unknown)) if unknown >= 0 else 0
    return {
        "tokens_per_word": len(ids) / sizes["words"],
        "characters_per_token": sizes["characters"] / max(len(ids), 1),
        "unknown": num_unknown / max(len(ids), 1),
    }


def count_entries(tokenizer: Tokenizer) -> dict[str, int]:
    """How many entries there are of each kind, in the order in which kinds are told."""
    control, unused = set(tokenizer.all_special_ids), set(tokenizer.unused_ids)
    counts: Counter[str] = Counter()
    for number, token in enumerate(tokenizer.tokens):
        if number in control or number in unused:
            counts["unused" if number in unused else "control"] += 1
        else:
            counts[_kind_of(token, tokenizer.kind)] += 1
    kinds = ("control", "unused", "bytes", "characters", "word beginnings", "continuations")
    return {kind: counts[kind] for kind in kinds if counts[kind]}


def _kind_of(token: str, kind: str) -> str:
    """What an entry is that text can become."""
    if kind == "wordpiece":
        bare = token.removeprefix(CONTINUING_SUBWORD_PREFIX)
        if len(bare or token) == 1:
            return "characters"
        return "word beginnings" if bare == token else "continuations"
    if kind == "bpe":
        if len(token) == 1:
            return "bytes"
        return "word beginnings" if token.startswith(_BLANK) else "continuations"
    if token in _BYTES:
        return "bytes"
    if len(token) == 1:
        return "characters"
    return "word beginnings" if token.startswith(WORD_BEGINNING) else "continuations"


def _find_longest(tokenizer: Tokenizer) -> list[str]:
    """The longest entries as text."""
    apart = {*tokenizer.all_special_ids, *tokenizer.unused_ids}
    tokens = [token for number, token in enumerate(tokenizer.tokens) if number not in apart]
    if tokenizer.kind == "bpe":
        byte_of = {char: byte for byte, char in enumerate(byte_level_alphabet())}
        data = (bytes(byte_of[char] for char in token) for token in tokens)
        tokens = [word.decode(errors="replace") for word in data]
    prefix = CONTINUING_SUBWORD_PREFIX if tokenizer.kind == "wordpiece" else WORD_BEGINNING
    texts = {token.removeprefix(prefix) for token in tokens}
    return sorted(texts, key=lambda text: (-len(text), text))[:_NUM_LONGEST]


def _count_text(texts: pa.LargeStringArray) -> dict[str, int]:
    return {
        "words": sum(len(text.as_py().split()) for text in texts),
        "characters": int(pc.sum(pc.utf8_length(texts)).as_py() or 0),
    }


def _measure_coverage(tokenizer: Tokenizer, texts: pa.LargeStringArray) -> float | None:
    """The share of characters that are entries; normalizers are asked character by character."""
    if tokenizer.kind == "bpe" or set(tokenizer.tokens) >= _BYTES:
        return 1.0
    counts = Counter[str]()
    for text in texts:
        counts.update(text.as_py())
    normalizer = tokenizer.library.normalizer if tokenizer.library is not None else None
    entries = {token.removeprefix(CONTINUING_SUBWORD_PREFIX) for token in tokenizer.tokens}
    num_characters = num_covered = 0
    for char, count in counts.items():
        normalized = normalizer.normalize_str(char) if normalizer is not None else char
        for form in normalized.replace(WORD_BEGINNING, " "):
            if not form.isspace():
                num_characters += count
                num_covered += count * (form in entries)
    return num_covered / num_characters if num_characters else None


def _name_characters(counts: Mapping[str, int]) -> list[dict[str, Any]]:
    """Rows of the most frequent characters."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {
            "character": f"U+{ord(char):04X}",
            "name": unicodedata.name(char, "control character"),
            "count": count,
        }
        for char, count in ordered[:_NUM_REMOVED]
    ]
