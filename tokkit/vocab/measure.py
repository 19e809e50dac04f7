"""Describes a vocabulary, and measures how it encodes text that it was not learned from.

    entries                number of tokens by kind: special, unused, bytes, characters, …
    tokens per word        tokens per stretch between white space, for any tokenizer
    characters per token   code points of the text per token: more is better, in any language
    unknown                share of unknown tokens among the tokens

The text is that of whole held-out documents, encoded line by line. Other tokenizers are measured on
the same text, and words are what stands between white space, whatever a tokenizer takes for a word.
"""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tokkit.kernels.vocab.symbols import count_characters
from tokkit.shards.arrow import string_buffers
from tokkit.tokenizer.characters import UNICODE_SIZE
from tokkit.tokenizer.definitions import (
    CONTINUING_SUBWORD_PREFIX,
    WORD_BEGINNING,
    byte_level_alphabet,
    fallback_tokens,
)
from tokkit.tokenizer.encoder import Encoder
from tokkit.tokenizer.hub_names import find_folder
from tokkit.tokenizer.metaspace_vocabulary import is_metaspace_bpe
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer
from tokkit.vocab.training_record import HeldOutText, RemovedCharacter, Report

_NUM_LONGEST = 10
_NUM_REMOVED = 50
_BLANK = byte_level_alphabet()[ord(" ")]
_BYTES = frozenset(fallback_tokens())


def make_report(
    tokenizer: Tokenizer, held_out: pa.LargeStringArray, removed: Mapping[str, int]
) -> Report:
    """Describe and measure a vocabulary.

    Args:
        tokenizer: tokenizer with the vocabulary.
        held_out: whole documents that it was not learned from.
        removed: how often normalization removed each character from the corpus.
    """
    texts = split_lines(held_out)
    return Report(
        entries=count_entries(tokenizer),
        longest=_find_longest(tokenizer),
        coverage=_measure_coverage(tokenizer, texts),
        removed=_name_characters(removed),
        held_out=_count_text(len(held_out), texts),
        measured=measure(tokenizer, texts),
    )


def compare(names: Sequence[str], held_out: pa.LargeStringArray) -> list[dict[str, Any]]:
    """Measure other tokenizers on the same text.

    Args:
        names: folders or files, as ``-t`` takes them.
        held_out: whole documents.

    Returns:
        Rows with ``name``, ``vocab_size`` and the keys of ``measure``.

    Raises:
        TokkitError: if a tokenizer cannot be loaded.
    """
    tokenizers = {name: load_tokenizer(find_folder(Path(name))) for name in names}
    texts = split_lines(held_out)
    return [
        {"name": name, "vocab_size": other.vocab_size, **measure(other, texts)}
        for name, other in tokenizers.items()
    ]


def split_lines(texts: pa.LargeStringArray) -> pa.LargeStringArray:
    """Return the lines of documents, since some encoders take no longer text."""
    lines = pc.list_flatten(pc.split_pattern(texts, "\n"))
    return lines.filter(pc.not_equal(lines, "")).cast(pa.large_string())


def measure(tokenizer: Tokenizer, texts: pa.LargeStringArray) -> dict[str, float]:
    """Return tokens per word, characters per token and the share of unknown tokens, if any text."""
    sizes = _count_text(0, texts)
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
    """Return the number of tokens of each kind, in the order of the report."""
    control, unused = set(tokenizer.all_special_ids), set(tokenizer.unused_ids)
    counts: Counter[str] = Counter()
    kind = "byte-level" if _is_byte_level(tokenizer) else tokenizer.kind
    for number, token in enumerate(tokenizer.tokens):
        if number in control or number in unused:
            counts["unused" if number in unused else "control"] += 1
        else:
            counts[_kind_of(token, kind)] += 1
    kinds = ("control", "unused", "bytes", "characters", "word beginnings", "continuations")
    return {kind: counts[kind] for kind in kinds if counts[kind]}


def _is_byte_level(tokenizer: Tokenizer) -> bool:
    return tokenizer.kind == "bpe" and not is_metaspace_bpe(tokenizer)


def _kind_of(token: str, kind: str) -> str:
    """Return the kind of a token that is not special."""
    if kind == "wordpiece":
        bare = token.removeprefix(CONTINUING_SUBWORD_PREFIX)
        if len(bare or token) == 1:
            return "characters"
        return "word beginnings" if bare == token else "continuations"
    if kind == "byte-level":
        if len(token) == 1:
            return "bytes"
        return "word beginnings" if token.startswith(_BLANK) else "continuations"
    if token in _BYTES:
        return "bytes"
    if len(token) == 1:
        return "characters"
    return "word beginnings" if token.startswith(WORD_BEGINNING) else "continuations"


def _find_longest(tokenizer: Tokenizer) -> list[str]:
    """Return the longest tokens as text."""
    apart = {*tokenizer.all_special_ids, *tokenizer.unused_ids}
    tokens = [token for number, token in enumerate(tokenizer.tokens) if number not in apart]
    if _is_byte_level(tokenizer):
        byte_of = {char: byte for byte, char in enumerate(byte_level_alphabet())}
        data = (bytes(byte_of[char] for char in token) for token in tokens)
        tokens = [word.decode(errors="replace") for word in data]
    prefix = CONTINUING_SUBWORD_PREFIX if tokenizer.kind == "wordpiece" else WORD_BEGINNING
    texts = {token.removeprefix(prefix) for token in tokens}
    return sorted(texts, key=lambda text: (-len(text), text))[:_NUM_LONGEST]


def _count_text(documents: int, texts: pa.LargeStringArray) -> HeldOutText:
    return {
        "documents": documents,
        "words": sum(len(text.as_py().split()) for text in texts),
        "characters": int(pc.sum(pc.utf8_length(texts)).as_py() or 0),
    }


def _measure_coverage(tokenizer: Tokenizer, texts: pa.LargeStringArray) -> float | None:
    """Return the share of characters that are tokens, each normalized by itself."""
    if _is_byte_level(tokenizer) or set(tokenizer.tokens) >= _BYTES:
        return 1.0
    counts = np.zeros(UNICODE_SIZE, np.int64)
    once, continues = np.ones(len(texts), np.int64), np.zeros(UNICODE_SIZE, np.bool_)
    count_characters(*string_buffers(texts), once, counts, continues)
    normalizer = tokenizer.library.normalizer if tokenizer.library is not None else None
    entries = {token.removeprefix(CONTINUING_SUBWORD_PREFIX) for token in tokenizer.tokens}
    num_characters = num_covered = 0
    for code in np.flatnonzero(counts).tolist():
        char, count = chr(code), int(counts[code])
        normalized = normalizer.normalize_str(char) if normalizer is not None else char
        for form in normalized.replace(WORD_BEGINNING, " "):
            if not form.isspace():
                num_characters += count
                num_covered += count * (form in entries)
    return num_covered / num_characters if num_characters else None


def _name_characters(counts: Mapping[str, int]) -> list[RemovedCharacter]:
    """Return rows about the most frequent characters."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return [
        {
            "character": f"U+{ord(char):04X}",
            "name": unicodedata.name(char, "control character"),
            "count": count,
        }
        for char, count in ordered[:_NUM_REMOVED]
    ]
