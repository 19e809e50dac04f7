"""Plots as SVG, which need no script, print, and take the page's colours, light or dark.

They are drawn here and not by Altair: importing it, starting the JavaScript engine of vl-convert
and 0.2 s for each plot are longer than everything else that a report does.

A plot is 380 units wide, the width of a telephone, and scales with its place. Its text is the
page's. Names of series stand below it, and what is below the pointer is shown as a title.
"""

import math
import textwrap
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tokkit.errors import plural
from tokkit.inspection.report.markup import Markup, element, format_number, shorten

WIDTH, HEIGHT = 380.0, 220.0
LEFT, RIGHT, TOP, BOTTOM = 46.0, 12.0, 12.0, 36.0
MAX_POINTS = 240
MAX_TITLES = 80
MAX_LABELS = 7
NUM_COLORS = 8

Point = tuple[float, float]


@dataclass(frozen=True)
class Series:
    """Points that belong together.

    Attributes:
        name: in the legend.
        points: (x, y), x ascending; those that are not finite are left out.
        color: number of a colour.
        style: ``line``, ``dashed``, or ``dots`` joined by a thin line.
    """

    name: str
    points: Sequence[Point]
    color: int = 0
    style: str = "line"


@dataclass(frozen=True)
class Axes:
    """What a plot shows besides its series.

    Attributes:
        x_title: below the axis.
        y_format: of values, as for ``format``; empty is ``format_number``.
        from_zero: whether the vertical axis begins at 0.
        start: where the horizontal axis begins; None for the first point.
        marks: (x, title, whether it stands out), drawn as triangles on the axis.
        shades: (start, stop, name) of stretches of the horizontal axis.
    """

    x_title: str
    y_format: str = ""
    from_zero: bool = False
    start: float | None = None
    marks: Sequence[tuple[float, str, bool]] = ()
    shades: Sequence[tuple[float, float, str]] = ()


@dataclass
class _Frame:
    """The range of both axes, and what is drawn into it."""

    low: Point
    high: Point
    parts: list[Markup] = field(default_factory=list)

    def x(self, value: float) -> float:
        share = (value - self.low[0]) / ((self.high[0] - self.low[0]) or 1)
        return LEFT + share * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        share = (value - self.low[1]) / ((self.high[1] - self.low[1]) or 1)
        return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)

    def draw(self, name: str, *children: Any, **attributes: Any) -> None:
        self.parts.append(element(name, *children, **attributes))

    def draw_y_axis(self, y_format: str = "", *, is_count: bool = False) -> None:
        ticks = find_ticks(self.low[1], self.high[1], 5, is_whole=is_count)
        for label, value in zip(label_ticks(ticks, y_format), ticks, strict=True):
            y = self.y(value)
            self.draw("line", x1=LEFT, x2=WIDTH - RIGHT, y1=y, y2=y, class_="grid")
            self.draw("text", label, x=LEFT - 6, y=y + 4, text_anchor="end")

    def draw_x_axis(self, title: str, labels: Iterable[tuple[float, str]]) -> None:
        bottom = HEIGHT - BOTTOM
        self.draw("line", x1=LEFT, x2=WIDTH - RIGHT, y1=bottom, y2=bottom, class_="axis")
        for value, label in labels:
            x = self.x(value)
            self.draw("line", x1=x, x2=x, y1=bottom, y2=bottom + 4, class_="axis")
            anchor = "end" if x > WIDTH - RIGHT - 12 else "middle"
            self.draw("text", label, x=x, y=bottom + 16, text_anchor=anchor)
        middle = (LEFT + WIDTH - RIGHT) / 2
        self.draw("text", title, x=middle, y=HEIGHT - 5, text_anchor="middle", class_="title")

    def draw_column(self, title: str, left: float, width: float, class_: str) -> None:
        """Draw a stretch of the horizontal axis in full height."""
        self.draw(
            "rect",
            element("title", title),
            x=left,
            y=TOP,
            width=width,
            height=HEIGHT - TOP - BOTTOM,
            class_=class_,
        )

    def close(self, label: str, names: Sequence[tuple[str, int, str]]) -> Markup:
        """Return the figure, with a legend if there is more than one (name, colour, style)."""
        legend = [
            element("li", name, class_=f"c{color % NUM_COLORS} {style}", dir="auto")
            for name, color, style in names
        ]
        listed = element("ul", legend, class_="legend") if len(names) > 1 else None
        return make_figure(self.parts, HEIGHT, label, listed)


def make_figure(
    parts: Sequence[Markup], height: float, label: str, legend: Markup | None = None
) -> Markup:
    """Return a figure of SVG elements."""
    picture = element(
        "svg",
        parts,
        viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
        class_="plot",
        role="img",
        aria_label=label,
    )
    return element("figure", picture, legend)


def plot_lines(series: Sequence[Series], axes: Axes) -> Markup:
    """Plot series as lines; a sentence takes the place of a plot without finite values."""
    drawn = [(one, thin_out(one.points)) for one in series]
    drawn = [(one, points) for one, points in drawn if points]
    if not drawn:
        return element("p", "No finite values to plot.", class_="note")
    xs = [x for _, points in drawn for x, _ in points]
    ys = [y for _, points in drawn for _, y in points]
    low, high = (min(0.0, *ys) if axes.from_zero else min(ys)), max(ys)
    if low == high:
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    room = (high - low) * 0.04  # for what is drawn around the outermost points
    low, high = low if low == 0 else low - room, high + room
    first, last = min(xs) if axes.start is None else axes.start, max(xs)
    frame = _Frame((first, low), (last, high))
    for number, (start, stop, name) in enumerate(axes.shades):
        left, right = frame.x(max(start, first)), frame.x(min(stop, last))
        frame.draw_column(name, left, max(right - left, 0.0), f"shade shade{number % 2}")
    frame.draw_y_axis(axes.y_format)
    is_whole = all(float(x).is_integer() for x in xs)
    ticks = find_ticks(first, last, 6, is_whole=is_whole)
    labels = [(value, shorten(value)) for value in ticks]
    frame.draw_x_axis(axes.x_title, labels)
    for one, points in drawn:
        _draw_series(frame, one, points)
    for x, title, is_best in axes.marks:
        if first <= x <= last:
            left, bottom = frame.x(x), HEIGHT - BOTTOM
            path = f"M{left:.1f},{bottom - 7:.1f}l4,7h-8z"
            shown = "mark best" if is_best else "mark"
            frame.draw("path", element("title", title), d=path, class_=shown)
    _draw_titles(frame, drawn, axes)
    names = [(one.name, one.color, one.style) for one, _ in drawn]
    return frame.close(", ".join(name for name, _, _ in names), names)


def _draw_series(frame: _Frame, one: Series, points: Sequence[Point]) -> None:
    color = f"c{one.color % NUM_COLORS}"
    places = [(frame.x(x), frame.y(y)) for x, y in points]
    if len(places) > 1:
        path = "M" + "L".join(f"{x:.1f},{y:.1f}" for x, y in places)
        frame.draw("path", d=path, class_=f"line {one.style} {color}")
    if one.style == "dots" or len(places) == 1:
        for x, y in places:
            frame.draw("circle", cx=x, cy=y, r=3.2, class_=f"dot {color}")


def _draw_titles(
    frame: _Frame, drawn: Sequence[tuple[Series, Sequence[Point]]], axes: Axes
) -> None:
    """Draw unseen columns, whose titles say what the values are there."""
    longest = max((points for _, points in drawn), key=len)
    every = -(-len(longest) // MAX_TITLES)
    xs = [x for x, _ in longest[::every]]
    width = (WIDTH - LEFT - RIGHT) / max(len(xs), 1)
    for x in xs:
        words = [f"{axes.x_title} {format_number(x)}"]
        for one, points in drawn:
            place = min(bisect_left(points, (x, -math.inf)), len(points) - 1)
            value = points[place][1]
            shown = f"{value:{axes.y_format}}" if axes.y_format else format_number(value)
            words.append(f"{one.name} {shown}")
        frame.draw_column(" · ".join(words), frame.x(x) - width / 2, width, "hit")


def plot_bars(counts: Mapping[str, Sequence[int]], edges: Sequence[float], x_title: str) -> Markup:
    """Plot a histogram, the bars of several series on top of each other.

    Args:
        counts: of each bar, by series.
        edges: where bars begin and end; all are drawn equally wide.
        x_title: below the axis.
    """
    num_bars = len(edges) - 1
    totals = [sum(values[bar] for values in counts.values()) for bar in range(num_bars)]
    if not any(totals):
        return element("p", "Nothing to plot.", class_="note")
    frame = _Frame((0, 0), (num_bars, max(totals)))
    frame.draw_y_axis(is_count=True)
    every = -(-num_bars // MAX_LABELS)
    labels = [(place, shorten(edges[place])) for place in range(0, num_bars + 1, every)]
    frame.draw_x_axis(x_title, labels)
    gap = 0.5 if num_bars > 40 else 1.0
    for bar in range(num_bars):
        below = 0.0
        for color, (name, values) in enumerate(counts.items()):
            if not (value := values[bar]):
                continue
            top = frame.y(below + value)
            span = f"{shorten(edges[bar])} to {shorten(edges[bar + 1])}"
            frame.draw(
                "rect",
                element("title", f"{name}, {span}: {format_number(value)}"),
                x=frame.x(bar) + gap / 2,
                y=top,
                width=max(frame.x(bar + 1) - frame.x(bar) - gap, 0.5),
                height=max(frame.y(below) - top, 0.5),
                class_=f"fill c{color % NUM_COLORS}",
            )
            below += value
    names = [(name, color, "area") for color, name in enumerate(counts)]
    return frame.close(f"histogram of {x_title}", names)


def plot_flow(total: int, kept: int, dropped: Mapping[str, int], noun: str) -> Markup:
    """Plot how much of what came in was kept, and why the rest was dropped."""
    height, top, left, right = 150.0, 8.0, 8.0, 172.0
    rows = [("kept", kept, 2), *((why, n, 1) for why, n in dropped.items())]
    rows = [row for row in rows if row[1]] or [("kept", 0, 2)]
    gap = 10.0
    room = height - top * 2 - gap * (len(rows) - 1)
    scale = max(room, 40.0) / max(total, 1)
    parts = [element("rect", x=left, y=top, width=10, height=total * scale, rx=2, class_="fill c0")]
    start, place, label = top, top, top - 6
    for name, number, color in rows:
        size = max(number * scale, 1.0)
        bend = (left + 10 + right) / 2
        path = (
            f"M{left + 10:.1f},{start:.1f}C{bend:.1f},{start:.1f} {bend:.1f},{place:.1f} {right},{place:.1f}"
            f"v{size:.1f}C{bend:.1f},{place + size:.1f} {bend:.1f},{start + size:.1f} "
            f"{left + 10:.1f},{start + size:.1f}z"
        )
        title = element("title", f"{name}: {number:,} {noun}")
        parts.append(element("path", title, d=path, class_=f"flow c{color}"))
        parts.append(
            element("rect", x=right, y=place, width=8, height=size, rx=2, class_=f"fill c{color}")
        )
        label = max(place + size / 2 - 3, label + 28)
        for wrapped, line in enumerate(textwrap.wrap(name, 28, break_on_hyphens=False)):
            label += 14 * (wrapped > 0)
            parts.append(element("text", line, x=right + 16, y=label, class_="strong"))
        share = f"{number:,} ({number / max(total, 1):.2%})"
        parts.append(element("text", share, x=right + 16, y=label + 14))
        start, place = start + number * scale, place + size + gap
    bottom = max(place, label + 24, top + total * scale + 8)
    counted = plural(total, noun.removesuffix("s"))
    parts.append(element("text", counted, x=left + 18, y=top + 14, class_="strong"))
    return make_figure(parts, bottom, f"{noun} from in to kept")


def thin_out(points: Sequence[Point]) -> list[Point]:
    """Return the finite points, or the means of as many stretches as a plot can show."""
    finite = [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
    every = -(-len(finite) // MAX_POINTS)
    if every <= 1:
        return finite
    groups = [finite[start : start + every] for start in range(0, len(finite), every)]
    return [
        (sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group))
        for group in groups
    ]


def find_ticks(low: float, high: float, number: int, *, is_whole: bool = False) -> list[float]:
    """Return round values from ``low`` to ``high``, about as many as asked for."""
    if not low < high:
        return [low]
    rough = max((high - low) / number, float(is_whole))
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(size * factor for factor in (1, 2, 5, 10) if size * factor >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def label_ticks(ticks: Sequence[float], y_format: str) -> list[str]:
    """Return the labels of ticks, percentages with as many digits as tell them apart."""
    if not y_format.endswith("%"):
        return [f"{value:{y_format}}" if y_format else shorten(value) for value in ticks]
    return next(
        labels
        for digits in range(9)
        if len({*(labels := [f"{value:.{digits}%}" for value in ticks])}) == len(ticks)
        or digits == 8
    )
