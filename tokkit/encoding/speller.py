"""A byte-level BPE model for the kernel that spells words without merging; see ``kernels.spelling``.

It can be had where every byte is an entry, and every other entry is made by one merge, which comes
after those that make its parts: that is what trainers give. Other models are encoded by merging.
"""

import numpy as np
import numpy.typing as npt

from tokkit.encoding.choice import NO_ID, read_merges
from tokkit.kernels.bytetrie import NO_ENTRY, fill_cells
from tokkit.kernels.spelling import (
    MOST_ENTRIES,
    NUM_BYTES,
    Speller,
    fill_pairs,
    find_prefixes,
    find_reachable,
)
from tokkit.vocab.tokenizer import Tokenizer

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
