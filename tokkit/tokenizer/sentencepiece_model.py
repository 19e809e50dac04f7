"""What a sentencepiece ``.model`` file says, beyond what the library's Python interface returns.

The file is a protobuf message; see ``sentencepiece_model.proto`` in google/sentencepiece.

Of some models the pieces have the ids of another vocabulary, as Marian's and M2M100's:

    source.spm   ▁the at 5     vocab.json   ▁the at 12
                 no œ                       œ at 30, from the other language

    "the œ"      sentencepiece: ▁the ▁ œ    12, id of ▁, 30; a piece without an id is unknown

Their classes in transformers run in Python: sentencepiece cuts a text, and each piece is looked up.
So a run of characters that sentencepiece does not know has an id if the vocabulary has the whole of
it, which no ``tokenizer.json`` can say. Marian looks up ``>>fr<<``, which begins a text, by itself.
"""

import hashlib
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import WORD_BEGINNING
from tokkit.tokenizer.file_checks import read_file
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

# Classes of transformers that look up the pieces of the text as it is.
LOOKUP_CLASSES = (
    *("MarianTokenizer", "M2M100Tokenizer", "BartphoTokenizer", "BertGenerationTokenizer"),
    *("PLBartTokenizer", "Speech2TextTokenizer"),
)
_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
# A later value of a field overrides an earlier one: ModelProto.normalizer_spec.add_dummy_prefix.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


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


@dataclass(frozen=True)
class PieceVocabulary:
    """A sentencepiece model, and the ids of its pieces.

    Attributes:
        model: the bytes of the model.
        ids: of all tokens.
        unknown_id: of a piece that is no token.
        special_ids: of tokens that text does not become.
        has_codes: whether a text may begin with ``>>fr<<``.
        files: the files of the folder by name, which make it again.
    """

    model: bytes
    ids: Mapping[str, int]
    unknown_id: int
    special_ids: frozenset[int]
    has_codes: bool
    files: Mapping[str, bytes]

    @property
    def fingerprint(self) -> str:
        """SHA-256 of all that decides about ids."""
        rows = sorted((number, token) for token, number in self.ids.items())
        decides = rows, self.unknown_id, sorted(self.special_ids), self.has_codes
        return hashlib.sha256(self.model + repr(decides).encode()).hexdigest()


def read_piece_vocabulary(made: Any, folder: Path) -> PieceVocabulary:
    """Return what a tokenizer of transformers looks up.

    Args:
        made: of one of ``LOOKUP_CLASSES``.
        folder: from which it was made.

    Raises:
        ValueError: if it does more than that.
    """
    added = made.added_tokens_decoder
    if getattr(made, "sp_model_kwargs", None) or not getattr(made, "legacy", True):
        raise ValueError("its options of sentencepiece are not supported")
    if not {number for number, row in added.items() if not row.special} <= {*made.all_special_ids}:
        raise ValueError("added tokens that are not special are not supported")
    processor = getattr(made, "spm_source", None) or made.sp_model
    names = {*_CONFIGS, *type(made).vocab_files_names.values()}
    return PieceVocabulary(
        model=processor.serialized_model_proto(),
        ids=made.get_vocab(),
        unknown_id=made.unk_token_id,
        special_ids=frozenset({*made.all_special_ids, *added}),
        has_codes=hasattr(made, "remove_language_code"),
        files={name: read_file(folder / name) for name in names if (folder / name).is_file()},
    )


class PieceProcessor:
    """What ``sentencepiece.SentencePieceProcessor`` is to a model, with the ids of a vocabulary.

    Args:
        vocabulary: the model and the ids.
        continues: whether what it encodes comes after other text, so that nothing is put in front.
    """

    def __init__(self, vocabulary: PieceVocabulary, *, continues: bool = False) -> None:
        import sentencepiece

        self.vocabulary = vocabulary
        self._has_codes = vocabulary.has_codes and not continues
        model = vocabulary.model + (NO_DUMMY_PREFIX if continues else b"")
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._tokens = {number: token for token, number in vocabulary.ids.items()}

    def encode(
        self,
        texts: Any,
        out_type: type = int,  # noqa: ARG002  as sentencepiece has it
        num_threads: int = 1,
        return_type: Literal["offset_mapping"] | None = None,
    ) -> Any:
        """Return the ids of a text, or of several; or ``offsets``, as sentencepiece does."""
        if return_type is not None:
            size = len(self._read_code(texts))
            found = self._processor.encode(texts[size:], return_type=return_type)["offsets"]
            spans = [(start + size, stop + size) for start, stop in found]
            return {"offsets": [(0, size), *spans] if size else spans}
        if isinstance(texts, str):
            return self.encode([texts])[0]
        codes = [self._read_code(text) for text in texts]
        rest = [text[len(code) :] for code, text in zip(codes, texts, strict=True)]
        rows = self._processor.encode(rest, out_type=str, num_threads=num_threads)
        ids, unknown_id = self.vocabulary.ids, self.vocabulary.unknown_id
        return [
            [ids.get(piece, unknown_id) for piece in ([code, *row] if code else row)]
            for code, row in zip(codes, rows, strict=True)
        ]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens."""
        text: str = self._processor.decode([self._tokens.get(number, "") for number in ids])
        return text.replace(WORD_BEGINNING, " ")  # in runs that sentencepiece does not know

    def serialized_model_proto(self) -> bytes:
        """Return the bytes of the model, without the ids."""
        return self.vocabulary.model

    def _read_code(self, text: str) -> str:
        """Return the code of a language that begins a text, or nothing."""
        is_code = self._has_codes and text.startswith(">>")
        return text[: text.find("<<") + 2] if is_code and "<<" in text else ""
