"""What an encoder returns, and what it asks of a tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.kernels.arrays import Bools, Bytes, Ids, Int64
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.tokenizer import Tokenizer

NO_ID = -1  # as in ``tokkit.kernels.encode.bpe_merges``


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


def forbidden_mask(tokenizer: Tokenizer) -> Bools:
    """Return which tokens text must not become, all special ones but ``unk``: bool ``[vocab_size]``."""
    mask = np.zeros(tokenizer.vocab_size, np.bool_)
    mask[list(tokenizer.all_special_ids)] = True
    if "unk" in tokenizer.special_ids:
        mask[tokenizer.special_ids["unk"]] = False
    return mask


@lru_cache(maxsize=1)
def read_merges(tokenizer: Tokenizer) -> tuple[Int64, ...]:
    """Return the ids of single bytes, ``NO_ID`` for missing ones, and those of the merges by rank.

    Returns:
        int64 ``[256]``; int64 ``[num_merges]`` each: left parts, right parts, and merged tokens.
    """
    vocabulary = tokenizer.definition["model"]["vocab"]
    merges = tokenizer.definition["model"]["merges"]
    return (
        np.array([vocabulary.get(char, NO_ID) for char in byte_level_alphabet()], np.int64),
        np.array([vocabulary[left] for left, _ in merges], np.int64),
        np.array([vocabulary[right] for _, right in merges], np.int64),
        np.array([vocabulary[left + right] for left, right in merges], np.int64),
    )


def read_token_bytes(tokens: Sequence[str]) -> tuple[Bytes, Int64]:
    """Return the bytes that tokens of byte-level BPE stand for.

    Args:
        tokens: by id; those with other characters than ``byte_level_alphabet`` have no bytes.

    Returns:
        uint8, and int64 ``[vocab_size + 1]`` offsets into it.
    """
    codes = np.frombuffer("".join(tokens).encode("utf-32-le", "surrogatepass"), np.uint32)
    lengths = np.fromiter(map(len, tokens), np.int64, len(tokens))
    found = np.full(512, -1)
    found[list(map(ord, byte_level_alphabet()))] = np.arange(256)
    values = found[np.minimum(codes, 511)]
    owners = np.repeat(np.arange(len(tokens)), lengths)
    is_known = np.ones(len(tokens), np.bool_)
    is_known[owners[(values < 0) | (codes >= 512)]] = False
    offsets = np.concatenate([[0], np.cumsum(np.where(is_known, lengths, 0))])
    return values[is_known[owners]].astype(np.uint8), offsets
