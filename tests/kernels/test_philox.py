"""Philox is the published function, and a draw depends on its name alone."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import philox as reference
from reference.statistics import chi_square_z
from tokkit.kernels import philox as module
from tokkit.kernels.jit import kernel
from tokkit.kernels.philox import (
    MASK,
    PAIR,
    chance_threshold,
    join,
    philox,
    stream_of,
    uniform_below,
)

words = st.integers(0, 2**64 - 1)


@kernel
def draw(
    seed: np.uint64, stream: np.uint64, index: np.uint64, number: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    return philox(seed, stream, index, number)


def lanes(seed: int, stream: int, index: int, number: int) -> tuple[int, ...]:
    drawn = draw(np.uint64(seed), np.uint64(stream), np.uint64(index), np.uint64(number))
    return tuple(int(lane) for lane in drawn)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
    ids=["zeros", "ones", "pi"],
)  # fmt: skip
def test_known_answers_of_random123(counter: str, key: str, expected: str) -> None:
    """The vectors that Random123 publishes as philox4x32 with 10 rounds (kat_vectors)."""
    number, stream, index_low, index_high = (int(word, 16) for word in counter.split())
    seed_low, seed_high = (int(word, 16) for word in key.split())
    drawn = lanes(seed_high << 32 | seed_low, stream, index_high << 32 | index_low, number)
    assert " ".join(f"{lane:08x}" for lane in drawn) == expected


@given(words, st.integers(1, 6), st.integers(0, 2**24 - 1), words, st.integers(0, 20))
def test_a_draw_is_named_by_seed_purpose_epoch_index_and_number(
    seed: int, purpose: int, epoch: int, index: int, number: int
) -> None:
    expected = next(islice(reference.blocks(seed, purpose, epoch, index), number, None))
    assert lanes(seed, int(stream_of(purpose, epoch)), index, number) == expected


@given(words, st.integers(1, 2**32))
def test_integers_are_the_high_half_of_a_product(word: int, bound: int) -> None:
    drawn = int(uniform_below(np.uint64(word), np.uint64(bound)))
    assert drawn == reference.below(word, bound)
    assert 0 <= drawn < bound


def test_lanes_join_with_the_first_one_low() -> None:
    assert int(join(np.uint64(0x89ABCDEF), np.uint64(0x01234567))) == 0x0123456789ABCDEF


def test_no_two_purposes_share_a_stream() -> None:
    purposes = [value for name, value in vars(module).items() if name.isupper() and name[0] != "_"]
    assert len(purposes) >= 6
    assert len(set(purposes)) == len(purposes)
    streams = {int(stream_of(p, e)) for p in purposes for e in (0, 1, 2**24 - 1)}
    assert len(streams) == 3 * len(purposes)
    assert all(0 < stream < 2**32 for stream in streams)
    assert stream_of(MASK, 2**24 + 1) == stream_of(MASK, 1)


@pytest.mark.parametrize("probability", [0.0, 0.1, 0.5, 1.0])
def test_chances_occur_with_their_probability(probability: float) -> None:
    drawn = np.array([lanes(1, int(stream_of(PAIR, 0)), i, 0) for i in range(5000)], np.uint64)
    share = float((drawn < chance_threshold(probability)).mean())
    # 20,000 draws: the standard error is at most 0.0035, and nothing at 0 and 1.
    assert abs(share - probability) <= 4 * np.sqrt(probability * (1 - probability) / drawn.size)


def test_lanes_of_neighbouring_names_are_uniform_and_independent() -> None:
    """Seeds, epochs, indices and numbers that differ by one bit: 16 by 16 cells of two draws."""
    for step in [(1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1)]:
        cells = np.zeros((16, 16), np.int64)
        for index in range(8000):
            name = (7, int(stream_of(MASK, 2)), 2 * index, 4)
            neighbour = tuple(a ^ b for a, b in zip(name, step, strict=True))
            cells[lanes(*name)[0] >> 28, lanes(*neighbour)[0] >> 28] += 1
        assert abs(chi_square_z(cells, cells.sum() / cells.size)) < 4
