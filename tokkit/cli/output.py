"""What is printed of a run: the run itself, at whatever time, and what is foretold of it.

What the commands print of their results.
"""

import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tokkit.encoding.encode_unit import EncodeStats
    from tokkit.engine.manifest import Manifest
    from tokkit.vocab.train import Training

_NUM_LONGEST = 5
_NUM_REMOVED = 10


def print_manifest(
    folder: Path, manifest: "Manifest", *, as_json: bool, stats: "EncodeStats | None" = None
) -> None:
    """Print what a stage made: its ledger and its shards, and what was measured."""
    if as_json:
        measured = {} if stats is None else {"stats": stats.as_dict()}
        click.echo(json.dumps({**asdict(manifest), **measured}, ensure_ascii=False))
        return
    size = sum(row["bytes"] for row in manifest.shards)
    click.echo(f"{folder}: {plural(len(manifest.shards), 'shard')}, {size:,} bytes")
    for line in describe_accounts(manifest.accounts, manifest.options):
        click.echo(f"  {line}")
    if stats is not None:
        for line in describe_stats(stats.as_dict()):
            click.echo(f"  {line}")


def print_training(folder: Path, training: "Training", *, as_json: bool) -> None:
    """Print what training a vocabulary came to, and how well it cuts new text."""
    if as_json:
        click.echo(json.dumps(asdict(training), ensure_ascii=False))
        return
    click.echo(f"{folder}: {training.options['model']}, {training.vocab_size:,} entries")
    for line in describe_accounts(training.accounts):
        click.echo(f"  {line}")
    for line in describe_report(training.report):
        click.echo(f"  {line}")
    if training.report["measured"]:
        own = {
            "name": str(folder),
            "vocab_size": training.vocab_size,
            **training.report["measured"],
        }
        click.echo()
        for line in describe_comparison([own, *training.compared]):
            click.echo(line)


def describe_report(report: Mapping[str, Any]) -> Iterator[str]:
    """What a vocabulary is like, in words."""
    entries = (f"{number:,} {kind}" for kind, number in report["entries"].items())
    yield f"entries: {', '.join(entries)}"
    yield f"longest: {' '.join(report['longest'][:_NUM_LONGEST])}"
    removed = report["removed"]
    if removed:
        shown = (f"{row['count']:,} {row['character']} {row['name']}" for row in removed)
        more = [f"{len(removed) - _NUM_REMOVED} more"] if len(removed) > _NUM_REMOVED else []
        yield f"removed by normalization: {', '.join([*islice(shown, _NUM_REMOVED), *more])}"
    held_out = report["held_out"]
    if not report["measured"]:
        yield "held out: no text, so nothing was measured; see --held-out"
        return
    yield f"held out: {plural(held_out['documents'], 'document')}, {held_out['words']:,} words"
    yield f"coverage of its characters: {report['coverage']:.3%}"


def describe_comparison(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Tokenizers side by side: a table with a row for each."""
    head = ("held-out text", "entries", "tokens per word", "characters per token", "unknown")
    cells = [
        (
            row["name"],
            f"{row['vocab_size']:,}",
            f"{row['tokens_per_word']:.3f}",
            f"{row['characters_per_token']:.3f}",
            f"{row['unknown']:.3%}",
        )
        for row in rows
    ]
    width = max(len(row[0]) for row in (head, *cells))
    for name, *figures in (head, *cells):
        padded = (f"{cell:>{len(title)}}" for cell, title in zip(figures, head[1:], strict=True))
        yield f"{name:<{width}}  " + "  ".join(padded)


def print_pretraining(folder: Path, manifest: "Manifest", *, as_json: bool) -> None:
    """Print what pretraining came to: its counts, and its last evaluation."""
    from tokkit.pretraining.training.run_record import METRICS, read_metrics

    evaluations = [line for line in read_metrics(folder / METRICS) if line["kind"] == "eval"]
    if as_json:
        last = evaluations[-1] if evaluations else None
        click.echo(json.dumps({**asdict(manifest), "evaluation": last}, ensure_ascii=False))
        return
    click.echo(f"{folder}: {name_model(manifest.options)}")
    for line in describe_accounts(manifest.accounts):
        click.echo(f"  {line}")
    for evaluation in evaluations[-1:]:
        click.echo(f"  held out: {describe_metrics(evaluation)}")


def name_model(options: Mapping[str, Any]) -> str:
    """The size of a run's model, or the folder that its first weights are from."""
    from tokkit.pretraining.pretrain_config import DEFAULT_PRESET

    if options.get("init_from"):
        return f"from {options['init_from']}"
    return str(options["preset"] or DEFAULT_PRESET)


def describe_metrics(line: Mapping[str, Any]) -> str:
    """The figures of a line of ``metrics.jsonl`` in words."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:{'.4g' if isinstance(value, float) else ','}}"
        for name, value in line.items()
        if name != "kind"
    )


# Figures that are a share of another one, and what that share should be, by the options.
SHARES: Mapping[str, tuple[str, Callable[[Mapping[str, Any]], float | None]]] = {
    "random_pairs": ("instances", lambda _: None),  # half, and every chunk of one sentence
    "swapped_pairs": ("instances", lambda _: 0.5),
    "short_visits": ("visits", lambda options: options.get("short_seq_prob")),
    "masked_tokens": ("instance_tokens", lambda _: None),
    "masked_by_mask": ("masked_tokens", lambda options: _mask_ratios(options)[0]),
    "masked_by_random_tokens": ("masked_tokens", lambda options: _mask_ratios(options)[1]),
    "masked_by_themselves": ("masked_tokens", lambda options: _mask_ratios(options)[2]),
}


def _mask_ratios(options: Mapping[str, Any]) -> Sequence[float | None]:
    if options.get("mask_draw") == "word":
        return (None,) * 3  # the tokens of a word are no independent draws
    return options.get("mask_ratios") or (0.8, 0.1, 0.1)


def describe_accounts(
    accounts: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """A ledger in words, one line a thing, then the figures beside it."""
    for what, entry in accounts.items():
        if what == "figures":
            for figure, number in entry.items():
                share = describe_share(figure, entry, options or {})
                yield f"{figure.replace('_', ' ')}: {number:,}{share}"
            continue
        if what == "sources":
            yield from (f"{source}: {describe_source(entry[source])}" for source in entry)
            continue
        line = f"{what}: {entry['kept']:,} of {entry['in']:,}"
        dropped = [f"{number:,} {reason}" for reason, number in entry["dropped"].items()]
        yield line + (f"; dropped {', '.join(dropped)}" if dropped else "")


def describe_share(figure: str, figures: Mapping[str, int], options: Mapping[str, Any]) -> str:
    """The share that a figure is of another one, and how far it is from what was to be expected.

    Standard errors are those of as many independent draws. Figures that are no share, and those
    of an empty whole, have nothing to say.
    """
    whole, expected_by = SHARES.get(figure, ("", None))
    total = figures.get(whole, 0)
    if expected_by is None or not total:
        return ""
    share = figures[figure] / total
    text = f" ({share:.2%} of {whole.replace('_', ' ')}"
    expected = expected_by(options)
    if expected is not None and 0 < expected < 1:
        error = math.sqrt(expected * (1 - expected) / total)
        text += f", expected {expected:.2%}, {(share - expected) / error:+.1f} standard errors"
    return text + ")"


def describe_source(figures: Mapping[str, int]) -> str:
    """How well a vocabulary suits one source: ``1.31 tokens per word, 0.02% unknown``."""
    tokens, words = figures["tokens"], figures["words"]
    unknown = figures["unknown_tokens"]
    return f"{tokens / max(words, 1):.3f} tokens per word, {unknown / max(tokens, 1):.3%} unknown"


def describe_stats(stats: Mapping[str, float]) -> Iterator[str]:
    """How fast encoding went, in words."""
    if not stats:
        yield "nothing was encoded in this run"
        return
    yield (
        f"{stats['bytes'] / 1e6:,.1f} MB and {stats['tokens']:,} tokens "
        f"in {stats['seconds']:.2f} s: {stats['bytes_per_second'] / 1e6:,.1f} MB/s, "
        f"{stats['tokens_per_second']:,.0f} tokens/s"
    )
    yield f"encoder of each worker: {stats['encoder_bytes_per_second'] / 1e6:,.1f} MB/s"
    yield (
        f"found in its cache: {stats['chunk_hit_rate']:.1%} of chunks between white space, "
        f"{stats['word_hit_rate']:.1%} of the words of others"
    )


def describe_facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts of an inspection in words; what is nested stands indented below its name."""
    for name, value in facts.items():
        label = name.replace("_", " ")
        if name == "accounts":
            yield from describe_accounts(value, facts.get("options"))
        elif isinstance(value, Mapping):
            yield f"{label}:"
            yield from (f"  {line}" for line in describe_facts(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{label}: {value:,}"
        else:
            yield f"{label}: {value}"


def plural(number: int, noun: str) -> str:
    """A number with its noun."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


_PLOT_WIDTH = 120  # at most: wider ones are no easier to read


def print_run(folder: Path, facts: Mapping[str, Any]) -> None:
    """Print the facts of a run as ``tokkit.inspection.run_summary`` finds them, and its curves."""
    from tokkit.inspection.run_summary import draw_curves

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
    from tokkit.pretraining.pretrain_config import DEFAULT_MAX_STEPS

    if options.get("max_time") is not None:
        return f"a run of {describe_duration(options['max_time'])}"
    return f"{options['max_steps'] or DEFAULT_MAX_STEPS:,}"


def print_estimate(data: Mapping[str, Any], *, as_json: bool) -> None:
    """Print the estimate of ``--dry-run``, see ``measure_run``."""
    if as_json:
        click.echo(json.dumps(data))
        return
    for line in describe_estimate(data):
        click.echo(line)


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
        figures = [
            f"{phase['tokens_per_step']:,.0f} tokens per step",
            f"{phase['steps_per_epoch']:,.1f} steps per epoch",
            f"{phase['flops_per_token'] / 1e6:,.1f} MFLOP per token",
        ]
        if (seconds := phase["seconds_per_step"]) is not None:
            speed = phase["tokens_per_step"] / seconds
            figures += [f"{seconds:.3g} s per step", f"{speed:,.0f} tokens/s"]
        if phase["steps"] is not None:
            figures += [f"{phase['steps']:,.0f} steps", f"{phase['epochs']:,.2f} epochs"]
        yield name + ", ".join(figures)
    if data["tokens"] is not None:
        yield f"whole run: {data['tokens']:,.0f} tokens, {data['flops']:.3g} FLOP"
    if data["seconds"] is None:
        yield "time: not measured"
        return
    yield (
        f"time: {describe_duration(data['seconds'])}, including evaluations "
        f"{describe_duration(data['evaluation_seconds'])}; measured on {data['timed_steps']} steps"
    )


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
