"""What the commands print of their results."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tokkit.engine.manifest import Manifest
    from tokkit.vocab.training import Training


def print_manifest(folder: Path, manifest: "Manifest", *, as_json: bool) -> None:
    """Print what a stage made: its ledger and its shards."""
    if as_json:
        click.echo(json.dumps(asdict(manifest), ensure_ascii=False))
        return
    size = sum(row["bytes"] for row in manifest.shards)
    click.echo(f"{folder}: {plural(len(manifest.shards), 'shard')}, {size:,} bytes")
    for line in describe_accounts(manifest.accounts):
        click.echo(f"  {line}")


def print_training(folder: Path, training: "Training", *, as_json: bool) -> None:
    """Print what training a vocabulary came to."""
    if as_json:
        click.echo(json.dumps(asdict(training), ensure_ascii=False))
        return
    click.echo(f"{folder}: {training.options['model']}, {training.vocab_size:,} entries")
    for line in describe_accounts(training.accounts):
        click.echo(f"  {line}")


def print_pretraining(folder: Path, manifest: "Manifest", *, as_json: bool) -> None:
    """Print what pretraining came to: its counts, and its last evaluation."""
    from tokkit.pretraining.metrics import METRICS, read_metrics

    evaluations = [line for line in read_metrics(folder / METRICS) if line["kind"] == "eval"]
    if as_json:
        last = evaluations[-1] if evaluations else None
        click.echo(json.dumps({**asdict(manifest), "evaluation": last}, ensure_ascii=False))
        return
    click.echo(f"{folder}: {manifest.options['preset']}")
    for line in describe_accounts(manifest.accounts):
        click.echo(f"  {line}")
    for evaluation in evaluations[-1:]:
        click.echo(f"  held out: {describe_metrics(evaluation)}")


def describe_metrics(line: Mapping[str, Any]) -> str:
    """The figures of an evaluation in words."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{name} {value:,}"
        for name, value in line.items()
        if name != "kind"
    )


def describe_accounts(accounts: Mapping[str, Any]) -> Iterator[str]:
    """A ledger in words, one line a thing, then the figures beside it."""
    for what, entry in accounts.items():
        if what == "figures":
            for figure, number in entry.items():
                yield f"{figure.replace('_', ' ')}: {number:,}"
            continue
        line = f"{what}: {entry['kept']:,} of {entry['in']:,}"
        dropped = [f"{number:,} {reason}" for reason, number in entry["dropped"].items()]
        yield line + (f"; dropped {', '.join(dropped)}" if dropped else "")


def describe_facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """The facts of an inspection in words; what is nested stands indented below its name."""
    for name, value in facts.items():
        label = name.replace("_", " ")
        if name == "accounts":
            yield from describe_accounts(value)
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
