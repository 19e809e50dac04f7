"""GPT-2's and RoBERTa's tokenizers: what the kernel must be told of pre-tokenizer and model."""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.corpus.documents import read_only, string_buffers
from tokkit.encoding.choice import read_merges
from tokkit.encoding.encoded import SentenceTooLongError
from tokkit.encoding.kernels import KernelEncoder
from tokkit.encoding.speller import make_speller
from tokkit.kernels.bpe import encode_bpe
from tokkit.kernels.merges import Merges, fill_merges, new_parts
from tokkit.kernels.scan import prefix_spaces
from tokkit.kernels.spelling import new_spelling
from tokkit.vocab.tables import PieceCharacters
from tokkit.vocab.tokenizer import Tokenizer

_ROOM = 1 << 10
# A word of so many bytes takes 200 MB.
LONGEST_WORD = 4 << 20


class BPEEncoder(KernelEncoder):
    """Encodes with the ``ByteLevel`` pre-tokenizer and ``BPE``.

    Args:
        tokenizer: whose ids they are.
        longest_word: how many bytes a word may have, of one class of characters.
    """

    _kernel = staticmethod(encode_bpe)

    def __init__(self, tokenizer: Tokenizer, *, longest_word: int | None = None) -> None:
        super().__init__(tokenizer)
        self._longest_word = LONGEST_WORD if longest_word is None else longest_word
        self._merges = _make_merges(tokenizer)
        self._speller = make_speller(tokenizer)
        self._make_parts(_ROOM)
        assert tokenizer.library is not None  # noqa: S101  the pipeline is one of the library's
        self._characters = PieceCharacters(tokenizer.library.pre_tokenizer)

    def _text(
        self, sentences: pa.LargeStringArray
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
        """The sentences, each with a space in front where the tokenizer puts one."""
        values, offsets = string_buffers(sentences)
        if not self._tokenizer.add_prefix_space:
            return values, offsets
        num_bytes = int(offsets[-1] - offsets[0]) + len(sentences)
        out_values = np.empty(num_bytes, np.uint8)
        out_offsets = np.empty(len(offsets), np.int64)
        num_bytes = prefix_spaces(read_only(values), read_only(offsets), out_values, out_offsets)
        return out_values[:num_bytes], out_offsets

    @property
    def _tables(self) -> tuple[Any, ...]:
        return (self._characters.classes, self._merges, self._parts, self._speller, self._spelling)

    def _learn_page(self, code: int) -> None:
        self._characters.learn_page(code)

    def _make_room(self, num_bytes: int, sentence: int) -> None:
        if num_bytes > self._longest_word:
            raise SentenceTooLongError(num_bytes, sentence)
        self._make_parts(2 * num_bytes)

    def _make_parts(self, num_bytes: int) -> None:
        self._parts = new_parts(num_bytes)
        self._spelling = new_spelling(num_bytes)


def _make_merges(tokenizer: Tokenizer) -> Merges:
    """The table of merges."""
    byte_ids, lefts, rights, merged = read_merges(tokenizer)
    size = 1 << max(4, (2 * len(merged)).bit_length())
    shift = 65 - size.bit_length()
    table = np.zeros(2 * size, np.uint64)
    known = np.zeros(1 << 14, np.uint64)
    fill_merges(lefts, rights, merged, shift, table, known)
    return Merges(table, shift, known, byte_ids)
