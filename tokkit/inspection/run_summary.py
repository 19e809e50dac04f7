"""The state of a run folder at any time: options, progress, losses, and a plot of these as text.

The state of a run follows from the files in its folder, which the run writes as it proceeds:

    .tokkit/stage.json       the options are known                             not started
    run.json                 torch, device and instances were checked          stopped at step n
    .tokkit/lock, held       a process is training                             training, at step n
    manifest.json            the run is complete                               finished

The step of a run that was stopped is that of its last line of metrics or of its newest checkpoint,
whichever is later. The run resumes from its newest checkpoint, which may be earlier.

In the plot, a character of Braille is 2 dots wide and 4 high, so 60 columns and 12 lines hold 120 by
48 dots. The first series is a line through the mean of its values in each column of dots; the second
is marks, which are drawn over the line:

    10.9 ┤●⡆                                      U+2800 and the bits of its dots:    1   8
         │ ⠈⠢●⢄                                                                       2  16
    1.95 ┤     ⠉⠒⠢●⠤⠤⠤⠤●⠤⠤⠤⠤●                                                         4  32
         └┬────────┬────────┬                                                        64 128
          0       500   1,000

(plotext draws more, but its release 6 is another library, with a compiled core and 0.2 s to
import, and release 5, of pure Python, is no longer maintained.)
"""

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from tokkit.engine.json_files import read_json
from tokkit.engine.manifest import Manifest
from tokkit.inspection.folder_kinds import find_run_state
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.run_record import (
    CHECKPOINTS,
    METRICS,
    RUN,
    STATE,
    CheckpointRecord,
    checkpoint_step,
    format_options,
    list_checkpoints,
    read_metrics,
    read_run,
)

KINDS = {"train": "training", "eval": "evaluation"}
_BITS = np.array(((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80)))
_MARK = "●"

Points = Sequence[tuple[float, float]]


def inspect_run(folder: Path) -> dict[str, Any]:
    """Return the facts of a run.

    Returns:
        ``state`` and ``step``; ``run``, the content of ``run.json``; ``changed``, the options that
        differ from their defaults; ``training`` and ``evaluation``, the last lines of metrics;
        ``checkpoints`` with ``step``, ``bytes`` and ``is_best``; ``losses``, the points of both
        curves; ``accounts`` of a finished run. Facts that are not known yet are left out.

    Raises:
        TokkitError: if a file is damaged.
    """
    lines = read_metrics(folder / METRICS)
    checkpoints = describe_checkpoints(folder / CHECKPOINTS)
    facts: dict[str, Any] = {
        "state": find_run_state(folder),
        "step": max((row["step"] for row in [*lines, *checkpoints]), default=0),
    }
    if (folder / RUN).is_file():
        run, _ = read_run(folder)
        facts |= {"run": run, "changed": find_changed(run["options"])}
    facts |= {KINDS[line["kind"]]: line for line in lines}  # the last of each kind
    facts["checkpoints"] = checkpoints
    facts["losses"] = {
        name: [(line["step"], line["loss"]) for line in lines if line["kind"] == kind]
        for kind, name in KINDS.items()
    }
    if facts["state"] == "finished":
        facts["accounts"] = Manifest.read(folder, "run").accounts
    return facts


def find_changed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that differ from their defaults."""
    defaults = format_options({entry.name: entry.default for entry in fields(PretrainConfig)})
    return {name: value for name, value in options.items() if value != defaults.get(name, MISSING)}


def describe_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """Return step and size of each checkpoint, the oldest first; the newest says which is best."""
    paths = list_checkpoints(folder)
    best = read_json(paths[-1] / STATE, CheckpointRecord)["best"] if paths else None
    rows = []
    for path in paths:
        step = checkpoint_step(path)
        with suppress(FileNotFoundError):  # a run that is training removes old ones
            size = sum(file.stat().st_size for file in path.iterdir())
            rows.append(
                {"step": step, "bytes": size, "is_best": best is not None and step == best.step}
            )
    return rows


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
