"""Vocabularies of sentencepiece's byte-pair encoding, from either kind of file.

A ``tokenizer.json`` has merges in order, several for a token: ``he`` and ``llo`` as well as ``hell``
and ``o``. A sentencepiece model has scores, and merges any two neighbors that are a piece together,
the piece of the highest score first, of equal ones the leftmost.
"""

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from tokkit.kernels.arrays import Bools, Int64
from tokkit.kernels.encode.bpe_merges import NO_ID
from tokkit.tokenizer.definitions import WORD_BEGINNING, fallback_tokens, list_parts, with_spaces
from tokkit.tokenizer.segments import prefix_obstacles, text_obstacles
from tokkit.tokenizer.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    PieceProcessor,
    SentencepieceModel,
)
from tokkit.tokenizer.tokenizer import Tokenizer

_BYTES = fallback_tokens()
_REPLACEMENT = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_BEGINNING}


class MetaspaceVocabulary(NamedTuple):
    """A vocabulary and its merges, with spaces in place of U+2581.

    Attributes:
        texts: the text of each token by id, for those of which text can consist.
        merges: int64 ``[num_merges, 4]``: left id, right id, merged id and rank, by rank.
        byte_ids: ids of the tokens for single bytes; empty where there is no byte fallback.
        unknown_id: the unknown token, or ``NO_ID``.
        fuses_unknown: whether that stands for a run of unknown characters.
        splits_spaces: whether each space begins a word of its own.
    """

    texts: Mapping[int, str]
    merges: Int64
    byte_ids: list[int]
    unknown_id: int
    fuses_unknown: bool
    splits_spaces: bool


def is_metaspace_bpe(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer is BPE in which U+2581 stands for the spaces of a text."""
    if tokenizer.model is not None:
        return tokenizer.model.algorithm == "bpe"
    normalizers = list_parts(tokenizer.definition["normalizer"])
    kinds = [part["type"] for part in tokenizer.pre_tokenizers]
    return tokenizer.kind == "bpe" and (_REPLACEMENT in normalizers or "Metaspace" in kinds)


def keeps_normalized(tokenizer: Tokenizer) -> bool:
    """Return whether the normalizer changes nothing in a normalized text, nor in a part of one."""
    if tokenizer.model is not None:
        return not (tokenizer.model.remove_extra_whitespaces or tokenizer.model.charsmap)
    parts = list_parts(tokenizer.definition["normalizer"])
    return all(part == _REPLACEMENT or part["type"] == "Prepend" for part in parts)


def find_added_ids(tokenizer: Tokenizer) -> list[int]:
    """Return the tokens that text becomes without merging: added or user-defined ones."""
    if tokenizer.model is None:
        return [row["id"] for row in tokenizer.definition["added_tokens"] if not row["special"]]
    if isinstance(tokenizer.processor, PieceProcessor):
        return []  # a user-defined piece is matched by sentencepiece, whose ids these are not
    return [number for number, kind in enumerate(tokenizer.model.kinds) if kind == USER_DEFINED]


def find_word_tokens(tokenizer: Tokenizer) -> Bools | None:
    """Return which tokens begin a word, and which are words by themselves: bool ``[2, vocab_size]``.

    None if a pre-tokenizer tells where words begin.
    """
    is_bpe = is_metaspace_bpe(tokenizer)
    has_words = tokenizer.processor is None and tokenizer.definition["pre_tokenizer"] is not None
    if has_words and not is_bpe:
        return None
    begins = np.array([token.startswith(WORD_BEGINNING) for token in tokenizer.tokens])
    is_word = np.zeros(tokenizer.vocab_size, np.bool_)
    for number in find_added_ids(tokenizer) if is_bpe else []:
        # In a tokenizer.json, text becomes tokens of spaces by merging, too.
        is_spaces = not tokenizer.tokens[number].strip(WORD_BEGINNING)
        is_word[number] = tokenizer.model is not None or not is_spaces
    return np.stack([begins, is_word])


def metaspace_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel of sentencepiece's BPE does not know of a tokenizer.

    Args:
        tokenizer: for which ``is_metaspace_bpe`` is true.
    """
    if tokenizer.model is not None:
        yield from _piece_obstacles(tokenizer.model)
    else:
        yield from _definition_obstacles(tokenizer)
        yield from prefix_obstacles(tokenizer)
    yield from text_obstacles(tokenizer, spaced=True)
    vocabulary = read_vocabulary(tokenizer)
    _, symbols = split_symbols(vocabulary)
    merged = set(vocabulary.merges[:, 2].tolist())
    if " " not in symbols:
        yield "no token for a space"
    tokens = [*symbols.values(), *merged, *vocabulary.byte_ids]
    if tokenizer.forbidden[tokens].any():
        yield "text that becomes a special token"


def split_symbols(vocabulary: MetaspaceVocabulary) -> tuple[list[str], dict[str, int]]:
    """Return the texts of the tokens that merges make, and the ids of single characters."""
    merged = [vocabulary.texts[number] for number in set(vocabulary.merges[:, 2].tolist())]
    return merged, {text: number for number, text in vocabulary.texts.items() if len(text) == 1}


def _definition_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel does not know of a ``tokenizer.json``."""
    model = tokenizer.definition["model"]
    vocabulary = model["vocab"]
    normalizers = list_parts(tokenizer.definition["normalizer"])
    *before, last = tokenizer.pre_tokenizers
    split = {"type": "Split", "pattern": {"String": " "}, "invert": False}
    is_known = (
        last["type"] is None
        or (last["type"] == "Metaspace" and last["replacement"] == WORD_BEGINNING)
        or (_REPLACEMENT in normalizers and split.items() <= last.items())
    )
    if before or not is_known:
        kinds = " and ".join(str(part["type"]) for part in (*before, last))
        yield f"the pre-tokenizer {kinds} before BPE"
    for option in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"):
        if model.get(option):
            yield f"{option} in BPE"
    if model["byte_fallback"]:
        outside = set(_BYTES)
        if None in _find_bytes(vocabulary):
            yield "bytes without a token"
    else:
        outside = {model["unk_token"]}
        if model["unk_token"] not in vocabulary:
            yield "no token for unknown characters"
    if any(outside.intersection(pair) for pair in model["merges"]):
        yield "merges of tokens for unknown characters"


def _piece_obstacles(model: SentencepieceModel) -> Iterator[str]:
    """Yield what the kernel does not know of a sentencepiece model."""
    pieces = list(zip(model.pieces, model.kinds, strict=True))
    symbols = {
        piece for piece, kind in pieces if len(piece) == 1 and kind in (NORMAL, USER_DEFINED)
    }
    for piece, kind in pieces:
        if kind == UNUSED:
            yield f"the unused piece {piece!r}"
        if kind == CONTROL and len(piece) == 1:
            yield f"the control piece {piece!r}"
        if kind == NORMAL and not symbols.issuperset(piece):
            yield f"the piece {piece!r}, which has characters without a piece"
        if kind == USER_DEFINED and " " in piece:
            yield f"the user-defined piece {piece!r}"


@lru_cache(maxsize=1)
def read_vocabulary(tokenizer: Tokenizer) -> MetaspaceVocabulary:
    """Return the vocabulary and the merges of a tokenizer."""
    if tokenizer.model is not None:
        return _read_pieces(tokenizer.model)
    model = tokenizer.definition["model"]
    # No text has a space where the library has U+2581.
    ids = {token: number for token, number in model["vocab"].items() if " " not in token}
    splits_spaces = any(part.get("split", False) for part in tokenizer.pre_tokenizers)
    rows = []
    # Of equal merges the last counts.
    ranks = {(left, right): rank for rank, (left, right) in enumerate(model["merges"])}
    for (left, right), rank in ranks.items():
        token = left + right
        if token in ids and not (splits_spaces and WORD_BEGINNING in token[1:]):
            rows.append((ids[left], ids[right], ids[token], rank))
    return MetaspaceVocabulary(
        texts=_spaced(ids),
        merges=_sort_merges(rows),
        byte_ids=_byte_ids(ids) if model["byte_fallback"] else [],
        unknown_id=ids.get(model["unk_token"], NO_ID),
        fuses_unknown=model["fuse_unk"],
        splits_spaces=splits_spaces,
    )


def _read_pieces(model: SentencepieceModel) -> MetaspaceVocabulary:
    """Return the vocabulary of a sentencepiece model, and all merges that its pieces allow.

    User-defined pieces are no part of it, since text is cut at them first.
    """
    numbered = list(enumerate(zip(model.pieces, model.kinds, strict=True)))
    ids = {piece: number for number, (piece, kind) in numbered if kind == NORMAL}
    scores = sorted({model.scores[number] for number in ids.values()}, reverse=True)
    ranks = {score: rank for rank, score in enumerate(scores)}
    rows = [
        (ids[piece[:place]], ids[piece[place:]], number, ranks[model.scores[number]])
        for piece, number in ids.items()
        for place in range(1, len(piece))
        if piece[:place] in ids and piece[place:] in ids
    ]
    is_byte = BYTE in model.kinds
    return MetaspaceVocabulary(
        texts=_spaced(ids),
        merges=_sort_merges(rows),
        byte_ids=_byte_ids({p: i for i, (p, kind) in numbered if kind == BYTE}) if is_byte else [],
        unknown_id=next(i for i, (_, kind) in numbered if kind == UNKNOWN),
        fuses_unknown=True,
        splits_spaces=False,
    )


def _spaced(ids: Mapping[str, int]) -> dict[int, str]:
    return {number: with_spaces(token) for token, number in ids.items()}


def _sort_merges(rows: list[tuple[int, int, int, int]]) -> Int64:
    return np.array(sorted(rows, key=lambda row: row[3]), np.int64).reshape(-1, 4)


def _find_bytes(ids: Mapping[str, int]) -> list[int | None]:
    """Return the id of each byte; that of a character of one byte may be the character's own.

    Gemma's vocabulary has a tab in place of ``<0x09>``. Texts have no space, which is U+2581 there.
    """
    own = {code: ids.get(chr(code)) for code in range(0x80) if code != ord(" ")}
    return [ids.get(token, own.get(byte)) for byte, token in enumerate(_BYTES)]


def _byte_ids(ids: Mapping[str, int]) -> list[int]:
    return [number for number in _find_bytes(ids) if number is not None]
