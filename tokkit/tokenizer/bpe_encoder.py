"""GPT-2's and RoBERTa's tokenizers: what the kernel must be told of pre-tokenizer and model.

A byte-level BPE model for the kernel that spells words without merging; see ``kernels.encode.bpe_lookup``.

It can be had where every byte is an entry, and every other entry is made by one merge, which comes
after those that make its parts: that is what trainers give. Other models are encoded by merging.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tokkit.kernels.encode.bpe_lookup import (
    MOST_ENTRIES,
    NUM_BYTES,
    Speller,
    fill_pairs,
    find_prefixes,
    find_reachable,
    new_spelling,
)
from tokkit.kernels.encode.bpe_merges import Merges, fill_merges, new_parts
from tokkit.kernels.encode.encode_bpe import encode_bpe
from tokkit.kernels.encode.tries import NO_ENTRY, fill_cells
from tokkit.kernels.scan import prefix_spaces
from tokkit.shards.arrow import read_only, string_buffers
from tokkit.tokenizer.character_tables import PieceCharacters
from tokkit.tokenizer.encoded import NO_ID, SentenceTooLongError, read_merges
from tokkit.tokenizer.kernel_encoder import KernelEncoder
from tokkit.tokenizer.tokenizer import Tokenizer

# Each merge can double the length: what all entries spell, and how far each is read ahead.
_MOST_BYTES = 1 << 26


def make_speller(tokenizer: Tokenizer) -> Speller:
    """The model; one of no entries where it is not of this kind."""
    byte_ids, left_ids, right_ids, merged_ids = read_merges(tokenizer)
    ids = np.concatenate([byte_ids, merged_ids])
    numbers = {number: entry for entry, number in enumerate(ids.tolist())}
    lefts = _number_parts(numbers, left_ids)
    rights = _number_parts(numbers, right_ids)
    is_known = len(numbers) == len(ids) <= MOST_ENTRIES and NO_ID not in numbers
    later = np.maximum(lefts, rights)[NUM_BYTES:] >= np.arange(NUM_BYTES, len(ids))
    spelled = _spell(lefts.tolist(), rights.tolist()) if is_known and not later.any() else []
    return _fill_speller(ids[: len(spelled)], lefts, rights, spelled)


def _number_parts(numbers: dict[int, int], ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint32]:
    """The left or right parts of all entries; what is no entry has a number that none has."""
    parts = [numbers.get(number, MOST_ENTRIES) for number in ids.tolist()]
    return np.array([*range(NUM_BYTES), *parts], np.uint32)


def _spell(lefts: list[int], rights: list[int]) -> list[bytes]:
    """What each entry spells; nothing where that is too much."""
    spelled = [bytes([byte]) for byte in range(NUM_BYTES)]
    num_bytes = 0
    for left, right in zip(lefts[NUM_BYTES:], rights[NUM_BYTES:], strict=True):
        spelled.append(spelled[left] + spelled[right])
        num_bytes += len(spelled[-1])
        if num_bytes > _MOST_BYTES:
            return []
    return spelled


def _fill_speller(
    ids: npt.NDArray[np.int64],
    lefts: npt.NDArray[np.uint32],
    rights: npt.NDArray[np.uint32],
    spelled: list[bytes],
) -> Speller:
    """The tables of a model, of no entries where none spells anything."""
    lefts, rights = lefts[: len(spelled)], rights[: len(spelled)]
    bits = max(4, (2 * len(spelled)).bit_length())
    speller = Speller(
        cells=np.zeros(256, np.uint64),
        parts=lefts.astype(np.uint64) << np.uint64(32) | rights,
        lengths=np.array([len(entry) for entry in spelled], np.int32),
        prefixes=np.full((2, len(spelled)), NO_ENTRY, np.int32),
        ids=ids.astype(np.uint32),
        table=np.zeros(1 << bits, np.uint64),
        shift=64 - bits,
        known=np.zeros(1 << 14, np.uint64),
        earliest=np.full((256, 256), MOST_ENTRIES, np.uint32),
    )
    if not spelled:
        return speller
    fill_pairs(speller.parts, speller.shift, speller.table, speller.known)
    firsts = np.array([entry[0] for entry in spelled])
    lasts = np.array([entry[-1] for entry in spelled])
    merged = np.arange(NUM_BYTES, len(spelled))
    line = lasts[lefts[merged]], firsts[rights[merged]]
    np.minimum.at(speller.earliest, line, merged.astype(np.uint32))
    is_reachable = np.zeros(len(spelled), np.bool_)
    find_reachable(speller, is_reachable)
    order = sorted(np.flatnonzero(is_reachable).tolist(), key=spelled.__getitem__)
    values = np.frombuffer(b"".join(spelled[entry] for entry in order), np.uint8)
    offsets = np.zeros(len(order) + 1, np.int64)
    np.cumsum([len(spelled[entry]) for entry in order], out=offsets[1:])
    entries = np.array(order)
    find_prefixes(values, offsets, entries, np.empty(len(order), np.int64), speller.prefixes)
    return speller._replace(cells=_make_cells(values, offsets, entries))


def _make_cells(
    values: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64], entries: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint64]:
    """The trie over entries that are in the order of their bytes."""
    queue = np.empty((len(values) + 1, 4), np.int64)
    size = 1 << 16
    while True:
        cells = np.zeros(size, np.uint64)
        if fill_cells(values, offsets, entries, cells, queue, np.zeros(size, np.bool_)):
            return cells
        size *= 2


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
