"""Sentencepiece models whose pieces have the ids of another vocabulary, as Marian's and M2M100's.

    source.spm   ▁the at 5     vocab.json   ▁the at 12
                 no œ                       œ at 30, from the other language

    "the œ"      sentencepiece: ▁the ▁ œ    12, id of ▁, 30; a piece without an id is unknown

Their classes in transformers run in Python: sentencepiece cuts a text, and each piece is looked up.
So a run of characters that sentencepiece does not know has an id if the vocabulary has the whole of
it, which no ``tokenizer.json`` can say. Marian looks up ``>>fr<<``, which begins a text, by itself.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokkit.tokenizer.definitions import WORD_BEGINNING
from tokkit.tokenizer.limits import read_file

# Classes of transformers that look up the pieces of the text as it is.
LOOKUP_CLASSES = (
    *("MarianTokenizer", "M2M100Tokenizer", "BartphoTokenizer", "BertGenerationTokenizer"),
    *("PLBartTokenizer", "Speech2TextTokenizer"),
)
_CONFIGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "config.json")
# A later value of a field overrides an earlier one: ModelProto.normalizer_spec.add_dummy_prefix.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


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
