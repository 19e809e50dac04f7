"""Documents and sentences equal those of the readable twins."""

from collections.abc import Iterator
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from reference import scan as reference
from tokkit.kernels.scan import (
    NUM_EMPTY,
    NUM_LINES,
    find_documents,
    find_lines,
    first_needed,
    move_state,
    new_state,
)
from tokkit.kernels.string_columns import BLOCK, copy_documents, is_utf8, write_names

# What is behind the bytes in a buffer, and must not be looked at.
BEYOND = b"\r\n\xef\xbb\xbf" * 14
# White space of every length, characters and bytes that begin like it, and byte order marks.
PIECES = [
    b"\n",
    b"\r",
    b" ",
    b"\t",
    b"\f",
    b"\x1c",
    b"a",
    b"\x00",
    b"\xc3",
    b"\xe2",
    b"\xe3\x80",
    b"\xef",
]
PIECES += [
    char.encode() for char in "\x85\xa0\u1680\u2003\u2028\u205f\u3000\ufeff\u3001\u200b\uff0c"
]
# Few distinct pieces, so that line ends meet; runs, so that blocks of 64 bytes are crossed.
TEXTS = st.lists(st.tuples(st.sampled_from(PIECES), st.integers(1, 9) | st.just(70))).map(
    lambda runs: b"".join(piece * count for piece, count in runs)
)


def as_array(data: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(data, dtype=np.uint8)


def as_positions(numbers: list[int]) -> NDArray[np.int64]:
    """Not writable, as bytes are not, or Numba compiles the kernel for one more type."""
    return np.frombuffer(np.array(numbers, dtype=np.int64).tobytes(), dtype=np.int64)


def find_in_chunks(
    data: bytes, chunk_sizes: Iterator[int], capacity: int, *, by_line: bool
) -> tuple[list[tuple[int, int]], NDArray[np.int64]]:
    """Find documents while the buffer is refilled, as a reader of files does."""
    found = []
    starts = np.empty(capacity, dtype=np.int64)
    stops = np.empty(capacity, dtype=np.int64)
    state = new_state(0)
    base = stop = 0
    final = False
    while not final:
        stop = min(len(data), stop + next(chunk_sizes))
        final = stop == len(data)
        buffer = as_array(data[base:stop] + BEYOND)
        count = capacity
        while count == capacity:
            count = find_documents(buffer, stop - base, final, by_line, state, starts, stops)
            found += [
                (base + int(start), base + int(end))
                for start, end in zip(starts[:count], stops[:count], strict=True)
            ]
        needed = first_needed(state)
        move_state(state, needed)
        base += needed
    return found, state


@pytest.mark.parametrize("documents", ["blank-line", "line"])
@given(
    data=TEXTS,
    chunk_sizes=st.lists(st.integers(1, 40) | st.just(200), min_size=1),
    capacity=st.integers(1, 5),
)
def test_documents_equal_those_of_the_twin_however_the_buffer_is_refilled(
    documents: str, data: bytes, chunk_sizes: list[int], capacity: int
) -> None:
    def endless() -> Iterator[int]:
        while True:
            yield from chunk_sizes

    found, state = find_in_chunks(data, endless(), capacity, by_line=documents == "line")

    assert found == reference.documents(data, documents)
    assert state[NUM_LINES] == len(reference.lines(data))
    assert state[NUM_EMPTY] == reference.count_empty_lines(data)


@pytest.mark.parametrize("as_text_file", [True, False])
@given(data=TEXTS, cuts=st.lists(st.integers(0, 200)), has_room=st.booleans())
def test_copies_are_clean_and_blank_slices_are_left_out(
    as_text_file: bool, data: bytes, cuts: list[int], has_room: bool
) -> None:
    bounds = sorted(min(cut, len(data)) for cut in [*cuts, 0, len(data)])
    starts, stops = as_positions(bounds[:-1]), as_positions(bounds[1:])
    values = np.empty(len(data) + BLOCK * has_room, dtype=np.uint8)
    offsets = np.empty(starts.size + 1, dtype=np.int64)
    kept = np.empty(starts.size, dtype=np.int64)
    buffer = as_array(data + BEYOND * has_room)

    count = copy_documents(buffer, starts, stops, as_text_file, values, offsets, kept)

    slices = [data[start:stop] for start, stop in zip(starts, stops, strict=True)]
    expected = [index for index, text in enumerate(slices) if not reference.is_blank(text)]
    assert kept[:count].tolist() == expected
    copies = [values[offsets[index] : offsets[index + 1]].tobytes() for index in range(count)]
    clean = reference.clean if as_text_file else bytes
    assert copies == [clean(slices[index]) for index in expected]


# First and last characters of each length, surrogates, and what is cut off, overlong or too large.
PARTS = [b"a" * 61, b"\x7f", b"\xc0\x80", b"\xc1\xbf", b"\xe0\x9f\xbf", b"\xf0\x8f\xbf\xbf"]
PARTS += [
    b"\xed\xa0\x80",
    b"\xed\xbf\xbf",
    b"\xf4\x90\x80\x80",
    b"\xf5\x80\x80\x80",
    b"\xff",
    b"\x80",
]
PARTS += [b"\xe2\x80", b"\xf0\x90\x80", b"\xc3", b"\x80\x80"]
VALID = [char.encode() for char in "\x80\u07ff\u0800\ud7ff\ue000\uffff\U00010000\U0010ffff"]


def test_texts_are_utf8_if_python_decodes_each() -> None:
    """Every part at every place of a block of 64 bytes, whole, in two texts, and a block apart."""
    for part in [*VALID, *PARTS]:
        for place in range(70):
            cut = place % (len(part) + 1)
            for texts in (
                [b"a" * place + part],
                [b"a" * place + part[:cut], part[cut:] + b"b" * 80],
                [b"a" * place + part[:cut] + b"b" * BLOCK + part[cut:]],
            ):
                offsets = as_positions(list(accumulate([0, *map(len, texts)])))
                values = as_array(b"".join(texts) + BEYOND)

                assert is_utf8(values, offsets) == all(map(reference.is_utf8, texts)), texts


def test_line_ends_and_byte_order_marks_are_found_at_every_place_of_a_block() -> None:
    for part in (b"\r", b"\r\n", b"\n\xef\xbb\xbf", b"\n\xef\xbb", b"\xef\xbb\xbf"):
        for place in range(1, 140):
            data = b"a" * place + part + b"b" * (place % 3)
            values = np.empty(len(data) + BLOCK, dtype=np.uint8)
            offsets, kept = np.empty(2, np.int64), np.empty(1, np.int64)
            bounds = as_positions([0]), as_positions([len(data)])

            copy_documents(as_array(data + BEYOND), *bounds, True, values, offsets, kept)

            assert values[: offsets[1]].tobytes() == reference.clean(data), data


@given(texts=st.lists(TEXTS), prefix=st.binary(max_size=9))
def test_lines_equal_those_of_the_twin(texts: list[bytes], prefix: bytes) -> None:
    """The prefix is text before the first bound, which need not be 0."""
    data = prefix + b"".join(texts)
    offsets = as_positions(list(accumulate([len(prefix), *map(len, texts)])))
    most = len(texts) + data.count(b"\n") + data.count(b"\r")
    starts = np.empty(most, dtype=np.int64)
    stops = np.empty(most, dtype=np.int64)
    bounds = np.empty(len(texts) + 1, dtype=np.int64)

    count = find_lines(as_array(data), offsets, starts, stops, bounds)

    found = [data[starts[index] : stops[index]] for index in range(count)]
    for index, text in enumerate(texts):
        assert found[bounds[index] : bounds[index + 1]] == reference.text_lines(text)
    assert bounds[-1] == count


@given(st.lists(st.integers(0, 2**63 - 1)), st.binary(max_size=20))
def test_names_are_prefix_and_number(numbers: list[int], prefix: bytes) -> None:
    values = np.empty(len(numbers) * (len(prefix) + 19), dtype=np.uint8)
    offsets = np.empty(len(numbers) + 1, dtype=np.int32)

    write_names(as_array(prefix), np.array(numbers, dtype=np.int64), values, offsets)

    names = [values[start:stop].tobytes() for start, stop in pairwise(offsets)]
    assert names == [prefix + str(number).encode() for number in numbers]
