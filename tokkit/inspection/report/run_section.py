"""The part of a report about runs: curves against steps, tokens and time, and the model's answers.

Runs are drawn over each other, a colour each. An evaluation knows its step alone; the tokens and the
time until then are found between the training lines around it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from tokkit.engine.files import read_whole
from tokkit.errors import TokkitError, plural
from tokkit.inspection.report.example_answers import answer_examples, draw_answers
from tokkit.inspection.report.markup import (
    Column,
    Content,
    Markup,
    Section,
    card,
    cards,
    element,
    facts_list,
    folded,
    format_bytes,
    list_warnings,
    shorten_names,
    table,
    tiles,
)
from tokkit.inspection.report.plots import Axes, Series, plot_lines
from tokkit.inspection.run_summary import inspect_run
from tokkit.pretraining.training.run_record import METRICS, read_metrics

MAX_LINES = 4000  # of metrics, of all runs together
# What a line counts from the start of the run, of which there are no means.
COUNTED = ("step", "epoch", "tokens", "elapsed", "phase")
# By metric: the title of the axis, the name of the choice, and the classes of choice and plots.
AXES = {
    "step": ("step", "steps", "axis-step", "step"),
    "tokens": ("tokens", "tokens", "axis-tokens", "tokens-axis"),
    "elapsed": ("minutes", "time", "axis-time", "time"),
}
# Metrics in the order of the page, with their titles and formats; accuracies are added as they come.
SPEED = {
    "learning_rate": ("Learning rate", ""),
    "gradient_norm": ("Gradient norm", ""),
    "tokens_per_second": ("Tokens per second", ",.0f"),
    "data_wait": ("Share of the time spent waiting for data", ".0%"),
    "mfu": ("Model FLOPs utilization", ".0%"),
}


def describe_runs(paths: Sequence[Path], examples: Sequence[str] = ()) -> Section:
    """Read runs, finished or not, and return their part of the page.

    Args:
        paths: run folders.
        examples: sentences with masks that each kept checkpoint fills in.

    Raises:
        TokkitError: if a file is damaged.
    """
    runs = [_read_run(path, examples, MAX_LINES // len(paths) + 1) for path in paths]
    title = str(paths[0]) if len(paths) == 1 else f"{len(paths)} runs"
    kind = "run" if len(paths) == 1 else "runs"
    return Section(title, kind, {"runs": runs}, _draw(runs))


def _read_run(path: Path, examples: Sequence[str], max_lines: int) -> dict[str, Any]:
    facts = inspect_run(path)
    lines = read_metrics(path / METRICS)
    is_there = (path / METRICS).is_file()
    num_lines = read_whole(path / METRICS).count(b"\n") if is_there else 0  # whole ones
    answers, fault = [], None
    if examples and facts.get("run"):
        try:
            answers = answer_examples(path, facts, examples)
        except (TokkitError, msgspec.ValidationError) as error:
            fault = str(error)
    return {
        "path": str(path),
        "state": facts["state"],
        "step": facts["step"],
        "run": facts.get("run"),
        "changed": facts.get("changed", {}),
        "checkpoints": facts["checkpoints"],
        "metrics": {part: _thin_out(own, max_lines) for part, own in _locate(lines).items()},
        "lines": len(lines),
        "unread_lines": num_lines - len(lines),
        "answers": answers,
        "without_answers": fault,
    }


def _locate(lines: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return training and evaluation lines, evaluations with their tokens and time."""
    train = [dict(line) for line in lines if line["kind"] == "train"]
    evals = [dict(line) for line in lines if line["kind"] == "eval"]
    for name in ("tokens", "elapsed"):
        values = _interpolate(train, name, [line["step"] for line in evals])
        for line, value in zip(evals, values, strict=True):
            line[name] = value
    return {"training": train, "evaluation": evals}


def _interpolate(
    lines: Sequence[Mapping[str, Any]], name: str, steps: Sequence[int]
) -> list[float]:
    """Return what a metric that grows from 0 was at some steps, between training lines."""
    known = [(line["step"], line[name]) for line in lines if name in line]
    known_steps, values = np.array([(0, 0), *known], float).T
    return [float(value) for value in np.interp(steps, known_steps, values)]


def _thin_out(lines: Sequence[dict[str, Any]], most: int) -> list[dict[str, Any]]:
    """Return lines, or the means over as many stretches of them as a page has room for."""
    every = -(-len(lines) // most)
    if every <= 1:
        return list(lines)
    groups = [lines[start : start + every] for start in range(0, len(lines), every)]
    return [
        {
            name: value
            if name in COUNTED or not isinstance(value, int | float)
            else sum(line.get(name, value) for line in group) / len(group)
            for name, value in group[-1].items()
        }
        for group in groups
    ]


def _draw(runs: Sequence[Mapping[str, Any]]) -> Content:
    parts: list[Content] = [_draw_state(run, is_single=len(runs) == 1) for run in runs]
    if len(runs) > 1:
        parts.append(_compare(runs))
    if any(run["metrics"]["training"] or run["metrics"]["evaluation"] for run in runs):
        parts.append(_draw_curves(runs))
    parts += [draw_answers(run) for run in runs if run["answers"]]
    parts += [
        element("p", f"No answers to the examples: {run['without_answers']}", class_="note")
        for run in runs
        if run["without_answers"]
    ]
    parts += [_draw_facts(run, len(runs)) for run in runs]
    return parts


def _draw_state(run: Mapping[str, Any], *, is_single: bool) -> Content:
    last, held_out = _last_lines(run)
    warnings = []
    if unread := run["unread_lines"]:
        number = run["lines"] + 1
        warnings.append(
            f"{run['path']}: line {number:,} of {METRICS} is damaged, or a number in it is not finite; "
            f"{plural(unread, 'line')} from it on {'is' if unread == 1 else 'are'} not shown"
        )
    if not last and not held_out:
        warnings.append(f"{run['path']}: {run['state']}, without a line of metrics yet")
    shown = list_warnings(warnings)
    if not is_single:
        return shown
    figures = {
        "state": run["state"],
        "steps": run["step"],
        "tokens": last.get("tokens"),
        "time of training": _format_minutes(last.get("elapsed")),
        "last training loss": _short(last.get("loss")),
        "held-out loss": _short(held_out.get("loss")),
        "tokens/s": last.get("tokens_per_second"),
        "parameters": (run["run"] or {}).get("num_parameters"),
    }
    return [tiles(figures), shown]


def _last_lines(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the last lines of training and of evaluation; empty ones if there are none."""
    return [(run["metrics"][part] or [{}])[-1] for part in ("training", "evaluation")]


def _short(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _format_minutes(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:,.1f} min"


def _compare(runs: Sequence[Mapping[str, Any]]) -> Markup:
    """Return a table with a row for each run, and the options in which they differ."""
    options = [(run["run"] or {}).get("options", {}) for run in runs]
    names = sorted({name for given in options for name in given} - {"output"})
    differing = [name for name in names if len({str(given.get(name)) for given in options}) > 1]
    columns = [
        Column("path", "run"),
        Column("state", "state"),
        Column("step", "steps", ","),
        Column("held_out", "held-out loss", ".4f"),
        Column("loss", "training loss", ".4f"),
        Column("speed", "tokens/s", ",.0f", is_bar=True),
        *(Column(name, name.replace("_", " ")) for name in differing),
    ]
    rows = []
    for run, given in zip(runs, options, strict=True):
        last, held_out = _last_lines(run)
        speed = last.get("tokens_per_second", 0.0)
        row = {**run, "held_out": held_out.get("loss"), "loss": last.get("loss"), "speed": speed}
        rows.append({**{name: _show_option(given.get(name)) for name in differing}, **row})
    return cards(card("Runs", table(columns, rows), wide=True))


def _show_option(value: Any) -> str | int | float:
    if isinstance(value, list):
        return " ".join(map(str, value))
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return "" if value is None else str(value)


def _draw_curves(runs: Sequence[Mapping[str, Any]]) -> Markup:
    """Return the plots against each axis; which of the three is seen is chosen without a script."""
    radio = {"type": "radio", "name": "axis"}
    choices = [
        element("label", element("input", **radio, class_=class_, checked=axis == "step"), name)
        for axis, (_, name, class_, _) in AXES.items()
    ]
    grids = [
        element("div", _draw_metrics(runs, axis), class_=f"cards {class_}")
        for axis, (*_, class_) in AXES.items()
    ]
    choice = element("div", "against", choices, class_="choice", role="radiogroup")
    note = ""
    if any(run["checkpoints"] for run in runs):
        note = "A triangle is a checkpoint, a filled one the best."
    if len(runs) == 1 and _shade_phases(runs[0], "step"):
        note += " Shades are phases."
    legend = element("p", note.strip(), class_="note") if note else None
    return element("div", choice, legend, grids, class_="by-axis")


def _draw_metrics(runs: Sequence[Mapping[str, Any]], axis: str) -> list[Markup]:
    lines = [line for run in runs for part in run["metrics"].values() for line in part]
    names = list(dict.fromkeys(name for line in lines for name in line))
    start = min(_scale(line[axis], axis) for line in lines if axis in line)
    losses = [name for name in names if name.endswith("loss")]
    shown = {name: (f"{_title(name)}", "") for name in losses if name == "loss" or len(losses) > 2}
    shown |= {name: (_title(name), ".0%") for name in names if name.endswith("_accuracy")}
    shown |= {name: entry for name, entry in SPEED.items() if name in names}
    return [
        card(title, _draw_metric(runs, name, axis, y_format, start))
        for name, (title, y_format) in shown.items()
    ]


def _title(name: str) -> str:
    """Return ``mlm_loss`` as ``MLM loss``, and ``span_corruption_loss`` as ``Span corruption loss``."""
    first, _, rest = name.partition("_")
    is_short = rest and len(first) == len("mlm")
    return f"{first.upper()} {rest}" if is_short else name.replace("_", " ").capitalize()


def _draw_metric(
    runs: Sequence[Mapping[str, Any]], name: str, axis: str, y_format: str, start: float
) -> Markup:
    series = []
    labels = shorten_names([run["path"] for run in runs])
    for color, run in enumerate(runs):
        prefix = f"{labels[run['path']]}, " if len(runs) > 1 else ""
        for part, style in (("training", "line"), ("evaluation", "dots")):
            points = [
                (_scale(line[axis], axis), line[name])
                for line in run["metrics"][part]
                if name in line and axis in line
            ]
            label = prefix + ("held out" if part == "evaluation" else "training")
            own_color = color if len(runs) > 1 else (style == "dots") * 1
            series.append(Series(label, points, own_color, style))
    axes = Axes(
        AXES[axis][0],
        y_format,
        from_zero=name in ("tokens_per_second", "data_wait", "mfu"),
        start=start,
        marks=[mark for run in runs for mark in _mark_checkpoints(run, axis)],
        shades=_shade_phases(runs[0], axis) if len(runs) == 1 else (),
    )
    return plot_lines(series, axes)


def _scale(value: float, axis: str) -> float:
    return value / 60 if axis == "elapsed" else value


def _mark_checkpoints(run: Mapping[str, Any], axis: str) -> list[tuple[float, str, bool]]:
    """Return where the kept checkpoints are on an axis."""
    training, checkpoints = run["metrics"]["training"], run["checkpoints"]
    if not any(axis in line for line in training):
        return []
    places = _interpolate(training, axis, [row["step"] for row in checkpoints])
    return [
        (
            _scale(place, axis),
            f"checkpoint of step {row['step']:,}{', the best' if row['is_best'] else ''}",
            row["is_best"],
        )
        for row, place in zip(checkpoints, places, strict=True)
    ]


def _shade_phases(run: Mapping[str, Any], axis: str) -> list[tuple[float, float, str]]:
    """Return the stretch of each phase on an axis; none if lines of only one are there."""
    bounds: dict[int, list[float]] = {}
    for line in run["metrics"]["training"]:
        if "phase" in line and axis in line:
            bounds.setdefault(line["phase"], []).append(_scale(line[axis], axis))
    if len(bounds) < 2:
        return []
    stretches = []
    start = 0.0
    for phase, places in sorted(bounds.items()):
        stretches.append((start, places[-1], f"phase {phase}"))
        start = places[-1]
    return stretches


def _draw_facts(run: Mapping[str, Any], num_runs: int) -> Markup:
    record = run["run"]
    if not record:
        return Markup()
    changed = {
        name.replace("_", " "): _show_option(value) for name, value in run["changed"].items()
    }
    checkpoints = [
        f"step {row['step']:,} ({format_bytes(row['bytes'])}{', the best' if row['is_best'] else ''})"
        for row in run["checkpoints"]
    ]
    facts = facts_list(
        {
            "command": record["command"],
            "device": record["device"],
            "processes": record["num_processes"],
            "versions": ", ".join(f"{name} {value}" for name, value in record["versions"].items()),
            "started": record["started"],
            "resumed": record["resumed"],
            "checkpoints": ", ".join(checkpoints) or "none",
            "tokenizer": record["tokenizer_fingerprint"],
            "instances": ", ".join(record["instances_keys"]),
            "model": ", ".join(f"{key} {value}" for key, value in record["model"].items()),
        }
    )
    title = "Options and facts" if num_runs == 1 else f"Options and facts of {run['path']}"
    return folded(title, facts_list(changed), facts)
