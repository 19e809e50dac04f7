"""The order of an epoch is a permutation, and all permutations are equally likely."""

import math
from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reference.shuffle import instance_at
from reference.statistics import chi_square_z
from tokkit.kernels.philox import SHUFFLE, permute_range, stream_of


def order(
    size: int, *, seed: int = 0, epoch: int = 0, start: int = 0, stop: int | None = None
) -> npt.NDArray[np.uint64]:
    out = np.empty((size if stop is None else stop) - start, np.uint64)
    permute_range(start, size, np.uint64(seed), stream_of(SHUFFLE, epoch), out)
    return out


def test_every_small_size_is_permuted() -> None:
    for size in range(1, 300):
        assert sorted(order(size, seed=size).tolist()) == list(range(size))


@settings(max_examples=20)
@given(st.integers(300, 20_000), st.integers(0, 2**64 - 1), st.integers(0, 2**24 - 1))
def test_larger_sizes_are_permuted(size: int, seed: int, epoch: int) -> None:
    assert np.array_equal(np.sort(order(size, seed=seed, epoch=epoch)), np.arange(size))


@settings(max_examples=30)
@given(st.integers(1, 2**48), st.integers(0, 2**64 - 1), st.integers(0, 2**24 - 1), st.data())
def test_any_position_equals_the_twin_and_is_in_range(
    size: int, seed: int, epoch: int, data: st.DataObject
) -> None:
    position = data.draw(st.integers(0, size - 1))
    found = int(order(size, seed=seed, epoch=epoch, start=position, stop=position + 1)[0])
    assert found == instance_at(position, size, seed, epoch)
    assert 0 <= found < size


@given(st.integers(2, 500), st.data())
def test_a_range_of_positions_is_a_slice_of_the_order(size: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, size - 1))
    stop = data.draw(st.integers(start, size))
    assert np.array_equal(order(size, start=start, stop=stop), order(size)[start:stop])


@pytest.mark.parametrize("size", [3, 4, 5, 6])
def test_all_orders_of_a_few_instances_are_equally_frequent(size: int) -> None:
    num_orders = math.factorial(size)
    num_seeds = 40 * num_orders
    counts = Counter(tuple(order(size, seed=seed).tolist()) for seed in range(num_seeds))
    seen = [*counts.values(), *[0] * (num_orders - len(counts))]
    assert abs(chi_square_z(seen, num_seeds / num_orders)) < 4


def test_displacements_are_uniform() -> None:
    size = 200_000
    displacement = (order(size).astype(np.int64) - np.arange(size)) % size
    cells = np.bincount(displacement * 100 // size, minlength=100)
    assert abs(chi_square_z(cells, size / 100)) < 4


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 1}, {"seed": 2**32}])
def test_neighbouring_seeds_and_epochs_give_unrelated_orders(other: dict[str, int]) -> None:
    size = 100_000
    first, second = order(size), order(size, **other)
    # Two independent orders agree at one position on average; the number is Poisson's.
    assert np.count_nonzero(first == second) <= 8
    correlation = np.corrcoef(first.astype(np.float64), second.astype(np.float64))[0, 1]
    assert abs(correlation) < 4 / np.sqrt(size)
    cells = np.zeros((10, 10), np.int64)
    np.add.at(cells, (first.astype(np.int64) * 10 // size, second.astype(np.int64) * 10 // size), 1)
    assert abs(chi_square_z(cells, size / 100)) < 4
