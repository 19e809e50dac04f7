import itertools
import math
import re

import pytest

from tokkit.inspection.report.plots import find_ticks, label_ticks
from tokkit.inspection.run_summary import draw_curves

FALLING = [(step, 9 * math.exp(-step / 400) + 2) for step in range(10, 2001, 10)]
MARKS = [(step, 9 * math.exp(-step / 400) + 2) for step in range(0, 2001, 250)]


def dots(line: str) -> list[int]:
    """How many dots each character of a line has."""
    return [(ord(c) - 0x2800).bit_count() if 0x2800 <= ord(c) < 0x2900 else 0 for c in line]


@pytest.mark.parametrize("width", [40, 80, 119])
def test_a_plot_fills_its_space_and_no_more(width: int) -> None:
    lines = draw_curves(FALLING, MARKS, width)
    assert len(lines) == 12 + 2
    assert max(map(len, lines)) in (width - 1, width)
    assert not any("\x1b" in line for line in lines)


def test_axes_have_the_range_of_the_values() -> None:
    lines = draw_curves(FALLING, MARKS, 80)
    labels = [line.partition(" ┤")[0].strip() for line in lines if "┤" in line]
    assert labels[0] == "11"
    assert labels[-1] == f"{min(value for _, value in MARKS):.3g}"
    assert 5.9 < float(labels[1]) < 6.2
    assert re.split(r" +", lines[-1].strip()) == ["0", "1,000", "2,000"]
    axis = lines[-2]
    assert [axis.index("┬"), axis.rindex("┬")] == [6, len(axis) - 1]


def test_a_falling_curve_falls_without_a_gap() -> None:
    lines = draw_curves(FALLING, [], 80)[:12]
    heights = [
        [row for row in range(12) if column < len(lines[row]) and dots(lines[row])[column]]
        for column in range(7, 78)
    ]
    assert all(heights)
    for before, after in itertools.pairwise(heights):
        assert before[0] <= after[0] <= before[-1] + 1
    assert heights[0][0] == 0
    assert heights[-1] == [11]


def test_marks_are_at_their_steps_and_values() -> None:
    lines = draw_curves([], [(0, 1.0), (50, 3.0), (100, 2.0)], 67, height=5)
    found = {
        (row, column)
        for row, line in enumerate(lines)
        for column, character in enumerate(line)
        if character == "●"
    }
    first, last = len("  3 ┤") - 2, max(column for _, column in found)
    assert {row for row, _ in found} == {4, 0, 2}
    assert min(found, key=lambda place: place[1]) == (4, first)
    assert (0, first + round((last - first) / 2)) in found


def test_means_are_drawn_where_many_points_share_a_column() -> None:
    noisy = [(step, float(step % 2)) for step in range(10_000)]
    lines = draw_curves(noisy, [(0, 1.0), (9_999, 0.0)], 60, height=12)
    rows = {row for row in range(12) if any(dots(lines[row]))}
    assert rows <= {5, 6}


@pytest.mark.parametrize("points", [[(10, 3.0)], [(10, 3.0), (20, 3.0)]])
def test_a_flat_curve_is_drawn(points: list[tuple[float, float]]) -> None:
    lines = draw_curves(points, [], 40)
    assert lines[0].startswith("3 ┤")
    assert any(dots(lines[0]))
    assert len(draw_curves([], points, 40)) == 14


def test_values_that_are_not_finite_are_left_out() -> None:
    assert draw_curves([], [], 80) == []
    assert draw_curves([(1, math.nan)], [(2, math.inf)], 80) == []
    assert draw_curves([*FALLING, (2010, math.nan)], MARKS, 80) == draw_curves(FALLING, MARKS, 80)


def test_labels_of_percentages_tell_ticks_apart() -> None:
    assert label_ticks([0, 0.2, 0.4], ".0%") == ["0%", "20%", "40%"]
    assert label_ticks([0, 0.002, 0.004], ".0%") == ["0.0%", "0.2%", "0.4%"]
    assert label_ticks(find_ticks(0, 25_000, 5), "") == ["0", "5,000", "10k", "15k", "20k", "25k"]
    assert find_ticks(3.0, 3.0, 5) == [3.0]
