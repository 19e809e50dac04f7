"""Double arrays of tokens."""

import numpy as np

from tokkit.kernels.encode.tries import find_base, make_cells
from tokkit.shards.arrow import text_arrays


def test_below_a_byte_is_what_begins_with_it() -> None:
    cells = make_cells(*text_arrays([b"a", b"ab"]), np.arange(2))
    assert find_base(cells, ord("a"))
    assert not find_base(cells, ord("b"))


def test_nothing_is_found_where_there_are_no_tokens() -> None:
    offsets = np.array([0, 77])[:1]  # what is behind them is not read
    cells = make_cells(np.zeros(0, np.uint8), offsets, np.zeros(0, np.int64))
    assert not any(find_base(cells, byte) for byte in range(256))
