"""Unigram vocabularies of ``tokenizer.json`` files and of sentencepiece models."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from tokkit.kernels.encode.tries import NO_TOKEN
from tokkit.tokenizer.definitions import WORD_BEGINNING, list_parts
from tokkit.tokenizer.segments import text_obstacles
from tokkit.tokenizer.sentencepiece_model import (
    BYTE,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    SentencepieceModel,
)
from tokkit.tokenizer.tokenizer import Tokenizer

_UNKNOWN_PENALTY = 10.0
_USER_DEFINED_SCORE = 0.1  # for each byte of the token but the first
_LARGEST_SCORE = 1e100  # sums of larger ones may be infinite
# The release whose rules for scores of whole texts these are.
_KNOWN_SENTENCEPIECE = "0.2.3"


class UnigramVocabulary(NamedTuple):
    """A unigram vocabulary.

    Attributes:
        pieces: tokens that are found in text, with their ids and scores.
        unknown_id: of unknown text.
        unknown_score: of an unknown character.
        byte_ids: for each byte the id of the token that spells it, or ``NO_TOKEN``.
    """

    pieces: list[tuple[str, int, float]]
    unknown_id: int
    unknown_score: float
    byte_ids: list[int]


def is_unigram(tokenizer: Tokenizer) -> bool:
    """Return whether a tokenizer has a unigram model, in either kind of file."""
    algorithm = tokenizer.kind if tokenizer.model is None else tokenizer.model.algorithm
    return algorithm == "unigram"


def unigram_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernels do not know of a tokenizer with a unigram model."""
    if tokenizer.model is None:
        yield from _definition_obstacles(tokenizer)
    else:
        yield from _model_obstacles(tokenizer.model)
    yield from text_obstacles(tokenizer, spaced=True)
    vocabulary = read_vocabulary(tokenizer)
    if max(abs(score) for _, _, score in vocabulary.pieces) > _LARGEST_SCORE:
        yield f"scores above {_LARGEST_SCORE}"
    has_space = any(piece == WORD_BEGINNING for piece, _, _ in vocabulary.pieces)
    has_byte_tokens = max(vocabulary.byte_ids) > NO_TOKEN
    if not has_space and (has_byte_tokens or tokenizer.model is not None):
        yield "no token for a space"  # it is one byte in our texts, and three in others
    unknown = {piece for piece, number, _ in vocabulary.pieces if number == vocabulary.unknown_id}
    if has_byte_tokens and any(WORD_BEGINNING in piece for piece in unknown):
        yield "an unknown token with a space, with byte fallback"  # of three bytes in the library


def _definition_obstacles(tokenizer: Tokenizer) -> Iterator[str]:
    """Yield what the kernel does not know of a ``tokenizer.json``."""
    *before, last = tokenizer.pre_tokenizers
    kinds = " and ".join(str(part["type"]) for part in (*before, last))
    is_known = last["type"] == "Metaspace" and last["split"]
    if not is_known or before not in ([], [{"type": "WhitespaceSplit"}]):
        yield f"the pre-tokenizer {kinds} before Unigram"
    if is_known and last["prepend_scheme"] == "first":
        # The library puts no space in front of a text whose first character was removed.
        for part in list_parts(tokenizer.definition["normalizer"]):
            if not _keeps_beginnings(part):
                yield f"prepend_scheme first after the normalizer {part['type']}"
    if tokenizer.definition["model"]["unk_id"] is None:
        yield "no token for unknown words"


def _keeps_beginnings(part: Mapping[str, Any]) -> bool:
    """Return whether a normalizer never removes the first character of a text."""
    if part["type"] == "Strip":
        return not part["strip_left"]
    if part["type"] == "Replace":
        return bool(part["content"])
    return part["type"] in ("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Prepend")


def _model_obstacles(model: SentencepieceModel) -> Iterator[str]:
    """Yield what the kernel does not know of a sentencepiece model."""
    import sentencepiece

    if sentencepiece.__version__ != _KNOWN_SENTENCEPIECE:
        yield f"unigram models of sentencepiece {sentencepiece.__version__}"
    for piece, kind in zip(model.pieces, model.kinds, strict=True):
        if kind in (NORMAL, USER_DEFINED) and WORD_BEGINNING in piece[1:]:
            yield f"the token {piece!r}, which has a space after another character"


def read_vocabulary(tokenizer: Tokenizer) -> UnigramVocabulary:
    """Return the vocabulary of a tokenizer with a unigram model."""
    if tokenizer.model is not None:
        return _read_pieces(tokenizer.model)
    model = tokenizer.definition["model"]
    # Of a doubled token the last counts.
    ids = {token: number for number, (token, _) in enumerate(model["vocab"])}
    spelled = [ids.get(f"<0x{byte:02X}>", NO_TOKEN) for byte in range(256)]
    return UnigramVocabulary(
        pieces=[(token, number, model["vocab"][number][1]) for token, number in ids.items()],
        unknown_id=model["unk_id"],
        unknown_score=min(score for _, score in model["vocab"]) - _UNKNOWN_PENALTY,
        byte_ids=spelled if model["byte_fallback"] else [NO_TOKEN] * 256,
    )


def _read_pieces(model: SentencepieceModel) -> UnigramVocabulary:
    """Return the vocabulary of a sentencepiece model, with its scores of single precision."""
    rows = list(zip(model.pieces, range(len(model.pieces)), model.scores, model.kinds, strict=True))
    pieces = [(piece, number, score) for piece, number, score, kind in rows if kind == NORMAL]
    lowest = min((score for _, _, score in pieces), default=float(np.finfo(np.float32).max))
    for piece, number, _, kind in rows:
        if kind == USER_DEFINED:
            score = float(np.float32(_USER_DEFINED_SCORE * (len(piece.encode()) - 1)))
            pieces.append((piece, number, score))
    ids = {piece: number for piece, number, _, kind in rows if kind == BYTE}
    return UnigramVocabulary(
        pieces=pieces,
        unknown_id=model.kinds.index(UNKNOWN),
        unknown_score=float(np.float32(lowest) - np.float32(_UNKNOWN_PENALTY)),
        byte_ids=[ids.get(f"<0x{byte:02X}>", NO_TOKEN) for byte in range(256)],
    )
