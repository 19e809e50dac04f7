"""What is printed of a run: the run itself, at whatever time, and what is foretold of it."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tokkit.cli.report import describe_accounts, describe_metrics, name_model

_PLOT_WIDTH = 120  # at most: wider ones are no easier to read


def print_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Print the facts of a run as ``tokkit.inspection.runs`` finds them, and its curves."""
    from tokkit.inspection.curves import draw_curves

    click.echo(f"{folder}: run")
    for line in describe_run(facts):
        click.echo(f"  {line}")
    training, held_out = facts["losses"]["training"], facts["losses"]["evaluation"]
    width = min(shutil.get_terminal_size().columns, _PLOT_WIDTH)
    if drawn := draw_curves(training, held_out, width):
        click.echo("\nloss by step: ⠒ training, ● held out\n")
        for line in drawn:
            click.echo(line)


def describe_run(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts of a run in words, what one asks first coming first."""
    run = facts.get("run", {})
    yield f"state: {describe_state(facts)}"
    if run:
        yield f"model: {name_model(run['options'])}, {run['num_parameters']:,} parameters"
        yield from _describe_machine(run)
        yield from _describe_options(run["options"], facts["changed"])
        yield from _describe_origin(run)
    if "accounts" in facts:
        yield from describe_accounts(facts["accounts"])
    for name, label in (("training", "training"), ("evaluation", "held out")):
        if name in facts:
            yield f"{label}: {describe_metrics(facts[name])}"
    checkpoints = [
        f"step {row['step']:,}{' (best)' if row['is_best'] else ''}" for row in facts["checkpoints"]
    ]
    yield f"checkpoints: {', '.join(checkpoints) or 'none'}"


def describe_state(facts: Mapping[str, Any]) -> str:
    """``stopped at step 1,230 of 100,000; goes on from step 1,000``."""
    state, step = facts["state"], facts["step"]
    if state == "not begun":
        return state
    text = f"{state}, {step:,} steps" if state == "finished" else f"{state} at step {step:,}"
    options = facts.get("run", {}).get("options", {})
    if state != "finished" and options:
        text += f" of {describe_end(options)}"
    if state == "stopped":
        saved = facts["checkpoints"][-1]["step"] if facts["checkpoints"] else 0
        text += f"; goes on from step {saved:,}" if saved else "; begins again"
    return text


def describe_end(options: Mapping[str, Any]) -> str:
    """What a run ends with: a number of steps, or a time."""
    from tokkit.pretraining.config import DEFAULT_MAX_STEPS

    if options.get("max_time") is not None:
        return f"a run of {describe_duration(options['max_time'])}"
    return f"{options['max_steps'] or DEFAULT_MAX_STEPS:,}"


def describe_duration(seconds: float) -> str:
    """Days, hours, minutes and seconds, the two greatest of them: ``1 d 3 h``."""
    left = round(seconds)
    parts = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or (unit == "s" and not parts):
            parts.append(f"{number} {unit}")
    return " ".join(parts[:2])


def _describe_machine(run: Mapping[str, Any]) -> Iterator[str]:
    number = run.get("num_processes", 1)
    yield f"device: {run['device']}" + (f", in each of {number} processes" if number > 1 else "")
    yield "versions: " + ", ".join(f"{name} {value}" for name, value in run["versions"].items())


def _describe_options(options: Mapping[str, Any], changed: Mapping[str, Any]) -> Iterator[str]:
    """The options that differ from their default a line each, and the others in one."""
    yield "options:"
    for name, value in changed.items():
        yield f"  {name.replace('_', ' ')}: {_spell(value)}"
    others = [
        f"{name.replace('_', ' ')} {_spell(value)}"
        for name, value in options.items()
        if name not in changed and value not in (None, [], False)
    ]
    if others:
        yield f"  by default: {', '.join(others)}"


def _spell(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(_spell, value))
    return str(value)


def _describe_origin(run: Mapping[str, Any]) -> Iterator[str]:
    if "begun" in run:
        yield f"begun: {run['begun']}"
        if run["continued"]:
            yield f"continued: {run['continued']}"
        yield f"command: {run['command']}"
    yield f"tokenizer: {run['tokenizer_fingerprint']}"
    for key in run["instances_keys"]:
        yield f"instances: {key}"
    if run.get("init_from_fingerprint"):
        yield f"initial weights: {run['init_from_fingerprint']}"
