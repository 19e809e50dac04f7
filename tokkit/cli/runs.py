"""What is printed of a run: the run itself, at whatever time, and what is foretold of it."""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
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
    state, step = str(facts["state"]), facts["step"]
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


def print_forecast(form: Mapping[str, Any], *, as_json: bool) -> None:
    """Print what ``--dry-run`` foretells, in the form of ``Forecast.as_dict``."""
    if as_json:
        click.echo(json.dumps(form))
        return
    for line in describe_forecast(form):
        click.echo(line)


def describe_forecast(form: Mapping[str, Any]) -> Iterator[str]:
    """A forecast in words."""
    yield f"parameters: {_count_parts(form['parameters'], '{:,}'.format)}"
    yield f"memory of a process, estimated: {_count_parts(form['memory'], _describe_bytes)}"
    if (other := form["other_memory"]) is not None:
        name = "with" if other["weights"] < form["memory"]["weights"] else "without"
        yield f"memory {name} --fsdp: {_count_parts(other, _describe_bytes)}"
    if form["capacity"] is not None:
        fault = "" if form["fits"] else ", too little: lower --micro-batch-tokens"
        yield f"memory there is: {_describe_bytes(form['capacity'])}{fault}"
    for number, phase in enumerate(form["phases"]):
        name = f"phase {number}: " if len(form["phases"]) > 1 else ""
        parts = [
            f"{phase['tokens_per_step']:,.0f} tokens a step",
            f"{phase['steps_per_epoch']:,.1f} steps an epoch",
            f"{phase['flops_per_token'] / 1e6:,.1f} MFLOP a token",
        ]
        if phase["steps"] is not None:
            parts += [f"{phase['steps']:,.0f} steps", f"{phase['epochs']:,.2f} epochs"]
        yield name + ", ".join(parts)
    if form["tokens"] is not None:
        yield f"whole run: {form['tokens']:,.0f} tokens, {form['flops']:.3g} FLOP"
    if form["seconds"] is None:
        yield f"time: {form['timing']}"
        return
    pace = form["phases"][0]["seconds_per_step"]
    yield (
        f"time: {describe_duration(form['seconds'])}, of which evaluations "
        f"{describe_duration(form['evaluation_seconds'])}; {pace:.3g} s a step, "
        f"{form['phases'][0]['tokens_per_step'] / pace:,.0f} tokens/s; {form['timing']}"
    )


def _count_parts(parts: Mapping[str, int], spell: Callable[[int], str]) -> str:
    """``1.95 GB: weights 347 MB, gradients 347 MB``."""
    named = [f"{name} {spell(number)}" for name, number in parts.items() if name != "total"]
    return f"{spell(parts['total'])}: {', '.join(named)}"


def _describe_bytes(number: int) -> str:
    return f"{number / 1e9:,.2f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"


def describe_duration(seconds: float) -> str:
    """The greatest unit that there is one of, and the one below it: ``1 d 3 h``, ``12 s``."""
    left = round(seconds)
    numbers: list[tuple[int, str]] = []
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1)):
        number, left = divmod(left, size)
        if number or numbers or unit == "s":
            numbers.append((number, unit))
    return " ".join(f"{n} {unit}" for place, (n, unit) in enumerate(numbers[:2]) if n or not place)


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
        if name not in changed and value is not None and value is not False and value != []
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
    yield f"fingerprint of the tokenizer: {run['tokenizer_fingerprint']}"
    for key in run["instances_keys"]:
        yield f"fingerprint of instances: {key}"
    if run.get("init_from_fingerprint"):
        yield f"fingerprint of the first weights: {run['init_from_fingerprint']}"
