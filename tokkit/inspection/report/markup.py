r"""HTML and SVG elements, in which text from files is escaped everywhere.

    >>> element("td", "<b>", element("i", "a\u202eb"), class_="number")
    '<td class="number">&lt;b&gt;<i>a\\u202eb</i></td>'

A plain string is text: markup in it is shown as it is, and control characters and controls of
bidirectional text are shown by their code points, as in a terminal. Only ``element`` makes a
``Markup``, which is not escaped again.

The tokens of a row are coloured spans: where each begins, what is masked, which segment it is in.
"""

import html
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

from tokkit.errors import escape_controls
from tokkit.inspection.token_text import show_token
from tokkit.tokenizer.tokenizer import Tokenizer

MAX_IN_FULL = 10_000_000  # of a number in large type
MAX_TOKENS = 400  # shown of a row
NUM_BACKGROUNDS = 5
_VOID = frozenset({"meta", "input", "br", "hr", "rect", "line", "path", "circle"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Content: TypeAlias = "str | int | float | Iterable[Content] | None"


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        title: heading, the path of a folder or what several have in common.
        kind: what it is about, in small type next to the heading.
        figures: everything that is shown, as JSON values.
        body: what is shown.
    """

    title: str
    kind: str
    figures: Mapping[str, Any]
    body: Content


def escape(content: Content) -> str:
    """Return content as markup.

    Text is escaped, numbers have separators, several contents follow each other, and None is
    nothing.
    """
    if isinstance(content, Markup):
        return content
    if content is None:
        return ""
    if isinstance(content, str):
        return html.escape(escape_controls(content))
    if isinstance(content, int | float):
        return html.escape(format_number(content))
    return "".join(map(escape, content))


def element(name: str, /, *children: Content, **attributes: str | float | None) -> Markup:
    """Return an element.

    Args:
        name: of the element.
        children: its content, in order.
        attributes: a trailing underscore is removed, others become hyphens, as in ``aria_label``;
            None and False leave an attribute out.
    """
    given = "".join(
        f" {key.rstrip('_').replace('_', '-')}"
        + (f'="{_escape_attribute(value)}"' * (value is not True))
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID and not children:
        return Markup(f"<{name}{given}/>")
    return Markup(f"<{name}{given}>{''.join(map(escape, children))}</{name}>")


def _escape_attribute(value: str | float) -> str:
    """Return a value as an attribute has it: numbers without separators, coordinates rounded."""
    return escape(f"{value:.6g}" if isinstance(value, float) else str(value))


def format_number(number: float) -> str:
    """Return a number as a reader expects it, such as ``1,669``, ``0.0352`` or ``1.2e-07``."""
    if isinstance(number, int) or (math.isfinite(number) and abs(number) >= 10_000):
        return f"{number:,.0f}"
    return f"{number:.4g}"


def shorten_names(names: Sequence[str]) -> dict[str, str]:
    """Return the last parts of paths, as many as tell them apart; one alone stays as it is."""
    parts = {name: name.rstrip("/").split("/") for name in names}
    kept, longest = 1, max(map(len, parts.values()), default=1)
    while kept < longest and len({tuple(own[-kept:]) for own in parts.values()}) < len(parts):
        kept += 1
    return {name: "/".join(own[-kept:]) if len(parts) > 1 else name for name, own in parts.items()}


def shorten(value: float) -> str:
    """Return a number for an axis, such as ``1.6k`` or ``0.002``."""
    size = abs(value)
    for unit, least in (("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if size >= least:
            return f"{value / (1e3 if unit == 'k' else least):.3g}{unit}"
    return f"{value:,.4g}" if size < 1000 else f"{value:,.0f}"


def format_bytes(number: float) -> str:
    """Return a size, such as ``1.45 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            break
        number /= 1000
    return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.3g} {unit}"


@dataclass(frozen=True)
class Column:
    """A column of a table.

    Attributes:
        key: of the value in each row.
        title: heading.
        format: how a number is shown, such as ``.1%`` or ``bytes``; empty is ``format_number``.
        is_bar: whether a bar next to the number shows its share of the largest one.
        largest: number of a full bar; None for the largest of the column.
    """

    key: str
    title: str
    format: str = ""
    is_bar: bool = False
    largest: float | None = None


def table(columns: Sequence[Column], rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a table whose columns sort when their heading is pressed.

    A row may have ``class``. A cell that is ``Markup`` sorts by its text.
    """
    largest = {
        column.key: column.largest
        or max((float(row[column.key]) for row in rows if row[column.key]), default=0.0)
        for column in columns
        if column.is_bar
    }
    numeric = {
        column.key for column in columns if any(_is_number(row.get(column.key)) for row in rows)
    }
    head = [
        element(
            "th",
            element("button", column.title, type="button"),
            scope="col",
            class_="number" if column.key in numeric else None,
        )
        for column in columns
    ]
    body = [
        element("tr", [_cell(column, row.get(column.key), largest) for column in columns])
        for row in rows
    ]
    return element(
        "div",
        element(
            "table",
            element("thead", element("tr", head)),
            element("tbody", body),
            class_="sortable",
        ),
        class_="scroll",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _cell(column: Column, value: Any, largest: Mapping[str, float]) -> Markup:
    if not _is_number(value):
        return element("td", value, dir="auto")
    shown = format_number(value)
    if column.format:
        shown = format_bytes(value) if column.format == "bytes" else f"{value:{column.format}}"
    content: Content = shown
    if column.is_bar:
        share = min(max(value / (largest[column.key] or 1), 0.0), 1.0)
        filled = element("rect", width=f"{100 * share:.2f}%", height=8, rx=2)
        bar = element("svg", filled, class_="bar c0", aria_hidden="true")
        content = element("span", bar, shown, class_="barred")
    return element("td", content, class_="number", data_value=repr(value))


def format_options(options: Mapping[str, Any]) -> dict[str, str]:
    """Return the options of a stage as text, without those that are None."""
    return {
        name: " ".join(map(str, value)) if isinstance(value, list) else str(value)
        for name, value in options.items()
        if value is not None
    }


def facts_list(facts: Mapping[str, Content]) -> Markup:
    """Return names and values, one below the other, without those that are empty."""
    rows = (
        element("div", element("dt", name.replace("_", " ")), element("dd", value, dir="auto"))
        for name, value in facts.items()
        if value not in (None, "")
    )
    return element("dl", rows, class_="facts")


def stats_list(figures: Mapping[str, Content]) -> Markup:
    """Return a few numbers with their names, next to each other."""
    rows = (
        element("div", element("dt", name), element("dd", value)) for name, value in figures.items()
    )
    return element("dl", rows, class_="stats")


def tiles(figures: Mapping[str, Content]) -> Markup:
    """Return the figures that a reader looks for first, in large type; ten millions as ``10M``."""
    shown = (
        element(
            "div",
            element("strong", shorten(value), title=format_number(value))
            if isinstance(value, int) and value >= MAX_IN_FULL
            else element("strong", value),
            element("span", name.removesuffix("s") if value == 1 else name),
            class_="tile",
        )
        for name, value in figures.items()
        if value is not None
    )
    return element("div", shown, class_="tiles")


def cards(*children: Content) -> Markup:
    """Return cards next to each other where there is room."""
    return element("div", *children, class_="cards")


def card(title: str, *children: Content, wide: bool = False, note: str = "") -> Markup:
    """Return a part of the page with a heading, and a note in small type below it."""
    return element(
        "section",
        element("h3", title),
        element("p", note, class_="note") if note else None,
        *children,
        class_="card wide" if wide else "card",
    )


def list_warnings(warnings: Sequence[str]) -> Content:
    """Return warnings, each in a line of its own."""
    return [element("p", line, class_="warning") for line in warnings]


def folded(summary: str, *children: Content) -> Markup:
    """Return content that unfolds on demand, and is unfolded in print."""
    return element("details", element("summary", summary), *children)


show_once = lru_cache(maxsize=1 << 16)(show_token)


def list_tokens(
    ids: Sequence[int],
    word_starts: Sequence[bool],
    tokenizer: Tokenizer,
    *,
    segment_length: int | None = None,
    masks: Mapping[int, int] | None = None,
    sentence_ends: Collection[int] = (),
) -> list[dict[str, Any]]:
    """Return what is shown of each token, as JSON values.

    Args:
        ids: token ids; of a long row the first 400 are taken.
        word_starts: whether a word begins at each.
        tokenizer: of the ids.
        segment_length: tokens of segment A; None if there is one segment.
        masks: the id to be predicted at each masked position.
        sentence_ends: positions before which a sentence ends.
    """
    special, unknown = set(tokenizer.all_special_ids), tokenizer.special_ids.get("unk", -1)
    masks = masks or {}
    tokens: list[dict[str, Any]] = []
    for position, token in enumerate(ids[:MAX_TOKENS]):
        entry: dict[str, Any] = {"id": int(token), "text": show_once(int(token), tokenizer)}
        if position in masks:
            entry["label"] = show_once(int(masks[position]), tokenizer)
        elif token == unknown:
            entry["unknown"] = True
        elif token in special:
            entry["special"] = True
        if not word_starts[position] and token not in special:
            entry["joined"] = True
        if segment_length is not None:
            entry["segment"] = "a" if position < segment_length else "b"
        if position in sentence_ends and position:
            entry["sentence"] = True
        tokens.append(entry)
    return tokens


def draw_tokens(tokens: Sequence[Mapping[str, Any]]) -> Markup:
    """Return spans for what ``list_tokens`` returned."""
    parts: list[Content] = []
    for number, token in enumerate(tokens):
        classes = [name for name in ("special", "unknown", "joined") if token.get(name)]
        if "label" in token:
            classes.append("masked")
        elif "segment" in token:
            classes.append(token["segment"])
        elif color := number % NUM_BACKGROUNDS:
            classes.append(f"t{color}")
        if token.get("sentence"):
            parts.append(element("span", class_="end"))
        label = element("i", token["label"]) if "label" in token else None
        title = f"id {token['id']}"
        span = element("b", token["text"], label, class_=" ".join(classes) or None, title=title)
        parts += [span] if token.get("joined") else [" ", span]
    return element("p", parts, class_="tokens", dir="auto")


def draw_sample(title: str, tokens: Sequence[Mapping[str, Any]], more: Content = None) -> Markup:
    """Return tokens below a line about where they are from."""
    return element(
        "div", element("h4", title, dir="auto"), draw_tokens(tokens), more, class_="sample"
    )
