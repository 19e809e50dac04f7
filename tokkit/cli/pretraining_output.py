"""What is printed about pretraining: its result, the state of a run, and the estimate before it."""

import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokkit.cli.output import describe_accounts, format_value, print_json, print_lines
from tokkit.cli.streams import echo
from tokkit.engine.progress import describe_duration
from tokkit.errors import plural
from tokkit.pretraining.families import FAMILIES
from tokkit.pretraining.pretrain_config import DEFAULT_MAX_STEPS

if TYPE_CHECKING:
    from tokkit.engine.manifest import Manifest

PLOT_WIDTH = 120  # at most: wider plots are no easier to read
NOT_SHOWN = ("overwrite", "progress")  # options that say nothing about the run


def print_pretraining(folder: Path, manifest: "Manifest", *, as_json: bool) -> None:
    """Print the accounts of a finished run, and its last evaluation."""
    from tokkit.pretraining.training.run_record import METRICS, read_metrics

    lines = read_metrics(folder / METRICS)
    evaluation = next((line for line in reversed(lines) if line["kind"] == "eval"), None)
    if as_json:
        print_json({**asdict(manifest), "evaluation": evaluation})
        return
    shown = [*describe_accounts(manifest.accounts)]
    if evaluation is not None:
        shown.append(f"held out: {describe_metrics(evaluation)}")
    print_lines(f"{folder}: {name_model(manifest.options)}", shown)


def name_model(options: Mapping[str, Any], family: str | None = None) -> str:
    """Return the size of a run's model, or the folder that it started from.

    Args:
        options: of the run.
        family: of the model; None where the options name it.
    """
    for name in ("init_from", "continue_from", "decay_from"):
        if options.get(name):
            return f"from {options[name]}"
    family = family or str(options.get("architecture") or "bert")
    preset = str(options.get("preset") or (FAMILIES[family].preset if family in FAMILIES else ""))
    return preset if family in {"bert", "gpt2", "t5"} else f"{family} {preset}"


def describe_metrics(line: Mapping[str, Any]) -> str:
    """Return the figures in a line of ``metrics.jsonl``."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:{'.4g' if isinstance(value, float) else ','}}"
        for name, value in line.items()
        if name != "kind"
    )


def plot_losses(losses: Mapping[str, Any], *, color: bool) -> Iterator[str]:
    """Yield a plot of the losses of a run, from ``inspect_run``, if there are any."""
    from tokkit.inspection.run_summary import draw_curves

    width = min(shutil.get_terminal_size().columns, PLOT_WIDTH)
    if drawn := draw_curves(losses["training"], losses["evaluation"], width):
        text = "\n".join(["loss by step: ⠒ training, ● held out", "", *drawn])
        if color:
            text = re.sub("[\u2801-\u28ff]+", "\x1b[34m\\g<0>\x1b[0m", text)
            text = text.replace("●", "\x1b[1;33m●\x1b[0m")
        yield text


def describe_run(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about a run, its state first."""
    from tokkit.pretraining.training.run_plan import family_of

    yield f"state: {describe_state(facts)}"
    if run := facts.get("run"):
        name = name_model(run["options"], family_of({"model_type": "bert", **run["model"]}))
        yield f"model: {name}, {plural(run['num_parameters'], 'parameter')}"
        number = run["num_processes"]
        yield f"device: {run['device']}" + (f", in each of {number} processes" * (number > 1))
        yield "versions: " + ", ".join(f"{name} {value}" for name, value in run["versions"].items())
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
    """Return a state such as ``stopped at step 1,230 of 100,000; resumes from step 1,000``."""
    state, step = str(facts["state"]), facts["step"]
    if state == "not started":
        return state
    if state == "finished":
        return f"finished, {plural(step, 'step')}"
    text = f"{state} at step {step:,}"
    if options := facts.get("run", {}).get("options"):
        end = f"{options.get('max_steps') or DEFAULT_MAX_STEPS:,}"
        if options.get("decay_from"):
            end = f"{facts['run']['origin']['planned_steps']:,}"
        if options.get("max_time") is not None:
            end = f"a run of {describe_duration(options['max_time'])}"
        text += f" of {end}"
    if state == "stopped":
        saved = facts["checkpoints"][-1]["step"] if facts["checkpoints"] else 0
        text += f"; resumes from step {saved:,}" if saved else "; starts again from step 0"
    return text


def _describe_options(options: Mapping[str, Any], changed: Mapping[str, Any]) -> Iterator[str]:
    """Yield a line for each option that differs from its default, and one for the others."""
    yield "options:"
    shown = {name: value for name, value in options.items() if name not in NOT_SHOWN}
    for name, value in shown.items():
        if name in changed:
            yield f"  {name.replace('_', ' ')}: {format_value(value)}"
    others = [
        f"{name.replace('_', ' ')} {format_value(value)}"
        for name, value in shown.items()
        if name not in changed and value is not None and value is not False and value != []
    ]
    if others:
        yield f"  by default: {', '.join(others)}"


def _describe_origin(run: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about when and from what a run started."""
    yield f"started: {run['started']}"
    if run["resumed"]:
        yield f"resumed: {run['resumed']}"
    yield f"command: {run['command']}"
    yield f"fingerprint of the tokenizer: {run['tokenizer_fingerprint']}"
    for key in run["instances_keys"]:
        yield f"fingerprint of instances: {key}"
    if run["init_from_fingerprint"]:
        yield f"fingerprint of the initial model: {run['init_from_fingerprint']}"


def print_estimate(data: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the estimate of ``--dry-run``, from ``estimate_run``."""
    if as_json:
        print_json(data)
        return
    for line in describe_estimate(data):
        echo(line)


def describe_estimate(data: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of an estimate."""
    parts = dict(data["parameters"])
    total = parts.pop("total")
    yield f"parameters: {total:,}: " + ", ".join(f"{name} {n:,}" for name, n in parts.items())
    peak, available = data["peak_memory"], data["available_memory"]
    memory = "not measured" if peak is None else _describe_bytes(peak)
    if available is not None:
        memory += f", available {_describe_bytes(available)}"
    if data["fits"] is False:
        memory += ", which is too little; lower --micro-batch-tokens"
    yield f"peak memory per process: {memory}"
    for number, phase in enumerate(data["phases"]):
        name = f"phase {number}: " if len(data["phases"]) > 1 else ""
        yield name + ", ".join(_describe_phase(phase))
    if data["tokens"] is not None:
        yield f"whole run: {data['tokens']:,.0f} tokens, {data['flops']:.3g} FLOP"
    if data["seconds"] is None:
        yield "time: not measured"
        return
    yield (
        f"time: {describe_duration(data['seconds'])}, including evaluations "
        f"{describe_duration(data['evaluation_seconds'])}; measured on "
        f"{plural(data['timed_steps'], 'step')}"
    )


def _describe_phase(phase: Mapping[str, Any]) -> Iterator[str]:
    yield f"{phase['tokens_per_step']:,.0f} tokens per step"
    yield f"{phase['steps_per_epoch']:,.1f} steps per epoch"
    yield f"{phase['flops_per_token'] / 1e6:,.1f} MFLOP per token"
    if (seconds := phase["seconds_per_step"]) is not None:
        yield f"{seconds:.3g} s per step"
        yield f"{phase['tokens_per_step'] / seconds:,.0f} tokens/s"
    if phase["steps"] is not None:
        yield plural(round(phase["steps"]), "step")
        yield f"{phase['epochs']:,.2f} epochs"


def _describe_bytes(number: int) -> str:
    return f"{number / 1e9:,.2f} GB" if number >= 1e9 else f"{number / 1e6:,.1f} MB"
