"""The part of a report about an instance folder: lengths, pairs, masks, and what they look like.

Of a large folder, a sample is read: instances at even distances, 4 million tokens together. Dynamic
masks are those of the first epoch with the default options of ``tokkit pretrain``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.errors import plural
from tokkit.inspection.report.markup import (
    Column,
    Content,
    Markup,
    Section,
    card,
    cards,
    draw_sample,
    draw_tokens,
    element,
    facts_list,
    folded,
    format_bytes,
    list_tokens,
    list_warnings,
    stats_list,
    table,
    tiles,
)
from tokkit.inspection.report.plots import Axes, Series, plot_bars, plot_lines
from tokkit.inspection.report.tokens_section import draw_flows, draw_options, summarize
from tokkit.inspection.row_text import LABELS, Row, masks_of, split_instances
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.masking.mask_config import REPLACED, find_deviation
from tokkit.masking.masks import MaskOptions, mask_instances
from tokkit.pretraining.data.instance_reader import InstanceReader
from tokkit.pretraining.data.loader_config import LoaderConfig
from tokkit.shards.instances import Instances, count_replacements
from tokkit.shards.objectives import OBJECTIVES, PAIRED, TARGET_COLUMNS
from tokkit.shards.reader import ShardFolder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer

MAX_TOKENS = 4_000_000
NUM_SAMPLES = 5
NUM_BINS = 32
MAX_POSITIONS = 512  # points of the plot of masks
TRAINING = "train-"

REPLACEMENTS = ("became the mask token", "became a random token", "stayed as they were")


def describe_instances(path: Path) -> Section:
    """Read an instance folder, and return its part of the page.

    Raises:
        TokkitError: if the folder is damaged.
    """
    folder = ShardFolder.open(path, "instances")
    manifest, header = folder.manifest, folder.header
    tokenizer = load_tokenizer(folder.tokenizer_path)
    folder.require_tokenizer(tokenizer)
    objective = manifest.options["objective"]
    figures: dict[str, Any] = {
        "path": str(path),
        "state": "finished",
        "objective": objective,
        "masking": manifest.options.get("masking"),
        "max_seq_length": header.max_seq_length,
        "bytes": sum(row["bytes"] for row in manifest.shards),
        "shards": len(manifest.shards),
        "instances": manifest.num_rows,
        "tokens": manifest.num_tokens,
        "held_out": sum(
            row.get("rows", 0) for row in manifest.shards if not row["name"].startswith(TRAINING)
        ),
        "tokenizer": manifest.tokenizer_fingerprint,
        "options": manifest.options,
        "accounts": manifest.accounts,
        "warnings": manifest.warnings,
    }
    reader = InstanceReader(folder, TRAINING, with_words=True)
    if not len(reader):
        warning = element("p", "No training instances.", class_="warning")
        return Section(str(path), "instances", figures, [warning, draw_options(figures)])
    number = min(len(reader), max(NUM_SAMPLES, MAX_TOKENS // header.max_seq_length))
    places = np.arange(number, dtype=np.uint64) * np.uint64(len(reader)) // np.uint64(number)
    instances = reader.gather(places)  # at even distances
    if OBJECTIVES[objective].has_masks:
        config = LoaderConfig(instances=(path,))
        if manifest.options.get("masking") == "dynamic":
            options = MaskOptions.make(config, tokenizer, header)
            instances = mask_instances(instances, options, seed=config.seed, epoch=0)
        figures["masks"] = _count_masks(instances, manifest.options, tokenizer)
    lengths = np.diff(instances.offsets)
    figures |= {
        "instances_read": len(instances),
        "is_whole": len(instances) == len(reader),
        "lengths": summarize(lengths),
        "by_length": _count_in_bins(lengths, header.max_seq_length),
        "filled": float(lengths.mean() / header.max_seq_length),
    }
    if objective in PAIRED:
        figures["pairs"] = _count_pairs(instances, lengths, objective, header.max_seq_length)
    if instances.predictions.targets is not None:
        figures["target_lengths"] = summarize(np.diff(instances.predictions.offsets))
    figures["samples"] = _show_samples(split_instances(instances), tokenizer, objective)
    return Section(str(path), "instances", figures, _draw(figures))


def _count_in_bins(lengths: npt.NDArray[np.int64], longest: int) -> dict[str, Any]:
    width = -(-longest // NUM_BINS)
    num_bins = -(-longest // width)
    counts = np.bincount((lengths - 1).clip(0) // width, minlength=num_bins)
    return {"edges": [place * width for place in range(num_bins + 1)], "counts": counts.tolist()}


def _count_pairs(
    instances: Instances, lengths: npt.NDArray[np.int64], objective: str, longest: int
) -> dict[str, Any]:
    labels = instances.next_sentence_labels
    a = instances.segment_lengths - 2
    known = int(np.count_nonzero(labels != NO_LABEL))
    ones = int(np.count_nonzero(labels == 1))
    return {
        "labelled": known,
        "share_of_label_1": ones / max(known, 1),
        "label_0": LABELS[objective][0].removeprefix(", "),
        "label_1": LABELS[objective][1].removeprefix(", "),
        "a": _count_in_bins(a, longest),
        "b": _count_in_bins(lengths - a - 3, longest),
    }


def _count_masks(
    instances: Instances, options: Mapping[str, Any], tokenizer: Tokenizer
) -> dict[str, Any]:
    """Count what is masked at each position, and what replaced it."""
    lengths, masks = np.diff(instances.offsets), instances.predictions
    # Of positions that fewer than one in a hundred instances has, shares are chance.
    longest = int(np.quantile(lengths, 0.99, method="lower"))
    at_position = np.cumsum(np.bincount(lengths, minlength=longest + 1)[::-1])[::-1][1:]
    at_position = at_position[:longest]
    masked = np.bincount(masks.positions, minlength=longest)[:longest]
    every = -(-longest // MAX_POSITIONS)
    starts = np.arange(0, longest, every)
    shares = np.add.reduceat(masked, starts) / np.add.reduceat(at_position, starts)
    found = instances.input_ids[instances.masked_tokens]
    counted = count_replacements(found, masks.labels, tokenizer.special_ids.get("mask", -1))
    return {
        "masked": len(masks.labels),
        "share": len(masks.labels) / max(int(lengths.sum()), 1),
        "per_instance": summarize(np.diff(masks.offsets), "fewest", "most"),
        "by_position": {"positions": starts.tolist(), "shares": shares.tolist()},
        "replaced": _compare_with_expected(counted, options),
    }


def _compare_with_expected(
    counted: Mapping[str, int], options: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Return what replaced masked tokens, next to what should have.

    ``deviation`` is in standard errors of independent draws; None if what replaces the tokens of a
    word is drawn together.
    """
    total = counted["masked_tokens"]
    ratios: Sequence[float] = options.get("mask_ratios") or LoaderConfig.mask_ratios
    rows = []
    for name, shown, expected in zip(REPLACED, REPLACEMENTS, ratios, strict=True):
        share = counted[name] / max(total, 1)
        row = {"name": name, "shown": shown, "tokens": counted[name], "share": share}
        deviation = find_deviation(share, expected, total)
        is_independent = options.get("mask_draw") != "word"
        row |= {"expected": expected, "deviation": deviation if is_independent else None}
        rows.append(row)
    return rows


def _show_samples(
    rows: Sequence[Row], tokenizer: Tokenizer, objective: str
) -> list[dict[str, Any]]:
    number = min(NUM_SAMPLES, len(rows))
    samples = []
    for row in (rows[len(rows) * (2 * place + 1) // (2 * number)] for place in range(number)):
        predicted = next(name for name in (*TARGET_COLUMNS, "masked_positions") if name in row)
        tokens = list_tokens(
            row["input_ids"],
            row["word_starts"],
            tokenizer,
            segment_length=row["segment_length"] if objective in PAIRED else None,
            masks=masks_of(row),
        )
        for order, position in enumerate(row.get("target_positions", ()), 1):
            if position < len(tokens):
                tokens[position]["label"] = f"{order:,}"
        targets = row.get("target_ids", ())
        label = LABELS.get(objective, {}).get(row["next_sentence_label"], "")
        samples.append(
            {
                "document": int(row["document"]),
                "num_tokens": len(row["input_ids"]),
                "masked": len(row[predicted]),
                "label": label.removeprefix(", "),
                "tokens": tokens,
                "targets": list_tokens(targets, [True] * len(targets), tokenizer),
            }
        )
    return samples


def _draw(figures: Mapping[str, Any]) -> Content:
    masks, pairs = figures.get("masks"), figures.get("pairs")
    lengths, targets = figures["by_length"], figures.get("target_lengths")
    bars = plot_bars({"instances": lengths["counts"]}, lengths["edges"], "tokens of an instance")
    note = "" if figures["is_whole"] else f"Of a sample of {figures['instances_read']:,} instances."
    counts = figures["accounts"].get("figures", {})
    return [
        tiles(
            {
                "instances": figures["instances"],
                "of them held out": figures["held_out"],
                "tokens": figures["tokens"],
                f"of {figures['max_seq_length']:,} tokens filled": f"{figures['filled']:.1%}",
                "tokens to predict": f"{masks['share']:.2%}" if masks else None,
                "on disk": format_bytes(figures["bytes"]),
            }
        ),
        list_warnings(figures["warnings"]),
        cards(
            card("Instances by length", bars, stats_list(figures["lengths"]), note=note),
            _draw_pairs(pairs) if pairs else None,
            _draw_masks(masks, figures["masking"]) if masks else None,
            card("Targets of an instance", stats_list(targets)) if targets else None,
            draw_flows(figures["accounts"]),
            _draw_samples(figures),
        ),
        folded(
            "Options, counts and tokenizer",
            facts_list({name: number for name, number in counts.items() if number}),
            draw_options(figures),
        ),
    ]


def _draw_pairs(pairs: Mapping[str, Any]) -> Markup:
    series = [
        Series(f"segment {name.upper()}", [*zip(edges[1:], counts, strict=True)], color)
        for color, name in enumerate(("a", "b"))
        for edges, counts in [pairs[name].values()]
    ]
    share = pairs["share_of_label_1"]
    facts = {pairs["label_1"]: f"{share:.2%}", pairs["label_0"]: f"{1 - share:.2%}"}
    axes = Axes("tokens of a segment, at most", from_zero=True)
    return card("Pairs", plot_lines(series, axes), stats_list(facts))


def _draw_masks(masks: Mapping[str, Any], masking: str | None) -> Content:
    places = masks["by_position"]
    points = [*zip(places["positions"], places["shares"], strict=True)]
    mean = [(points[0][0], masks["share"]), (points[-1][0], masks["share"])]
    note = "Drawn as in the first epoch, with default options." if masking == "dynamic" else ""
    columns = (
        Column("shown", "masked tokens"),
        Column("tokens", "number", ","),
        Column("share", "share", ".2%", is_bar=True),
        Column("expected", "expected", ".0%"),
        Column("deviation", "standard errors", "+.1f"),
    )
    series = [Series("share masked", points), Series("mean", mean, 1, "dashed")]
    by_position = card(
        "Masks by position",
        plot_lines(series, Axes("position", ".0%", from_zero=True)),
        element("p", "Masked tokens of an instance:", class_="note"),
        stats_list(masks["per_instance"]),
        note=note,
    )
    replaced = card("What replaced masked tokens", table(columns, masks["replaced"]), wide=True)
    return by_position, replaced


def _draw_samples(figures: Mapping[str, Any]) -> Markup:
    note = "Yellow is masked, with the token to predict." if "masks" in figures else ""
    if "pairs" in figures:
        note = f"Blue is segment A, green is segment B. {note}"
    if figures["objective"] == "plm":
        note = "Yellow is predicted, in the order of its number."
    shown = []
    for row in figures["samples"]:
        words = [f"document {row['document']:,}", plural(row["num_tokens"], "token")]
        words += [f"{row['masked']} to predict"] * bool(row["masked"])
        words += [row["label"]] * bool(row["label"])
        targets = [element("h4", "targets"), draw_tokens(row["targets"])]
        shown.append(
            draw_sample(" · ".join(words), row["tokens"], targets if row["targets"] else None)
        )
    return card("Sample instances", shown, wide=True, note=note)
