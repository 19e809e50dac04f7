"""Byte-pair encoding of one word without merging: the spelling that merges would end with.

Where each entry is made by one merge, later than the merges of its parts, the tokens of a word are
the only row of entries in which every two neighbours are *compatible*: encoded as a word of their
own, they stay as they are. So the word is read from left to right, the longest entry first; one
that is not compatible with the token before gives way to the next shorter, and where none is left,
the token before does. That a row of tokens is compatible up to a place makes it the encoding of
the word up to there, so a place from which there was no way on is never tried again.

    merges  a b: ab, b c: bc, bc d: bcd       abcd   abcd is no entry
                                              ab     longest at 0
                                              ab c   longest at 2, compatible: b c is merged after a b
                                              ab c d

Two tokens are taken apart again in the order opposite to merging, along the line between them: they
are compatible if no pair that meets there has a merge that would have come before.

(The theorem and the algorithm are Hendrik van Antwerpen's and Alexander Neubeck's, "So many tokens,
so little time", GitHub 2024.) Its time is a fraction of that of merging: Japanese, where phrases
without spaces are the words, MB/s a core: merging 23, this 53; Russian: 106 and 150.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.tries import NO_ENTRY, Cells, find_longest
from tokkit.kernels.encode.word_cache import Ids
from tokkit.kernels.jit import inline, kernel, tuple_inline, tuple_kernel, tuple_splice
from tokkit.kernels.memory import Bytes, signed

NUM_BYTES = 256
MOST_ENTRIES = (1 << 21) - 1

# Where entries are tried first and then: between characters, and in the midst of them.
WHOLE_CHARACTERS = 1
ANYWHERE = 0

_PRIME = np.uint64(0x9E37_79B9_7F4A_7C15)
_ID_BITS = np.uint64(21)
_ID_MASK = np.uint64(MOST_ENTRIES)
_NEVER = np.uint64(MOST_ENTRIES)
_KNOWN_SHIFT = np.uint64(64 - 20)
_HALF = np.uint64(32)
_LOW_HALF = np.uint64(0xFFFF_FFFF)


class Speller(NamedTuple):
    """A model whose entries are numbered in the order of their merges, behind the 256 bytes.

    Attributes:
        cells: of the trie over the entries; see ``bytetrie``.
        parts: uint64 ``[num_entries]``: left and right part of an entry, 32 bits each; of a byte,
            itself. None where the model is not of this kind.
        lengths: int32 ``[num_entries]``, bytes.
        prefixes: int32 ``[2, num_entries]``: the longest other entry that an entry begins with, or
            ``NO_ENTRY``; and the longest that ends between its characters.
        ids: uint32 ``[num_entries]``, in the vocabulary.
        table: uint64 ``[2 ** n]``: left and right part, 21 bits each, and the entry, by hash; 0 is
            free.
        shift: 64 - n.
        known: uint64 ``[2 ** 14]``: a bit of it is set for each pair that is in the table.
        earliest: uint32 ``[256, 256]``: of the pairs whose left part ends with one byte and whose
            right part begins with another, the first entry that one is merged to.
    """

    cells: Cells
    parts: NDArray[np.uint64]
    lengths: NDArray[np.int32]
    prefixes: NDArray[np.int32]
    ids: NDArray[np.uint32]
    table: NDArray[np.uint64]
    shift: int
    known: NDArray[np.uint64]
    earliest: NDArray[np.uint32]


class Spelling(NamedTuple):
    """Room for the spelling of a word of at most ``n`` bytes.

    Attributes:
        entries: uint32 ``[n]``.
        is_dead: bool ``[n + 1]``: whether there is no way on from a place.
    """

    entries: NDArray[np.uint32]
    is_dead: NDArray[np.bool_]


def new_spelling(size: int) -> Spelling:
    """Room for words of so many bytes."""
    return Spelling(np.empty(size, np.uint32), np.empty(size + 1, np.bool_))


@kernel
def fill_pairs(
    parts: NDArray[np.uint64],
    shift: int,
    out_table: NDArray[np.uint64],
    out_known: NDArray[np.uint64],
) -> None:
    """Put all entries but the bytes into an empty table, by their parts.

    Args:
        parts: uint64 ``[num_entries]``.
        shift: 64 - n.
        out_table: uint64 ``[2 ** n]``, zeros; ``2 ** n`` is twice ``num_entries`` at least.
        out_known: uint64 ``[2 ** 14]``, zeros.
    """
    for entry in range(NUM_BYTES, parts.size):
        pair = (parts[entry] >> _HALF) << _ID_BITS | (parts[entry] & _LOW_HALF)
        mixed = pair * _PRIME
        place = signed(mixed >> np.uint64(shift))
        while out_table[place] != 0:
            place = (place + 1) & (out_table.size - 1)
        out_table[place] = pair << _ID_BITS | np.uint64(entry)
        bit = mixed >> _KNOWN_SHIFT
        out_known[bit >> np.uint64(6)] |= np.uint64(1) << (bit & np.uint64(63))


@inline
def _continues(byte: np.uint8) -> bool:
    """Whether a byte is not the first of its character in UTF-8."""
    return bool(byte & 0xC0 == 0x80)


@inline
def _ends_whole(values: Bytes, start: int, end: int, stop: int) -> bool:
    """Whether an entry may give way to its beginning up to ``end`` in the first search.

    It may where that is whole characters, or where the entry begins with no whole one.
    """
    lead = values[start]
    size = 1 + (lead >= 0xC0) + (lead >= 0xE0) + (lead >= 0xF0)
    return not _continues(values[end]) or _continues(lead) or size > stop - start


@kernel
def find_prefixes(
    values: Bytes,
    offsets: NDArray[np.int64],
    entries: NDArray[np.int64],
    out_begun: NDArray[np.int64],
    out_prefixes: NDArray[np.int32],
) -> None:
    """Find the entries that each one begins with.

    Args:
        values: uint8, the entries' bytes, in the order of these.
        offsets: int64 ``[n + 1]``, into ``values``.
        entries: int64 ``[n]``, their numbers.
        out_begun: int64 ``[n]``, room for a stack: places of entries that begin with one another.
        out_prefixes: int32 ``[2, num_entries]``, all ``NO_ENTRY``; see ``Speller``.
    """
    depth = 0
    for place in range(entries.size):
        start, stop = offsets[place], offsets[place + 1]
        common = 0  # with the entry before
        while (
            place > 0
            and start + common < stop
            and offsets[place - 1] + common < start
            and values[offsets[place - 1] + common] == values[start + common]
        ):
            common += 1
        while depth > 0:
            top = out_begun[depth - 1]
            if offsets[top + 1] - offsets[top] <= common:
                break
            depth -= 1
        for index in range(depth):
            other = out_begun[index]
            end = start + offsets[other + 1] - offsets[other]
            out_prefixes[ANYWHERE, entries[place]] = entries[other]
            if _ends_whole(values, start, end, stop):
                out_prefixes[WHOLE_CHARACTERS, entries[place]] = entries[other]
        out_begun[depth] = place
        depth += 1


@tuple_splice
def _find_pair(speller: Speller, left: np.uint64, right: np.uint64) -> np.uint64:
    """The entry that a pair is merged to, or ``_NEVER``.

    Most pairs are merged to none, which a bit tells without a look into the table, which is beyond
    the processor's nearer caches.
    """
    pair = left << _ID_BITS | right
    mixed = pair * _PRIME
    bit = mixed >> _KNOWN_SHIFT
    if not speller.known[bit >> np.uint64(6)] >> (bit & np.uint64(63)) & np.uint64(1):
        return _NEVER
    table = speller.table
    place = mixed >> np.uint64(speller.shift)
    while table[place] != 0:
        if table[place] >> _ID_BITS == pair:
            entry: np.uint64 = table[place] & _ID_MASK
            return entry
        place = (place + np.uint64(1)) & np.uint64(table.size - 1)
    return _NEVER


@tuple_splice
def _is_compatible(
    speller: Speller, left: np.uint64, right: np.uint64, limit: np.uint64, earliest: np.uint64
) -> bool:
    """Whether no pair at the line between two entries is merged to one before ``limit``.

    The part that was made later is taken apart first; of two equal ones the right one, since of
    pairs that overlap the left is merged. No pair is merged there before ``earliest``.
    """
    while earliest < limit:
        if _find_pair(speller, left, right) < limit:
            return False
        # Without a branch, since nobody could predict which of them it is.
        is_left = left > right
        later = left if is_left else right
        parts = speller.parts[later]
        limit = later + np.uint64(not is_left)
        left = parts & _LOW_HALF if is_left else left
        right = right if is_left else parts >> _HALF
        if limit <= NUM_BYTES:
            return True
    return True


@tuple_kernel
def find_reachable(speller: Speller, out_is_reachable: NDArray[np.bool_]) -> None:
    """Find out which entries merging makes of the bytes that they spell: others never come out.

    Args:
        speller: of which only parts and pairs are read.
        out_is_reachable: bool ``[num_entries]``.
    """
    for entry in range(speller.parts.size):
        left, right = speller.parts[entry] >> _HALF, speller.parts[entry] & _LOW_HALF
        out_is_reachable[entry] = entry < NUM_BYTES or (
            out_is_reachable[left]
            and out_is_reachable[right]
            and _is_compatible(speller, left, right, np.uint64(entry), np.uint64(0))
        )


@tuple_inline
def spell_word(
    values: Bytes,
    start: int,
    stop: int,
    speller: Speller,
    spelling: Spelling,
    num_tokens: int,
    out_ids: Ids,
) -> int:
    """Append the tokens of a word of at least one byte; returns how many there are then."""
    entries, is_dead = spelling
    search = WHOLE_CHARACTERS
    depth = 0
    any_dead = False
    position = start
    entry, end = find_longest(speller.cells, values, start, stop)
    while True:
        if not (any_dead and is_dead[end - start]) and (
            depth == 0
            or _is_compatible(
                speller,
                np.uint64(entries[depth - 1]),
                np.uint64(entry),
                _NEVER,
                np.uint64(speller.earliest[values[position - 1], values[position]]),
            )
        ):
            entries[depth] = entry
            depth += 1
            position = end
            if position == stop:
                break
            entry, end = find_longest(speller.cells, values, position, stop)
            continue
        entry = signed(speller.prefixes[search, entry])
        while entry == NO_ENTRY and depth > 0:
            if not any_dead:
                for place in range(stop - start + 1):
                    is_dead[place] = False
                any_dead = True
            is_dead[position - start] = True
            depth -= 1
            entry = signed(entries[depth])
            position -= signed(speller.lengths[entry])
            entry = signed(speller.prefixes[search, entry])
        if entry == NO_ENTRY:
            search = ANYWHERE
            any_dead = False
            entry, end = find_longest(speller.cells, values, start, stop)
        else:
            end = position + signed(speller.lengths[entry])
    for index in range(depth):
        out_ids[num_tokens + index] = speller.ids[entries[index]]
    return num_tokens + depth
