"""The object of a ``tokenizer.json``, as tokkit writes it for models like BERT, GPT-2, Llama and T5.

Such an object says how text becomes ids: a normalizer, a pre-tokenizer that cuts words, a model
that cuts words into tokens, added tokens that are found before all this, and a post-processor that
puts ``[CLS]`` and ``[SEP]`` around sequences:

    "Wörld, unaffable"  normalizer     world, unaffable
                        pre-tokenizer  world | , | unaffable
                        model          world , una ##ffa ##ble
                        post-processor [CLS] world , una ##ffa ##ble [SEP]

The definitions made here are those that transformers makes of the same vocabularies.
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from tokkit.tokenizer.special_tokens import SPECIAL_TOKENS, find_special_ids

CONTINUING_SUBWORD_PREFIX = "##"
MAX_INPUT_CHARS_PER_WORD = 100
WORD_BEGINNING = "\u2581"  # sentencepiece's sign for a space
METASPACE = {
    "type": "Metaspace",
    "replacement": WORD_BEGINNING,
    "prepend_scheme": "always",
    "split": True,
}
SPLIT_DIGITS = {"type": "Digits", "individual_digits": True}
# A ByteLevel pre-tokenizer contains it.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"


_NO_NAMES: Mapping[str, str] = {}


class UnsupportedError(Exception):
    """Only a tokenizer's own library supports a part of it; the message names the part."""


def split_by(pattern: str) -> dict[str, Any]:
    """Return the pre-tokenizer whose words are the matches of a pattern."""
    regex = {"Regex": pattern}
    return {"type": "Split", "pattern": regex, "behavior": "Isolated", "invert": False}


SPLIT_WORDS = split_by(GPT2_PATTERN)

_WITHOUT_EFFECT_ON_IDS = ("version", "truncation", "padding", "post_processor", "decoder")
_PARTS = ("truncation", "padding", "normalizer", "pre_tokenizer", "post_processor", "decoder")
_EMPTY: dict[str, Any] = {"version": "1.0", **dict.fromkeys(_PARTS), "added_tokens": []}


def wordpiece(
    ids: Mapping[str, int],
    *,
    unknown: str,
    named: Mapping[str, str] = _NO_NAMES,
    lowercase: bool,
    strip_accents: bool | None,
    handle_chinese_chars: bool = True,
    split_digits: bool = False,
) -> dict[str, Any]:
    """Return the definition of BERT's tokenizer.

    Args:
        ids: the vocabulary.
        unknown: the token for words that the vocabulary cannot make.
        named: special tokens that a configuration names, by role.
        lowercase: lower-case text.
        strip_accents: remove combining marks; None does so if text is lower-cased.
        handle_chinese_chars: make each CJK ideograph a word.
        split_digits: make each digit a word.
    """
    pre_tokenizer: dict[str, Any] = {"type": "BertPreTokenizer"}
    if split_digits:
        pre_tokenizer = {"type": "Sequence", "pretokenizers": [pre_tokenizer, SPLIT_DIGITS]}
    return {
        **_EMPTY,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": handle_chinese_chars,
            "strip_accents": strip_accents,
            "lowercase": lowercase,
        },
        "pre_tokenizer": pre_tokenizer,
        "post_processor": _sequence_template(ids, named),
        "decoder": {"type": "WordPiece", "prefix": CONTINUING_SUBWORD_PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": unknown,
            "continuing_subword_prefix": CONTINUING_SUBWORD_PREFIX,
            "max_input_chars_per_word": MAX_INPUT_CHARS_PER_WORD,
            "vocab": dict(ids),
        },
    }


def byte_level_bpe(
    ids: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    *,
    named: Mapping[str, str] = _NO_NAMES,
    add_prefix_space: bool = False,
    split_digits: bool = False,
    pattern: str = GPT2_PATTERN,
    normalizer: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the definition of byte-level BPE as in GPT-2, RoBERTa and Llama 3.

    If the vocabulary has tokens for both ends of a sequence they are added as BERT does, because a
    model trained with them expects them.

    Args:
        ids: the vocabulary, with the 256 tokens of ``byte_level_alphabet``.
        merges: pairs of tokens, by rank.
        named: special tokens that a configuration names, by role.
        add_prefix_space: put a space in front of text, so that its first word is like others.
        split_digits: make each digit a word, and also the space before it.
        pattern: its matches are words.
        normalizer: the definition of ``NFC`` or ``NFKC``, or None.
    """
    byte_level = {
        "type": "ByteLevel",
        "add_prefix_space": add_prefix_space,
        "trim_offsets": True,
        "use_regex": True,
    }
    pre_tokenizer: dict[str, Any] = byte_level
    if split_digits or pattern != GPT2_PATTERN:
        parts = [split_by(pattern), *([SPLIT_DIGITS] if split_digits else [])]
        parts.append({**byte_level, "use_regex": False})
        pre_tokenizer = {"type": "Sequence", "pretokenizers": parts}
    # As a post-processor, ByteLevel leaves ids as they are; it trims the offsets of words.
    post_processor: dict[str, Any] = byte_level
    template = _sequence_template(ids, named)
    if template:
        post_processor = {"type": "Sequence", "processors": [byte_level, template]}
    return {
        **_EMPTY,
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor,
        "decoder": byte_level,
        "model": {"type": "BPE", "vocab": dict(ids), "merges": [list(merge) for merge in merges]},
    }


def metaspace_bpe(
    ids: Mapping[str, int],
    merges: Sequence[Sequence[str]],
    *,
    unknown: str,
    byte_fallback: bool,
    normalizer: Mapping[str, str] | None,
) -> dict[str, Any]:
    """Return the definition of BPE of characters, whose words begin with ``\u2581``.

    Args:
        ids: the vocabulary.
        merges: pairs of tokens, by rank.
        unknown: the token for a run of characters that the vocabulary lacks.
        byte_fallback: spell such characters with the tokens ``<0x00>`` to ``<0xFF>``.
        normalizer: the definition of ``NFC`` or ``NFKC``, or None.
    """
    return {
        **_EMPTY,
        "normalizer": normalizer,
        "pre_tokenizer": METASPACE,
        "post_processor": _sequence_template(ids),
        "decoder": _metaspace_decoder(byte_fallback=byte_fallback),
        "model": {
            "type": "BPE",
            "unk_token": unknown,
            "fuse_unk": True,
            "byte_fallback": byte_fallback,
            "vocab": dict(ids),
            "merges": [list(merge) for merge in merges],
        },
    }


def unigram(
    pieces: Sequence[tuple[str, float]], *, unknown: int, charsmap: bytes, byte_fallback: bool
) -> dict[str, Any]:
    """Return the definition of sentencepiece's unigram tokenizer.

    Args:
        pieces: tokens and their scores, by id.
        unknown: the id for characters that no token has.
        charsmap: sentencepiece's normalization table.
        byte_fallback: spell such characters with the tokens ``<0x00>`` to ``<0xFF>``.
    """

    def replace(pattern: str, content: str) -> dict[str, Any]:
        return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}

    normalizers = [
        {"type": "Precompiled", "precompiled_charsmap": b64encode(charsmap).decode()},
        replace(r"\A +", ""),
        replace(" +", WORD_BEGINNING),
        replace(rf"{WORD_BEGINNING}+\z", ""),
        {"type": "Prepend", "prepend": WORD_BEGINNING},
    ]
    ids = {token: number for number, (token, _) in enumerate(pieces)}
    return {
        **_EMPTY,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": {**METASPACE, "prepend_scheme": "never"},
        "post_processor": _sequence_template(ids),
        "decoder": _metaspace_decoder(byte_fallback=byte_fallback),
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [list(piece) for piece in pieces],
            "byte_fallback": byte_fallback,
        },
    }


def _metaspace_decoder(*, byte_fallback: bool) -> dict[str, Any]:
    bytes_first = [{"type": "ByteFallback"}] if byte_fallback else []
    return {"type": "Sequence", "decoders": [*bytes_first, METASPACE]}


def letters(ids: Mapping[str, int], *, unknown: str, special: Collection[str]) -> dict[str, Any]:
    """Return the definition of ESM's tokenizer of proteins, which finds every token in text.

    Args:
        ids: the vocabulary.
        unknown: the token for text between tokens.
        special: tokens that text never becomes.
    """
    texts = sorted({token for token in ids if token} - {*special}, key=len, reverse=True)
    split = split_by("|".join(map(re.escape, texts)))
    return {
        **_EMPTY,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [split, {"type": "WhitespaceSplit"}],
        },
        "model": {"type": "WordLevel", "vocab": dict(ids), "unk_token": unknown},
    }


def encode_definition(
    definition: Mapping[str, Any], *, sort_keys: bool = False, indent: int | None = None
) -> bytes:
    """Return what ``json.dumps`` returns with these options, mostly in a tenth of its time."""
    if isinstance(definition["model"]["vocab"], dict):
        data = msgspec.json.encode(definition, order="sorted" if sort_keys else None)
        return data if indent is None else msgspec.json.format(data, indent=indent)
    # Scores of tokens: msgspec writes 0.00001 where json writes 1e-05.
    separators = (",", ":") if indent is None else None
    return json.dumps(
        definition, sort_keys=sort_keys, indent=indent, separators=separators, ensure_ascii=False
    ).encode()


def canonical_definition(definition: Mapping[str, Any], special_ids: Mapping[str, int]) -> bytes:
    """Return the bytes whose SHA-256 is a fingerprint; see ``tokkit.tokenizer.tokenizer``."""
    data = {key: value for key, value in definition.items() if key not in _WITHOUT_EFFECT_ON_IDS}
    data["added_tokens"] = [
        {"id": row["id"], "content": row["content"], "special": True} if row["special"] else row
        for row in definition["added_tokens"]
    ]
    # Old files have an empty prefix or suffix where newer ones have None.
    data["model"] = {key: None if value == "" else value for key, value in data["model"].items()}
    data["pre_tokenizer"] = change_parts(definition["pre_tokenizer"], _without_offsets)
    data["special_ids"] = dict(special_ids)
    return encode_definition(data, sort_keys=True)


def change_parts(part: Any, change: Callable[[dict[str, Any]], dict[str, Any] | None]) -> Any:
    """Return a normalizer or pre-tokenizer with each part changed, the innermost first.

    Args:
        part: its definition, or any value within.
        change: returns what replaces a part; None leaves one of a sequence out.
    """
    if isinstance(part, list):
        elements = [change_parts(element, change) for element in part]
        return [element for element in elements if element is not None]
    if not isinstance(part, dict):
        return part
    return change({name: change_parts(value, change) for name, value in part.items()})


def _without_offsets(part: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in part.items() if name != "trim_offsets"}


def with_spaces(token: str) -> str:
    """Return a token of sentencepiece with spaces for U+2581, as our kernels have it."""
    return token.replace(WORD_BEGINNING, " ")


def fallback_tokens() -> list[str]:
    """Return sentencepiece's 256 tokens for the bytes of characters that have no token, by byte."""
    return [f"<0x{byte:02X}>" for byte in range(256)]


def byte_level_alphabet() -> list[str]:
    """Return the 256 characters that stand for bytes in byte-level BPE, by byte.

    Printable bytes stand for themselves, and the others, in order, for U+0100 and following, so
    that a token never holds white space or control characters: the space is ``Ġ``.
    (GPT-2's ``bytes_to_unicode``.)
    """
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1)}
    printable.update(range(ord("®"), ord("ÿ") + 1))
    others = iter(range(256, 512))
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def _sequence_template(
    ids: Mapping[str, int], named: Mapping[str, str] = _NO_NAMES
) -> dict[str, Any] | None:
    """Return BERT's ``[CLS] A [SEP]`` and ``[CLS] A [SEP] B [SEP]``; None if a token is missing."""
    special = find_special_ids(ids, named)
    if "cls" not in special or "sep" not in special:
        return None
    tokens = {number: token for token, number in ids.items()}
    cls, sep = tokens[special["cls"]], tokens[special["sep"]]

    def part(kind: str, name: str, type_id: int) -> dict[str, Any]:
        return {kind: {"id": name, "type_id": type_id}}

    end = part("SpecialToken", sep, 0)
    single = [part("SpecialToken", cls, 0), part("Sequence", "A", 0), end]
    return {
        "type": "TemplateProcessing",
        "single": single,
        "pair": [*single, part("Sequence", "B", 1), part("SpecialToken", sep, 1)],
        "special_tokens": {
            token: {"id": token, "ids": [ids[token]], "tokens": [token]} for token in (cls, sep)
        },
    }


def added_token(token: str, number: int, *, special: bool) -> dict[str, Any]:
    """Return a row of ``added_tokens``."""
    return {
        "id": number,
        "content": token,
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": not special,
        "special": special,
    }


def model_ids(definition: Mapping[str, Any]) -> dict[str, int]:
    """Return the ids of a model's tokens, without those that are added to it."""
    vocab = definition["model"]["vocab"]
    return vocab if isinstance(vocab, dict) else {token: i for i, (token, _) in enumerate(vocab)}


def mark_special_tokens(definition: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return the same definition with every special token marked as such in ``added_tokens``.

    Then the library keeps them out of text (``encode_special_tokens``) and can leave them out of
    decoded text.

    Args:
        definition: the object of a ``tokenizer.json``.
        names: special tokens in addition to ``SPECIAL_TOKENS``.
    """
    ids = model_ids(definition)
    rows = {row["content"]: row for row in definition.get("added_tokens") or []}
    for token in SPECIAL_TOKENS.union(names):
        if token in rows:
            rows[token] = {**rows[token], "special": True}
        elif token in ids:
            rows[token] = added_token(token, ids[token], special=True)
    return {**definition, "added_tokens": sorted(rows.values(), key=lambda row: row["id"])}


_INNER = {"normalizers", "pretokenizers"}


def list_parts(part: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """Return the parts of a normalizer or pre-tokenizer in order, with sequences flattened."""
    if part is None:
        return []
    if part["type"] != "Sequence":
        return [part]
    (name,) = _INNER.intersection(part)
    return [inner for outer in part[name] for inner in list_parts(outer)]
