"""Which kernel encodes for a tokenizer, if any does.

What comes out of an encoder, and the rules that all encoders keep.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.errors import TokkitError
from tokkit.tokenizer.definitions import byte_level_alphabet
from tokkit.tokenizer.tokenizer import Tokenizer

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


def forbidden_ids(tokenizer: Tokenizer) -> npt.NDArray[np.bool_]:
    """The control tokens that text must not become, ``[vocab_size]``: all but ``unk``."""
    forbidden = np.zeros(tokenizer.vocab_size, np.bool_)
    forbidden[list(tokenizer.all_special_ids)] = True
    if "unk" in tokenizer.special_ids:
        forbidden[tokenizer.special_ids["unk"]] = False
    return forbidden


# As in ``tokkit.kernels.encode.bpe_merges``, which brings Numba along.
NO_ID = -1
MOST_MERGES = 1 << 26
_MOST_WORD_CHARS = 1 << 20


def choose_kernel(tokenizer: Tokenizer) -> str | None:
    """``wordpiece``, ``bpe``, or None where the tokenizer's own library must encode.

    The kernels know BERT's normalizer and pre-tokenizer before WordPiece, and GPT-2's before BPE;
    but no BPE that falls back on another entry for bytes it lacks, takes words whole before it
    merges, or can merge bytes into a control token.
    """
    if tokenizer.pipeline == "bert":
        model = tokenizer.definition["model"]
        known = model["unk_token"] in model["vocab"]
        return (
            "wordpiece" if known and model["max_input_chars_per_word"] <= _MOST_WORD_CHARS else None
        )
    return "bpe" if tokenizer.pipeline == "byte-level" and _knows_bpe(tokenizer) else None


def _knows_bpe(tokenizer: Tokenizer) -> bool:
    model = tokenizer.definition["model"]
    if len(model["merges"]) >= MOST_MERGES or any(
        model[name] for name in ("continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    ):
        return False
    byte_ids, _, _, merged = read_merges(tokenizer)
    lacks_bytes = (byte_ids == NO_ID).any()
    if lacks_bytes and (model["unk_token"] is not None or model["byte_fallback"]):
        return False
    reached = np.concatenate([byte_ids[byte_ids != NO_ID], merged])
    return not forbidden_ids(tokenizer)[reached].any()


def read_merges(tokenizer: Tokenizer) -> tuple[npt.NDArray[np.int64], ...]:
    """The ids of single bytes, ``NO_ID`` where one is missing, and of merges by rank.

    Returns:
        int64 ``[256]``; int64 ``[num_merges]``, of left parts, right parts, and what they come to.
    """
    vocabulary = tokenizer.definition["model"]["vocab"]
    merges = tokenizer.definition["model"]["merges"]
    return (
        np.array([vocabulary.get(char, NO_ID) for char in byte_level_alphabet()], np.int64),
        np.array([vocabulary[left] for left, _ in merges], np.int64),
        np.array([vocabulary[right] for _, right in merges], np.int64),
        np.array([vocabulary[left + right] for left, right in merges], np.int64),
    )
