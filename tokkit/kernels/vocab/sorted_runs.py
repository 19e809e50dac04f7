"""Sorted runs of words, on their way out of a table and through a merge.

A run is a row of records, the words in the order of their bytes:

    length (8 bytes)   count (8)   the word's bytes, and zeros up to a multiple of 8
"""

import numpy as np
from numpy.typing import NDArray

from tokkit.kernels.encode.word_cache import Words
from tokkit.kernels.jit import inline, kernel
from tokkit.kernels.memory import Bytes, copy_values, signed
from tokkit.kernels.vocab.word_table import big_endian, is_before

Positions = NDArray[np.int64]

HEAD_BYTES = 16

# Why ``merge_records`` returned, unless it needs more of a run.
MERGED = -1
NO_ROOM = -2


@kernel
def list_words(slots: Words, arena: Bytes, out_keys: Words, out_slots: Positions) -> None:
    """The words of a table: what their first bytes are in order of, and their slots."""
    count = 0
    for place in range(0, slots.size, 4):
        length = signed(slots[place + 2])
        if length != 0:
            start = signed(slots[place + 1])
            out_keys[count] = big_endian(arena, start, start + length)
            out_slots[count] = place
            count += 1


@inline
def _slot_is_before(slots: Words, arena: Bytes, one: int, other: int) -> bool:
    start, other_start = signed(slots[one + 1]), signed(slots[other + 1])
    stop = start + signed(slots[one + 2])
    other_stop = other_start + signed(slots[other + 2])
    return is_before(arena, start, stop, arena, other_start, other_stop)


@inline
def _sift(slots: Words, arena: Bytes, places: Positions, first: int, root: int, size: int) -> None:
    """Let a word of a heap sink to where it belongs."""
    place = places[first + root]
    while 2 * root + 1 < size:
        child = 2 * root + 1
        if child + 1 < size and _slot_is_before(
            slots, arena, places[first + child], places[first + child + 1]
        ):
            child += 1
        if not _slot_is_before(slots, arena, place, places[first + child]):
            break
        places[first + root] = places[first + child]
        root = child
    places[first + root] = place


@kernel
def sort_same_keys(slots: Words, arena: Bytes, keys: Words, places: Positions) -> None:
    """Sort words by all their bytes that are in the order of their keys; ``places`` is updated.

    By heaps, so that a million words with the same beginning take no longer than others.
    """
    first = 0
    while first < keys.size:
        last = first + 1
        while last < keys.size and keys[last] == keys[first]:
            last += 1
        size = last - first
        for root in range(size // 2 - 1, -1, -1):
            _sift(slots, arena, places, first, root, size)
        for end in range(size - 1, 0, -1):
            largest = places[first]
            places[first] = places[first + end]
            places[first + end] = largest
            _sift(slots, arena, places, first, 0, end)
        first = last


@kernel
def write_records(
    slots: Words,
    arena: Bytes,
    places: Positions,
    first: int,
    factor: int,
    out_bytes: Bytes,
    out_words: Positions,
) -> tuple[int, int]:
    """Write words of a table as records.

    Args:
        slots: of the table.
        arena: of the table.
        places: the slots of words, sorted.
        first: of them that is not written yet.
        factor: by which counts are multiplied.
        out_bytes: uint8, gets the records.
        out_words: int64, the same memory.

    Returns:
        The first that is not written now, and how many bytes the records have.
    """
    size = 0
    word = first
    while word < places.size:
        place = places[word]
        length = signed(slots[place + 2])
        padded = (length + 7) // 8 * 8
        if size + HEAD_BYTES + padded > out_bytes.size:
            break
        out_words[size // 8] = length
        out_words[size // 8 + 1] = signed(slots[place + 3]) * factor
        out_words[(size + HEAD_BYTES + padded) // 8 - 1] = 0
        copy_values(arena, signed(slots[place + 1]), out_bytes, size + HEAD_BYTES, length)
        size += HEAD_BYTES + padded
        word += 1
    return word, size


@inline
def _end_of_record(words: Positions, start: int, stop: int) -> int:
    """Where the record at ``start`` ends, or -1 where it is not there as a whole."""
    if stop - start < HEAD_BYTES:
        return -1
    end = start + HEAD_BYTES + (words[start // 8] + 7) // 8 * 8
    return end if end <= stop else -1


@kernel
def merge_records(
    buffer: Bytes,
    words: Positions,
    starts: Positions,
    stops: Positions,
    goes_on: NDArray[np.bool_],
    divisor: int,
    smallest: int,
    keys: Words,
    ends: Positions,
    totals: Positions,
    out_bytes: Bytes,
    out_words: Positions,
) -> tuple[int, int]:
    """Merge runs; counts of the same word are added up, divided, and rounded half up to 1 at least.

    Args:
        buffer: uint8, a window of each run.
        words: int64, the same memory.
        starts: int64 ``[num_runs]``, where in it the rest of each window begins; updated.
        stops: int64 ``[num_runs]``, where each window ends.
        goes_on: bool ``[num_runs]``: whether the run has more than its window.
        divisor: of the sums.
        smallest: words that then count less are left out.
        keys: uint64 ``[num_runs]``, room.
        ends: int64 ``[num_runs]``, room.
        totals: int64 ``[3]``: words, their bytes, and their counts; added to.
        out_bytes: uint8, gets the records.
        out_words: int64, the same memory.

    Returns:
        The run of which more is needed, ``NO_ROOM`` or ``MERGED``; and how many bytes the records
        have.
    """
    num_runs = starts.size
    size = 0
    ends[:] = -2  # not looked at
    while True:
        least = -1
        for run in range(num_runs):
            if ends[run] == -2:
                ends[run] = _end_of_record(words, starts[run], stops[run])
                if ends[run] == -1:
                    if goes_on[run]:
                        return run, size
                    continue
                start = starts[run] + HEAD_BYTES
                keys[run] = big_endian(buffer, start, start + words[starts[run] // 8])
            if ends[run] >= 0 and (
                least < 0
                or keys[run] < keys[least]
                or (
                    keys[run] == keys[least]
                    and is_before(
                        buffer,
                        starts[run] + HEAD_BYTES,
                        starts[run] + HEAD_BYTES + words[starts[run] // 8],
                        buffer,
                        starts[least] + HEAD_BYTES,
                        starts[least] + HEAD_BYTES + words[starts[least] // 8],
                    )
                )
            ):
                least = run
        if least < 0:
            return MERGED, size
        start = starts[least]
        num_bytes = ends[least] - start
        if size + num_bytes > out_bytes.size:
            return NO_ROOM, size
        length = words[start // 8]
        total = 0
        for run in range(num_runs):
            if ends[run] < 0 or keys[run] != keys[least] or words[starts[run] // 8] != length:
                continue
            is_same = True
            for index in range(HEAD_BYTES, HEAD_BYTES + length):
                if buffer[starts[run] + index] != buffer[start + index]:
                    is_same = False
                    break
            if is_same:
                total += words[starts[run] // 8 + 1]
                if run != least:
                    starts[run] = ends[run]
                    ends[run] = -2
        starts[least] = ends[least]
        ends[least] = -2
        if divisor > 1:
            total = max(1, (total + divisor // 2) // divisor)
        if total < smallest:
            continue
        copy_values(buffer, start, out_bytes, size, num_bytes)
        out_words[size // 8 + 1] = total
        size += num_bytes
        totals[0] += 1
        totals[1] += length
        totals[2] += total


@kernel
def unpack_records(
    data: Bytes,
    words: Positions,
    out_values: Bytes,
    out_offsets: Positions,
    out_counts: Positions,
) -> None:
    """Set words, bounds and counts apart.

    Args:
        data: uint8, the records.
        words: int64, the same memory.
        out_values: uint8 ``[num_bytes]``.
        out_offsets: int64 ``[num_words + 1]``.
        out_counts: int64 ``[num_words]``.
    """
    position = 0
    stop = 0
    out_offsets[0] = 0
    for word in range(out_counts.size):
        length = words[position // 8]
        out_counts[word] = words[position // 8 + 1]
        copy_values(data, position + HEAD_BYTES, out_values, stop, length)
        stop += length
        out_offsets[word + 1] = stop
        position += HEAD_BYTES + (length + 7) // 8 * 8
