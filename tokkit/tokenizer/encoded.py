"""What encoders return."""

from dataclasses import dataclass

import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.kernels.arrays import Ids, Int64


@dataclass(frozen=True)
class Encoded:
    """Token ids of some sentences; those of a text begin with its first and follow one another.

    Attributes:
        ids: uint16 ``[num_tokens]``, or uint32 for more than 65,536 tokens in the vocabulary.
        offsets: int64 ``[num_sentences + 1]``: ``ids[offsets[i]:offsets[i + 1]]`` are the tokens
            that begin in sentence ``i``.
        word_starts: bool ``[num_tokens]``: whether a token begins a word.
    """

    ids: Ids
    offsets: Int64
    word_starts: pa.BooleanArray


class TextTooLongError(TokkitError):
    """A text cannot be cut into pieces that give its ids, and is too long to encode in one.

    Args:
        num_bytes: length of what cannot be cut.
        text: number of the text in the batch.
    """

    def __init__(self, num_bytes: int, text: int) -> None:
        super().__init__(
            f"{num_bytes:,} bytes of text that this tokenizer must take in one piece; break the "
            f"text into lines and pass --sentences lines"
        )
        self.num_bytes = num_bytes
        self.text = text
