"""Compute the order of an epoch one position at a time."""

import math
from itertools import islice

from reference.philox import below, blocks, word
from tokkit.kernels.philox import SHUFFLE


def instance_at(position: int, size: int, seed: int, epoch: int) -> int:
    num_rows = math.isqrt(size) // 2 * 2 + 2
    num_columns = size // num_rows + 1

    def shift(other: int, step: int, bound: int) -> int:
        lanes = next(islice(blocks(seed, SHUFFLE, epoch, other), step, None))
        return below(word(*lanes[:2]), bound)

    cell = position
    while True:
        row, column = divmod(cell, num_columns)
        for step in range(0, 16, 2):
            row = (row + shift(column, step, num_rows)) % num_rows
            column = (column + shift(row, step + 1, num_columns)) % num_columns
        cell = row * num_columns + column
        if cell < size:
            return cell
