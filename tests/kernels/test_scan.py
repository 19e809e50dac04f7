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
    copy_documents,
    find_documents,
    find_sentences,
    first_needed,
    move_state,
    new_state,
    write_names,
)

# Few distinct bytes, so that line ends meet; runs, so that words of eight bytes are crossed.
TEXTS = st.lists(
    st.tuples(st.sampled_from([b"\n", b"\r", b" ", b"\t", b"\f", b"a", b"\xc3"]), st.integers(1, 9))
).map(lambda runs: b"".join(byte * count for byte, count in runs))


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
        buffer = as_array(data[base:stop])
        count = capacity
        while count == capacity:
            count = find_documents(buffer, buffer.size, final, by_line, state, starts, stops)
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
    chunk_sizes=st.lists(st.integers(1, 40), min_size=1),
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


@given(data=TEXTS, cuts=st.lists(st.integers(0, 200)))
def test_copies_are_clean_and_blank_slices_are_left_out(data: bytes, cuts: list[int]) -> None:
    bounds = sorted(min(cut, len(data)) for cut in [*cuts, 0, len(data)])
    starts, stops = as_positions(bounds[:-1]), as_positions(bounds[1:])
    values = np.empty(len(data), dtype=np.uint8)
    offsets = np.empty(starts.size + 1, dtype=np.int64)
    kept = np.empty(starts.size, dtype=np.int64)

    count = copy_documents(as_array(data), starts, stops, values, offsets, kept)

    slices = [data[start:stop] for start, stop in zip(starts, stops, strict=True)]
    expected = [index for index, text in enumerate(slices) if text.strip(reference.SPACE)]
    assert kept[:count].tolist() == expected
    copies = [values[offsets[index] : offsets[index + 1]].tobytes() for index in range(count)]
    assert copies == [reference.clean(slices[index]) for index in expected]


@pytest.mark.parametrize("method", ["lines", "none"])
@given(texts=st.lists(TEXTS), prefix=st.binary(max_size=9))
def test_sentences_equal_those_of_the_twin(method: str, texts: list[bytes], prefix: bytes) -> None:
    """The prefix is text before the first bound, which need not be 0."""
    texts = [reference.clean(text) for text in texts]
    data = prefix + b"".join(texts)
    offsets = as_positions(list(accumulate([len(prefix), *map(len, texts)])))
    most = len(texts) + data.count(b"\n")
    starts = np.empty(most, dtype=np.int64)
    stops = np.empty(most, dtype=np.int64)
    bounds = np.empty(len(texts) + 1, dtype=np.int64)

    count = find_sentences(as_array(data), offsets, method == "lines", starts, stops, bounds)

    found = [data[starts[index] : stops[index]] for index in range(count)]
    for index, text in enumerate(texts):
        assert found[bounds[index] : bounds[index + 1]] == reference.sentences(text, method)
    assert bounds[-1] == count


@given(st.lists(st.integers(0, 2**63 - 1)), st.binary(max_size=20))
def test_names_are_prefix_and_number(numbers: list[int], prefix: bytes) -> None:
    values = np.empty(len(numbers) * (len(prefix) + 19), dtype=np.uint8)
    offsets = np.empty(len(numbers) + 1, dtype=np.int32)

    write_names(as_array(prefix), np.array(numbers, dtype=np.int64), values, offsets)

    names = [values[start:stop].tobytes() for start, stop in pairwise(offsets)]
    assert names == [prefix + str(number).encode() for number in numbers]
