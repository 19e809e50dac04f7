"""Sort the words of a table into a run of records, and merge runs.

A run is a sequence of records, in the order of the words' bytes:

    length (8 bytes)   count (8)   the word's bytes, with zeros up to a multiple of 8
"""

import numpy as np

from tokkit.kernels.arrays import Bools, Bytes, Int64, UInt64
from tokkit.kernels.heap import move_down
from tokkit.kernels.jit import inline, kernel, splice
from tokkit.kernels.memory import copy_values, prefetch, reverse_bytes, signed
from tokkit.kernels.vocab.word_table import COUNT, LENGTH, SLOT_WORDS, START, is_same, load_masked

HEAD_BYTES = 16
_AHEAD = 8  # words between fetching memory and its use

# Results of ``merge_records``, besides the number of a run.
MERGED = -1
NO_ROOM = -2

# The end of a record that was not read yet, or is not in its window.
_UNREAD = -2
_MISSING = -1


@inline
def _big_endian(values: Bytes, start: int, stop: int) -> np.uint64:
    """Return the first eight bytes of a word as a number with the same order, zeros at the end.

    The array must go on for eight bytes.
    """
    word: np.uint64 = reverse_bytes(load_masked(values, start, stop))
    return word


@inline
def _is_before(values: Bytes, start: int, length: int, other: int, other_length: int) -> bool:
    """Return whether the word at ``start`` comes before the one at ``other`` by their bytes."""
    for index in range(0, min(length, other_length), 8):
        key = _big_endian(values, start + index, start + length)
        other_key = _big_endian(values, other + index, other + other_length)
        if key != other_key:
            return bool(key < other_key)
    return length < other_length


@kernel
def list_words(slots: UInt64, arena: Bytes, out_keys: UInt64, out_places: Int64) -> None:
    """List the words of a table.

    Args:
        slots: of the table.
        arena: of the table.
        out_keys: uint64 ``[num_words]``, the first eight bytes of each word, as a number.
        out_places: int64 ``[num_words]``, index of its slot.
    """
    count = 0
    for place in range(0, slots.size, SLOT_WORDS):
        length = signed(slots[place + LENGTH])
        if length != 0:
            start = signed(slots[place + START])
            out_keys[count] = _big_endian(arena, start, start + length)
            out_places[count] = place
            count += 1


@splice
def _comes_after(heap: tuple[UInt64, Bytes, Int64, int], index: int, other: int) -> bool:
    """Return whether one word of a heap comes after another, so that the last one is on top."""
    slots, arena, places, first = heap
    place, other_place = places[first + index], places[first + other]
    return _is_before(
        arena,
        signed(slots[other_place + START]),
        signed(slots[other_place + LENGTH]),
        signed(slots[place + START]),
        signed(slots[place + LENGTH]),
    )


@splice
def _swap(heap: tuple[UInt64, Bytes, Int64, int], index: int, other: int) -> None:
    _, _, places, first = heap
    places[first + index], places[first + other] = places[first + other], places[first + index]


@kernel
def sort_same_keys(slots: UInt64, arena: Bytes, keys: UInt64, places: Int64) -> None:
    """Sort words by all their bytes that are in the order of their keys; ``places`` is updated.

    Sorts by heaps, so that a million words with the same beginning take no longer than others.
    """
    first = 0
    while first < keys.size:
        last = first + 1
        _fetch(slots, arena, places, first)
        while last < keys.size and keys[last] == keys[first]:
            _fetch(slots, arena, places, last)
            last += 1
        heap = (slots, arena, places, first)
        size = last - first
        for root in range(size // 2 - 1, -1, -1):
            move_down(_comes_after, _swap, heap, root, size)
        for end in range(size - 1, 0, -1):
            _swap(heap, 0, end)
            move_down(_comes_after, _swap, heap, 0, end)
        first = last


@splice
def _fetch(slots: UInt64, arena: Bytes, places: Int64, index: int) -> None:
    """Fetch the slots and the bytes of words that are used some words later."""
    if index + 2 * _AHEAD < places.size:
        prefetch(slots, places[index + 2 * _AHEAD])
        prefetch(arena, signed(slots[places[index + _AHEAD] + START]))


@splice
def _take_count(slots: UInt64, place: int) -> int:
    """Return the count of a word, and empty its slot."""
    count: int = signed(slots[place + COUNT])
    for part in range(SLOT_WORDS):
        slots[place + part] = np.uint64(0)
    return count


@kernel
def write_records(
    slots: UInt64,
    arena: Bytes,
    places: Int64,
    first: int,
    factor: int,
    out_bytes: Bytes,
    out_words: Int64,
) -> tuple[int, int]:
    """Write words of a table as records; a word that has two slots is one record.

    Args:
        slots: of the table; those of words that are written are emptied.
        arena: of the table.
        places: indices of the words' slots, sorted.
        first: index into ``places`` of the first word to write.
        factor: counts are multiplied by it.
        out_bytes: uint8, the records.
        out_words: int64, the same memory.

    Returns:
        The first word that did not fit, and the number of bytes written.
    """
    size = 0
    word = first
    while word < places.size:
        place = places[word]
        _fetch(slots, arena, places, word)
        start, length = signed(slots[place + START]), signed(slots[place + LENGTH])
        end = size + HEAD_BYTES + (length + 7) // 8 * 8
        if end > out_bytes.size:
            break
        count = _take_count(slots, place)
        word += 1
        if word < places.size and signed(slots[places[word] + LENGTH]) == length:
            place = places[word]
            if is_same(arena, start, signed(slots[place + START]), length):
                count += _take_count(slots, place)
                word += 1
        out_words[size // 8] = length
        out_words[size // 8 + 1] = count * factor
        out_words[end // 8 - 1] = 0
        copy_values(arena, start, out_bytes, size + HEAD_BYTES, length)
        size = end
    return word, size


@inline
def _end_of_record(words: Int64, start: int, stop: int) -> int:
    """Return where the record at ``start`` ends, or ``_MISSING`` if it is not there as a whole."""
    if stop - start < HEAD_BYTES:
        return _MISSING
    end = start + HEAD_BYTES + (words[start // 8] + 7) // 8 * 8
    return end if end <= stop else _MISSING


@inline
def _record_is_before(buffer: Bytes, words: Int64, start: int, other: int) -> bool:
    """Return whether the word of the record at ``start`` comes before that of another."""
    length, other_length = words[start // 8], words[other // 8]
    return _is_before(buffer, start + HEAD_BYTES, length, other + HEAD_BYTES, other_length)


@inline
def _is_same_word(buffer: Bytes, words: Int64, start: int, other: int) -> bool:
    """Return whether two records have the same word."""
    length = words[start // 8]
    is_equal: bool = length == words[other // 8] and is_same(
        buffer, start + HEAD_BYTES, other + HEAD_BYTES, length
    )
    return is_equal


@kernel
def merge_records(
    buffer: Bytes,
    words: Int64,
    starts: Int64,
    stops: Int64,
    goes_on: Bools,
    divisor: int,
    smallest: int,
    keys: UInt64,
    ends: Int64,
    totals: Int64,
    out_bytes: Bytes,
    out_words: Int64,
) -> tuple[int, int]:
    """Merge runs; counts of equal words are added, divided, and rounded half up to 1 at least.

    Args:
        buffer: uint8, a window of each run.
        words: int64, the same memory.
        starts: int64 ``[num_runs]``, where the rest of each window begins; updated.
        stops: int64 ``[num_runs]``, where each window ends.
        goes_on: bool ``[num_runs]``: whether the run has more than its window.
        divisor: sums of counts are divided by it.
        smallest: words with a smaller result are dropped.
        keys: uint64 ``[num_runs]``, memory for this call.
        ends: int64 ``[num_runs]``, memory for this call.
        totals: int64 ``[3]``: words, their bytes, and their counts; added to.
        out_bytes: uint8, the records.
        out_words: int64, the same memory.

    Returns:
        The run of which more is needed, ``NO_ROOM`` or ``MERGED``; and the number of bytes written.
    """
    num_runs = starts.size
    size = 0
    for run in range(num_runs):
        ends[run] = _UNREAD
    while True:
        least = -1
        for run in range(num_runs):
            start = starts[run]
            if ends[run] == _UNREAD:
                ends[run] = _end_of_record(words, start, stops[run])
                if ends[run] == _MISSING:
                    if goes_on[run]:
                        return run, size
                    continue
                word = start + HEAD_BYTES
                keys[run] = _big_endian(buffer, word, word + words[start // 8])
            if ends[run] >= 0 and (
                least < 0
                or keys[run] < keys[least]
                or (
                    keys[run] == keys[least]
                    and _record_is_before(buffer, words, start, starts[least])
                )
            ):
                least = run
        if least < 0:
            return MERGED, size
        start = starts[least]
        num_bytes = ends[least] - start
        if size + num_bytes > out_bytes.size:
            return NO_ROOM, size
        total = 0
        for run in range(num_runs):
            if (
                ends[run] >= 0
                and keys[run] == keys[least]
                and _is_same_word(buffer, words, starts[run], start)
            ):
                total += words[starts[run] // 8 + 1]
                starts[run] = ends[run]
                ends[run] = _UNREAD
        if divisor > 1:
            total = max(1, (total + divisor // 2) // divisor)
        if total < smallest:
            continue
        copy_values(buffer, start, out_bytes, size, num_bytes)
        out_words[size // 8 + 1] = total
        size += num_bytes
        totals[0] += 1
        totals[1] += words[start // 8]
        totals[2] += total


@kernel
def unpack_records(
    data: Bytes, words: Int64, out_values: Bytes, out_offsets: Int64, out_counts: Int64
) -> None:
    """Write the words, bounds and counts of records to arrays of their own.

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
