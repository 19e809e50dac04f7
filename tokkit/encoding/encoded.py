"""What comes out of an encoder, and the rules that all encoders keep."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.vocab.tokenizer import Tokenizer

Ids = npt.NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Encoded:
    """Token ids of some sentences.

    Attributes:
        ids: uint16 where the vocabulary has at most 65,536 entries, else uint32; ``[num_tokens]``.
        offsets: int64 ``[num_sentences + 1]``: sentence ``i`` is ``ids[offsets[i]:offsets[i + 1]]``.
        word_starts: bool ``[num_tokens]``: true where a token begins a word.
    """

    ids: Ids
    offsets: npt.NDArray[np.int64]
    word_starts: pa.BooleanArray


class SentenceTooLongError(TokkitError):
    """A sentence with a stretch that must be taken in one piece, which memory does not hold.

    Args:
        num_bytes: of that stretch.
        sentence: its number.
    """

    def __init__(self, num_bytes: int, sentence: int) -> None:
        super().__init__(
            f"a sentence has {num_bytes:,} bytes that this tokenizer must take in one piece, "
            f"more than fit into memory; break it into lines and pass --sentences lines"
        )
        self.sentence = sentence


def id_dtype(tokenizer: Tokenizer) -> npt.DTypeLike:
    """The type of a tokenizer's ids."""
    return np.uint16 if tokenizer.vocab_size <= 1 << 16 else np.uint32


def forbidden_ids(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """The control tokens that text must not become, ``[vocab_size]``: all but ``unk``."""
    forbidden = np.zeros(tokenizer.vocab_size, np.bool_)
    forbidden[list(tokenizer.control_ids)] = True
    if "unk" in tokenizer.special_ids:
        forbidden[tokenizer.special_ids["unk"]] = False
    return forbidden
