"""A plot of two series over the steps of a run, as text.

A character of Braille is 2 dots wide and 4 high, so 60 columns and 12 lines hold 120 by 48 dots.
The first series is a line through the mean of its values in each column of dots; the second is
marks, which are drawn over the line:

    10.9 ┤●⡆                                      U+2800 and the bits of its dots:    1   8
         │ ⠈⠢●⢄                                                                       2  16
    1.95 ┤     ⠉⠒⠢●⠤⠤⠤⠤●⠤⠤⠤⠤●                                                         4  32
         └┬────────┬────────┬                                                        64 128
          0       500   1,000

(plotext draws more, but its release 6 is another library, with a compiled core and 0.2 s to
import, and release 5, of pure Python, is no longer maintained.)
"""

import math
from collections.abc import Sequence

import numpy as np

Points = Sequence[tuple[float, float]]

_BITS = np.array(((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80)))
_MARK = "●"


def draw_curves(line: Points, marks: Points, width: int, height: int = 12) -> list[str]:
    """Draw two series.

    Args:
        line: points (step, value) of the first, steps ascending.
        marks: points of the second.
        width: maximum width in characters, labels included.
        height: number of lines, without the axis of steps.

    Returns:
        Lines of text; none if there is no finite value.
    """
    line, marks = ([p for p in points if math.isfinite(p[1])] for points in (line, marks))
    points = [*line, *marks]
    if not points:
        return []
    first, last = min(step for step, _ in points), max(step for step, _ in points)
    low, high = min(value for _, value in points), max(value for _, value in points)
    values = {0: high, height // 2: high - (high - low) * (height // 2) / (height - 1)}
    values[height - 1] = low
    labels = (
        {row: f"{value:.3g}" for row, value in values.items()} if low < high else {0: f"{low:.3g}"}
    )
    margin = max(map(len, labels.values()))
    columns = max(20, width - margin - 3)

    def column_of(step: float, number: int) -> int:
        return round((step - first) / ((last - first) or 1) * (number - 1))

    def row_of(value: float, number: int) -> int:
        return round((high - value) / ((high - low) or 1) * (number - 1))

    heights = _interpolate([(column_of(step, 2 * columns), value) for step, value in line])
    dots = _draw_line({x: row_of(value, 4 * height) for x, value in heights}, height, columns)
    cells = [[chr(0x2800 + bits) if bits else " " for bits in row] for row in dots.tolist()]
    for step, value in marks:
        cells[row_of(value, height)][column_of(step, columns)] = _MARK
    drawn = [
        f"{labels.get(row, ''):>{margin}} {'┤' if row in labels else '│'}{''.join(cells[row])}"
        for row in range(height)
    ]
    return [text.rstrip() for text in (*drawn, *_draw_axis(first, last, columns, margin))]


def _interpolate(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Return a value for each column from the first to the last: means, and lines between them."""
    if not points:
        return []
    columns, values = np.array(points).T
    known, inverse = np.unique(columns, return_inverse=True)
    means = np.bincount(inverse, values) / np.bincount(inverse)
    wanted = np.arange(known[0], known[-1] + 1)
    return [*zip(map(int, wanted), map(float, np.interp(wanted, known, means)), strict=True)]


def _draw_line(rows: dict[int, int], height: int, columns: int) -> np.ndarray[tuple[int, int]]:
    """Return the bits of each character; a dot extends up or down to the one before it."""
    dots = np.zeros((height, columns), np.int64)
    for x, y in rows.items():
        before = rows.get(x - 1, y)
        reach = range(min(before + 1, y), y + 1) if before <= y else range(y, before)
        for row in reach:
            dots[row // 4, x // 2] |= _BITS[row % 4, x % 2]
    return dots


def _draw_axis(first: float, last: float, columns: int, margin: int) -> list[str]:
    """Draw the axis of steps, with labels at the first, the last and the middle."""
    places = {0: first}
    if first < last:
        half = columns // 2
        places[half] = first + (last - first) * half / (columns - 1)
        places[columns - 1] = last
    labels = [" "] * (margin + 2 + columns)
    for column, step in places.items():
        label = f"{step:,.0f}"
        start = margin + 2 + min(max(0, column - len(label) // 2), columns - len(label))
        labels[start : start + len(label)] = label
    ticks = "".join("┬" if column in places else "─" for column in range(columns))
    return [f"{'':>{margin}} └{ticks}", "".join(labels)]
