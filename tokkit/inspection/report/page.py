"""The page of a report: one HTML file that loads nothing.

Its content security policy names the hashes of its one style sheet and its one script, and forbids
everything else, so text that were markup in spite of all would still neither run nor load anything.

To add a section, write a function that returns a ``Section`` and call it in ``stages_section.py``.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template
from typing import Any

from tokkit import __version__
from tokkit.inspection.report.markup import Content, element, escape

_PAGE = Path(__file__).with_name("page.html")
_STYLE = Path(__file__).with_name("page.css")
_SCRIPT = Path(__file__).with_name("page.js")


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


def make_page(title: str, sections: Sequence[Section]) -> str:
    """Return the page as text, the same for the same sections."""
    style, script = _STYLE.read_text("utf-8"), _SCRIPT.read_text("utf-8")
    is_one = len(sections) == 1
    links = [
        element("a", f"{section.kind}: {section.title}", href=f"#part-{number}", dir="auto")
        for number, section in enumerate(sections)
    ]
    parts = [
        element(
            "section",
            None
            if is_one
            else element("h2", section.title, element("small", section.kind), dir="auto"),
            section.body,
            id=f"part-{number}",
        )
        for number, section in enumerate(sections)
    ]
    data = {
        "title": title,
        "tokkit_version": __version__,
        "sections": [
            {"title": section.title, "kind": section.kind, **section.figures}
            for section in sections
        ],
    }
    # The page is one line after the first, and so has no white space but what elements hold.
    first, *lines = _PAGE.read_text("utf-8").splitlines()
    template = f"{first}\n{''.join(map(str.strip, lines))}\n"
    return Template(template).substitute(
        style_hash=_hash(style),
        script_hash=_hash(script),
        title=escape(title),
        style=style,
        heading=element("h1", title, element("small", sections[0].kind) if is_one else None),
        links="" if is_one else element("nav", links),
        parts=escape(parts),
        version=__version__,
        figures=dump_figures(data),
        script=script,
    )


def dump_figures(data: Mapping[str, Any]) -> str:
    """Return JSON in which nothing ends a script: non-finite numbers become strings."""
    text = json.dumps(_replace_infinite(data), ensure_ascii=True, allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _replace_infinite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): _replace_infinite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_replace_infinite(item) for item in value]
    return value


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def list_warnings(warnings: Sequence[str]) -> Content:
    """Return warnings, each in a line of its own."""
    return [element("p", line, class_="warning") for line in warnings]
