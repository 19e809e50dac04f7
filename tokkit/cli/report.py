"""What the commands print of their results."""

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

_NUM_LONGEST = 5
_NUM_REMOVED = 10

if TYPE_CHECKING:
    from tokkit.encoding.stats import EncodeStats
    from tokkit.engine.manifest import Manifest
    from tokkit.vocab.training import Training


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
    from tokkit.pretraining.metrics import METRICS, read_metrics

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
    from tokkit.pretraining.config import DEFAULT_PRESET

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
