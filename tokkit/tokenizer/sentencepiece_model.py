"""What a sentencepiece ``.model`` file says, beyond what the library's Python interface returns.

The file is a protobuf message; see ``sentencepiece_model.proto`` in google/sentencepiece.
"""

import hashlib
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from tokkit.errors import TokkitError
from tokkit.tokenizer.tokenizer_cache import LARGE, recall

if TYPE_CHECKING:
    import sentencepiece

# Kinds of pieces.
NORMAL = 1
UNKNOWN = 2
CONTROL = 3
USER_DEFINED = 4
UNUSED = 5
BYTE = 6

_TIKTOKEN = re.compile(rb"[A-Za-z0-9+/]+=* \d+\n")
_ALGORITHMS = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
# Fields of ModelProto, TrainerSpec, NormalizerSpec and SentencePiece.
_PIECES, _TRAINER, _NORMALIZER = 1, 2, 3
_MODEL_TYPE, _SPACE_AS_SUFFIX = 3, 24
_CHARSMAP, _DUMMY_PREFIX, _REMOVE_EXTRA, _ESCAPE = 2, 3, 4, 5
_TEXT, _SCORE, _KIND = 1, 2, 3


@dataclass(frozen=True)
class SentencepieceModel:
    """A sentencepiece model.

    Attributes:
        algorithm: ``unigram``, ``bpe``, ``word`` or ``char``.
        pieces: texts of the pieces, by id.
        scores: their scores.
        kinds: their kinds: ``NORMAL`` and so on.
        charsmap: table of the normalizer, as in ``Precompiled`` of ``tokenizer.json``.
        add_dummy_prefix: whether a space is put in front of a text.
        remove_extra_whitespaces: whether spaces at the ends of a text, and all but one within, are
            removed.
        escape_whitespaces: whether U+2581 stands for spaces.
        treat_whitespace_as_suffix: whether words end with their space.
    """

    algorithm: str
    pieces: tuple[str, ...]
    scores: tuple[float, ...]
    kinds: tuple[int, ...]
    charsmap: bytes
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    escape_whitespaces: bool
    treat_whitespace_as_suffix: bool


def load_model(model: bytes, path: str) -> "sentencepiece.SentencePieceProcessor":
    """Load a model with sentencepiece.

    Raises:
        TokkitError: if it is none.
    """
    import sentencepiece

    if not model:
        raise TokkitError(f"{path}: empty; download it again")
    try:
        return sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError as error:
        fault = "not a sentencepiece model; download it again"
        if _TIKTOKEN.match(model):
            fault = (
                "a tiktoken file, which lacks its pattern and special tokens; name a folder that also "
                "has its tokenizer_config.json with a tokenizer_class"
            )
        raise TokkitError(f"{path}: {fault}") from error


@lru_cache(maxsize=1)
def read_sentencepiece(model: bytes) -> SentencepieceModel:
    """Return what a model says, which sentencepiece has loaded before."""
    digest = hashlib.sha256(model).hexdigest() if len(model) >= LARGE else ""
    return recall(digest, "model", lambda: _read(model))


def _read(model: bytes) -> SentencepieceModel:
    pieces = []
    parts = {_TRAINER: b"", _NORMALIZER: b""}
    for number, value in _read_fields(model):
        if number == _PIECES:
            pieces.append(dict(_read_fields(value)))
        elif number in parts:
            parts[number] += value  # fields of a later message override those of an earlier
    trainer, normalizer = (dict(_read_fields(part)) for part in parts.values())
    return SentencepieceModel(
        algorithm=_ALGORITHMS[trainer.get(_MODEL_TYPE, 1)],
        pieces=tuple(piece[_TEXT].decode() for piece in pieces),
        scores=tuple(struct.unpack("<f", piece.get(_SCORE, bytes(4)))[0] for piece in pieces),
        kinds=tuple(piece.get(_KIND, NORMAL) for piece in pieces),
        charsmap=normalizer.get(_CHARSMAP, b""),
        add_dummy_prefix=bool(normalizer.get(_DUMMY_PREFIX, True)),
        remove_extra_whitespaces=bool(normalizer.get(_REMOVE_EXTRA, True)),
        escape_whitespaces=bool(normalizer.get(_ESCAPE, True)),
        treat_whitespace_as_suffix=bool(trainer.get(_SPACE_AS_SUFFIX, False)),
    )


def _read_fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield number and value of each field: an integer, or the bytes of anything else."""
    position = 0
    while position < len(message):
        tag, position = _read_varint(message, position)
        if tag & 7 == 0:
            value, position = _read_varint(message, position)
            yield tag >> 3, value
            continue
        size = 8 if tag & 7 == 1 else 4
        if tag & 7 == 2:
            size, position = _read_varint(message, position)
        yield tag >> 3, message[position : position + size]
        position += size


def _read_varint(message: bytes, position: int) -> tuple[int, int]:
    """Return a number in groups of seven bits, lowest first, and the position after it."""
    value = message[position]
    position += 1
    shift = 7
    while value >> shift:  # the highest bit says that more follow
        value += (message[position] - 1) << shift
        position, shift = position + 1, shift + 7
    return value, position
