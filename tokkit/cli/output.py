"""What the commands print: results of the stages, accounts, and the facts of an inspection."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokkit.cli.streams import echo
from tokkit.errors import plural
from tokkit.masking.mask_config import REPLACED, find_deviation

if TYPE_CHECKING:
    from tokkit.encoding.encode_unit import EncodeStats
    from tokkit.engine.manifest import Manifest
    from tokkit.engine.stage import StepResult
    from tokkit.vocab.training_record import TrainingRecord

LONGEST_SHOWN = 5
REMOVED_SHOWN = 10

# Figures that are a share of another one.
WHOLES = {
    "random_pairs": "instances",
    "swapped_pairs": "instances",
    "short_visits": "visits",
    "masked_tokens": "instance_tokens",
    **dict.fromkeys(REPLACED, "masked_tokens"),
}


def print_json(data: Mapping[str, Any]) -> None:
    """Print an object as one line of JSON."""
    echo(json.dumps(data, ensure_ascii=False))


def print_lines(title: str, lines: Iterable[str]) -> None:
    """Print a title and, indented, the lines below it."""
    echo(title)
    for line in lines:
        echo(f"  {line}")


def print_manifest(
    folder: Path, manifest: "Manifest", *, as_json: bool, stats: "EncodeStats | None" = None
) -> None:
    """Print what a stage made: its shards and accounts, and how fast it was."""
    if as_json:
        measured = {} if stats is None else {"stats": stats.as_dict()}
        print_json({**asdict(manifest), **measured})
        return
    size = sum(row["bytes"] for row in manifest.shards)
    title = f"{folder}: {plural(len(manifest.shards), 'shard')}, {plural(size, 'byte')}"
    speed = () if stats is None else describe_stats(stats.as_dict())
    print_lines(title, [*describe_accounts(manifest.accounts, manifest.options), *speed])


def print_step(folder: Path, result: "StepResult", *, as_json: bool) -> None:
    """Print what a step of an array job did; only the numbers of missing parts, for a scheduler."""
    missing = ",".join(map(str, result.missing))
    lines = {
        "plan": f"{folder}: planned {plural(result.units, 'unit')}",
        "part": f"{folder}: part done, {plural(result.units, 'unit')}",
        "missing": missing,
        "finished": f"{folder}: finished",
    }
    if as_json:
        print_json(asdict(result))
    elif line := lines[result.step]:
        echo(line)


def print_training(folder: Path, training: "TrainingRecord", *, as_json: bool) -> None:
    """Print a vocabulary's report, and its comparison with other tokenizers."""
    if as_json:
        print_json(asdict(training))
        return
    title = f"{folder}: {training.options.get('model')}, {plural(training.vocab_size, 'token')}"
    report = asdict(training.report)
    print_lines(title, [*describe_accounts(training.accounts), *describe_report(report)])
    if measured := report["measured"]:
        own = {"name": str(folder), "vocab_size": training.vocab_size, **measured}
        echo()
        for line in describe_comparison([own, *training.compared]):
            echo(line)


def describe_report(report: Mapping[str, Any]) -> Iterator[str]:
    """Yield lines about the tokens of a vocabulary and the text that it was measured on."""
    kinds = {"control": "special"}
    counts = (f"{number:,} {kinds.get(kind, kind)}" for kind, number in report["entries"].items())
    yield f"tokens: {', '.join(counts)}"
    yield f"longest: {' '.join(report['longest'][:LONGEST_SHOWN])}"
    if removed := report["removed"]:
        shown = [f"{row['count']:,} {row['character']} {row['name']}" for row in removed]
        more = [f"{len(shown) - REMOVED_SHOWN} more"] if len(shown) > REMOVED_SHOWN else []
        yield f"removed by normalization: {', '.join([*shown[:REMOVED_SHOWN], *more])}"
    if not report["measured"] or report["coverage"] is None:
        yield "held out: no text, so nothing was measured; see --held-out"
        return
    held_out = report["held_out"]
    yield f"held out: {plural(held_out['documents'], 'document')}, {plural(held_out['words'], 'word')}"
    yield f"coverage of its characters: {report['coverage']:.3%}"


def describe_comparison(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield the lines of a table with a row for each tokenizer."""
    columns = {
        "vocabulary": "{vocab_size:,}",
        "tokens per word": "{tokens_per_word:.3f}",
        "characters per token": "{characters_per_token:.3f}",
        "unknown": "{unknown:.3%}",
    }
    title = "held-out text"
    width = max(len(name) for name in (title, *(row["name"] for row in rows)))
    yield f"{title:<{width}}  " + "  ".join(columns)
    for row in rows:
        cells = (f"{cell.format(**row):>{len(column)}}" for column, cell in columns.items())
        yield f"{row['name']:<{width}}  " + "  ".join(cells)


def describe_accounts(
    accounts: Mapping[str, Any], options: Mapping[str, Any] | None = None
) -> Iterator[str]:
    """Yield a line for each entry of the accounts, then for each figure and source.

    Args:
        accounts: see ``tokkit.engine.accounts``.
        options: options of the stage, from which some shares are expected.
    """
    for what, entry in accounts.items():
        if what == "figures":
            for figure, number in entry.items():
                share = describe_share(figure, entry, options or {})
                yield f"{figure.replace('_', ' ')}: {number:,}{share}"
        elif what == "sources":
            yield from (f"{source}: {describe_source(entry[source])}" for source in entry)
        else:
            line = f"{what}: {entry['kept']:,} of {entry['in']:,}"
            dropped = [f"{number:,} {reason}" for reason, number in entry["dropped"].items()]
            yield line + (f"; dropped {', '.join(dropped)}" if dropped else "")


def describe_share(figure: str, figures: Mapping[str, int], options: Mapping[str, Any]) -> str:
    """Return the share that a figure is of another one, and how far it is from the expected share.

    The standard error is that of as many independent draws. Returns an empty string for a figure
    that is no share, or a share of nothing.
    """
    whole = WHOLES.get(figure, "")
    total = figures.get(whole, 0)
    if not total:
        return ""
    share = figures[figure] / total
    text = f" ({share:.2%} of {whole.replace('_', ' ')}"
    expected = _expected_share(figure, options)
    if expected is not None and (deviation := find_deviation(share, expected, total)) is not None:
        text += f", expected {expected:.2%}, {deviation:+.1f} standard errors"
    return text + ")"


def _expected_share(figure: str, options: Mapping[str, Any]) -> float | None:
    """Return the expected share; None if it depends on the text, as that of random pairs does."""
    if figure == "swapped_pairs":
        return 0.5
    if figure == "short_visits":
        return options.get("short_seq_prob")
    # What replaces the tokens of a word is not drawn independently.
    if figure in REPLACED and options.get("mask_draw") != "word":
        ratios: Sequence[float] = options.get("mask_ratios") or (0.8, 0.1, 0.1)
        return ratios[REPLACED.index(figure)]
    return None


def describe_source(figures: Mapping[str, int]) -> str:
    """Return how well a vocabulary suits a source: ``1.310 tokens per word, 0.020% unknown``."""
    tokens, words = figures["tokens"], figures["words"]
    unknown = figures["unknown_tokens"]
    return f"{tokens / max(words, 1):.3f} tokens per word, {unknown / max(tokens, 1):.3%} unknown"


def describe_stats(stats: Mapping[str, float]) -> Iterator[str]:
    """Yield lines about the speed of encoding, from ``EncodeStats.as_dict``."""
    if not stats:
        yield "nothing was encoded in this run"
        return
    yield (
        f"{stats['bytes'] / 1e6:,.1f} MB and {plural(int(stats['tokens']), 'token')} "
        f"in {stats['seconds']:.2f} s: {stats['bytes_per_second'] / 1e6:,.1f} MB/s, "
        f"{stats['tokens_per_second']:,.0f} tokens/s"
    )
    yield f"encoder of each worker: {stats['encoder_bytes_per_second'] / 1e6:,.1f} MB/s"
    yield (
        f"found in its cache: {stats['chunk_hit_rate']:.1%} of chunks between white space, "
        f"{stats['word_hit_rate']:.1%} of the words of other chunks"
    )


def describe_facts(facts: Mapping[str, Any]) -> Iterator[str]:
    """Yield the facts of an inspection, nested ones indented below their name, without empty ones."""
    for name, value in facts.items():
        label = name.replace("_", " ")
        if name == "accounts":
            yield from describe_accounts(value, facts.get("options"))
        elif name == "report":
            yield from describe_report(value)
        elif name == "warnings":
            yield from (f"warning: {line}" for line in value)
        elif name == "inputs":
            for row in value:
                yield f"input: {row['name']}, {plural(row['bytes'], 'byte')}"
        elif value is None or value in ((), [], {}):
            continue
        elif isinstance(value, Mapping):
            yield f"{label}:"
            yield from (f"  {line}" for line in describe_facts(value))
        elif isinstance(value, int) and not isinstance(value, bool):
            yield f"{label}: {value:,}"
        else:
            yield f"{label}: {format_value(value)}"


def format_value(value: Any) -> str:
    """Return a value as text: a list with spaces between its items, a table without empty ones."""
    if isinstance(value, Mapping):
        shown = (f"{name} {format_value(v)}" for name, v in value.items() if v not in (None, []))
        return f"({', '.join(shown).replace('_', ' ')})"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " ".join(map(format_value, value))
    return str(value)
