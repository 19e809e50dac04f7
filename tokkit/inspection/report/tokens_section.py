"""The part of a report about a token folder: what came in, how long it is, what it looks like.

Of a large folder, a sample is read: record batches at even distances, 20 million tokens together.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tokkit.engine.manifest import Manifest
from tokkit.engine.receipts import read_receipts
from tokkit.errors import plural
from tokkit.inspection.report.markup import (
    Column,
    Content,
    Markup,
    Section,
    card,
    cards,
    draw_sample,
    element,
    facts_list,
    folded,
    format_bytes,
    format_options,
    list_tokens,
    list_warnings,
    shorten_names,
    stats_list,
    table,
    tiles,
)
from tokkit.inspection.report.plots import plot_bars, plot_flow
from tokkit.shards.arrow import ragged
from tokkit.shards.reader import BatchRef, ShardFolder
from tokkit.tokenizer.tokenizer import load_tokenizer

MAX_TOKENS = 20_000_000
NUM_SAMPLES = 4
NUM_LONGEST = 10
NUM_DUPLICATES = 10
MAX_SOURCES = 7  # with a colour each
MAX_NAME = 500  # characters of a document's name
OTHER = "all others"

Int64 = npt.NDArray[np.int64]


@dataclass
class _Sample:
    """What was read of a folder: of each document its name, its INPUT and its tokens."""

    names: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    lengths: list[Int64] = field(default_factory=list)
    sentence_lengths: list[Int64] = field(default_factory=list)
    firsts: dict[bytes, int] = field(default_factory=dict)  # a document by its ids
    copies: Counter[int] = field(default_factory=Counter)


def describe_tokens(path: Path) -> Section:
    """Read a token folder, and return its part of the page.

    Raises:
        TokkitError: if the folder is damaged.
    """
    folder = ShardFolder.open(path, "tokens")
    manifest = folder.manifest
    refs = folder.batch_refs()
    chosen = refs[:: max(1, -(-sum(ref.tokens for ref in refs) // MAX_TOKENS))]
    sample = _read_sample(folder, chosen)
    lengths = np.concatenate([np.zeros(0, np.int64), *sample.lengths])
    sentence_lengths = np.concatenate([np.zeros(0, np.int64), *sample.sentence_lengths])
    longest = np.argsort(-lengths, kind="stable")[:NUM_LONGEST].tolist()
    copies = sorted(sample.copies.items(), key=lambda item: (-item[1], item[0]))
    figures = {
        "path": str(path),
        "state": "finished",
        "bytes": sum(row["bytes"] for row in manifest.shards),
        "shards": len(manifest.shards),
        "documents": manifest.num_rows,
        "tokens": manifest.num_tokens,
        "vocab_size": folder.header.vocab_size,
        "tokenizer": manifest.tokenizer_fingerprint,
        "options": manifest.options,
        "accounts": manifest.accounts,
        "warnings": manifest.warnings,
        "left_out": manifest.left_out,
        "documents_read": len(lengths),
        "is_whole": len(chosen) == len(refs),
        "document_lengths": summarize(lengths),
        "sentence_lengths": summarize(sentence_lengths),
        "documents_by_length": _count_by_doubling(lengths, sample.sources),
        "sentences_by_length": _count_by_doubling(sentence_lengths),
        "longest": [{"document": sample.names[n], "tokens": int(lengths[n])} for n in longest],
        "duplicates": {  # documents with the tokens of an earlier one
            "documents": sample.copies.total(),
            "commonest": [
                {"document": sample.names[n], "copies": number}
                for n, number in copies[:NUM_DUPLICATES]
            ],
        },
        "samples": _show_samples(folder, refs),
    }
    return Section(str(path), "tokens", figures, _draw(figures))


def _read_sample(folder: ShardFolder, refs: Sequence[BatchRef]) -> _Sample:
    """Read record batches, documents of which there are copies once."""
    sample = _Sample()
    sources_of = _find_sources_of_shards(folder.path, folder.manifest)
    for ref in refs:
        batch = folder.read_batch(ref, copied=True)
        ids, offsets = ragged(batch.column("input_ids"))
        data, size = ids.tobytes(), ids.itemsize
        for number, (start, stop) in enumerate(pairwise(offsets.tolist()), len(sample.names)):
            first = sample.firsts.setdefault(data[start * size : stop * size], number)
            if first != number:
                sample.copies[first] += 1
        names = [name[:MAX_NAME] for name in batch.column("document").to_pylist()]
        sources = sources_of.get(ref.shard, ())
        if len(sources) == 1:
            sample.sources += [sources[0]] * len(names)
        else:
            sample.sources += (next(filter(name.startswith, sources), OTHER) for name in names)
        sample.names += names
        sample.lengths.append(np.diff(offsets))
        sample.sentence_lengths.append(ragged(batch.column("sentence_lengths"))[0].astype(np.int64))
    return sample


def _find_sources_of_shards(path: Path, manifest: Manifest) -> dict[str, Sequence[str]]:
    """Return the INPUTs of each shard; all of them where receipts do not tell them apart."""
    everything = list(manifest.accounts.get("sources", {}))
    found: dict[str, Sequence[str]] = {row["name"]: everything for row in manifest.shards}
    if len(everything) > 1:
        for unit in read_receipts(path).values():
            found[unit["name"]] = list(unit["accounts"].get("sources", everything))
    return found


def summarize(lengths: Int64, least: str = "shortest", most: str = "longest") -> dict[str, float]:
    """Return what a reader asks of lengths first; nothing for none."""
    if not len(lengths):
        return {}
    quantiles = np.quantile(lengths, [0.0, 0.05, 0.5, 0.95, 1.0], method="nearest").tolist()
    names = (least, "5%", "median", "95%", most)
    return {**dict(zip(names, quantiles, strict=True)), "mean": float(lengths.mean())}


def _count_by_doubling(lengths: Int64, groups: Sequence[str] | None = None) -> dict[str, Any]:
    """Count lengths between powers of two: ``{"edges": [1, 2, 4, 8], "counts": {"all": [0, 2, 5]}}``."""
    if not len(lengths):
        return {"edges": [1, 2], "counts": {"all": [0]}}
    bins = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
    low, num_bins = int(bins.min()), int(bins.max()) - int(bins.min()) + 1
    named = np.array(groups if groups is not None else ["all"] * len(lengths), object)
    common = [group for group, _ in Counter(named.tolist()).most_common(MAX_SOURCES)]
    counts = {
        group: np.bincount(bins[named == group] - low, minlength=num_bins).tolist()
        for group in common
    }
    rest = ~np.isin(named, np.array(common, object))
    if rest.any():
        counts[OTHER] = np.bincount(bins[rest] - low, minlength=num_bins).tolist()
    return {"edges": [2**place for place in range(low, low + num_bins + 1)], "counts": counts}


def _show_samples(folder: ShardFolder, refs: Sequence[BatchRef]) -> list[dict[str, Any]]:
    tokenizer = load_tokenizer(folder.tokenizer_path)
    folder.require_tokenizer(tokenizer)
    num_rows = sum(ref.rows for ref in refs)
    wanted = sorted(
        {num_rows * (2 * place + 1) // (2 * NUM_SAMPLES) for place in range(NUM_SAMPLES)}
    )
    samples, start = [], 0
    for ref in refs:
        for row in (number - start for number in wanted if start <= number < start + ref.rows):
            found = folder.read_batch(ref, copied=True).slice(row, 1).to_pylist()[0]
            ends = set(accumulate(found["sentence_lengths"]))
            tokens = list_tokens(
                found["input_ids"], found["word_starts"], tokenizer, sentence_ends=ends
            )
            samples.append(
                {
                    "document": found["document"][:MAX_NAME],
                    "sentences": len(found["sentence_lengths"]),
                    "num_tokens": len(found["input_ids"]),
                    "tokens": tokens,
                }
            )
        start += ref.rows
    return samples


def _draw(figures: Mapping[str, Any]) -> Content:
    accounts, shorten_name = figures["accounts"], _name_shortener(figures)
    counts, tokens = accounts.get("figures", {}), figures["tokens"]
    words, unknown = counts.get("words"), counts.get("unknown_tokens")
    documents = figures["documents_by_length"]
    by_source = {shorten_name(name): number for name, number in documents["counts"].items()}
    note = f"Of a sample of {plural(figures['documents_read'], 'document')}, at even distances."
    samples = []
    for row in figures["samples"]:
        size = f"{plural(row['sentences'], 'sentence')}, {plural(row['num_tokens'], 'token')}"
        samples.append(draw_sample(f"{shorten_name(row['document'])} · {size}", row["tokens"]))
    return [
        tiles(
            {
                "documents": figures["documents"],
                "tokens": tokens,
                "tokens per word, punctuation apart": f"{tokens / words:.3f}" if words else None,
                "unknown tokens": None if unknown is None else f"{unknown / max(tokens, 1):.3%}",
                "duplicates": figures["duplicates"]["documents"],
                "on disk": format_bytes(figures["bytes"]),
            }
        ),
        list_warnings(figures["warnings"]),
        cards(
            draw_flows(accounts),
            card(
                "Documents by length",
                plot_bars(by_source, documents["edges"], "tokens of a document"),
                stats_list(figures["document_lengths"]),
                note="" if figures["is_whole"] else note,
            ),
            card(
                "Sentences by length",
                plot_bars(**figures["sentences_by_length"], x_title="tokens of a sentence"),
                stats_list(figures["sentence_lengths"]),
            ),
            _draw_sources(accounts.get("sources", {}), shorten_name),
            _draw_names(figures, shorten_name),
            card(
                "Sample documents",
                samples,
                wide=True,
                note="A colour is a token; a red line is the end of a sentence.",
            ),
        ),
        folded("Options and tokenizer", draw_options(figures)),
    ]


def _name_shortener(figures: Mapping[str, Any]) -> Callable[[str], str]:
    """Return what shortens the names of sources, and those of documents, which begin with them."""
    names = shorten_names(list(figures["accounts"].get("sources", {})))

    def shorten_name(name: str) -> str:
        source = max(filter(name.startswith, names), key=len, default="")
        return names.get(source, "") + name[len(source) :]

    return shorten_name


def draw_flows(accounts: Mapping[str, Any]) -> Content:
    """Return a card for what came in, was dropped and was kept."""
    flows = [
        plot_flow(entry["in"], entry["kept"], entry["dropped"], what)
        for what, entry in accounts.items()
        if what not in ("figures", "sources") and (entry["dropped"] or what == "documents")
    ]
    return card("From in to kept", element("div", flows, class_="figures")) if flows else None


def _draw_sources(
    sources: Mapping[str, Mapping[str, int]], shorten_name: Callable[[str], str]
) -> Content:
    if not sources:
        return None
    columns = (
        Column("source", "source"),
        Column("tokens", "tokens", ",", is_bar=True),
        Column("words", "words", ","),
        Column("fertility", "tokens per word", ".3f"),
        Column("unknown", "unknown", ".3%"),
    )
    rows = [
        {
            "source": shorten_name(name),
            **figures,
            "fertility": figures["tokens"] / max(figures["words"], 1),
            "unknown": figures["unknown_tokens"] / max(figures["tokens"], 1),
        }
        for name, figures in sources.items()
    ]
    note = "Words as the tokenizer splits text, in which a punctuation mark is a word of its own."
    return card("Sources", table(columns, rows), wide=True, note=note)


def _draw_names(figures: Mapping[str, Any], shorten_name: Callable[[str], str]) -> Content:
    def shown(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, "document": shorten_name(row["document"])} for row in rows]

    name = Column("document", "document")
    longest = card(
        "Longest documents",
        table((name, Column("tokens", "tokens", ",", is_bar=True)), shown(figures["longest"])),
    )
    duplicates = figures["duplicates"]
    if not duplicates["documents"]:
        return longest
    columns = (name, Column("copies", "further copies", ",", is_bar=True))
    note = f"Documents with the same tokens as an earlier one: {duplicates['documents']:,}."
    return [longest, card("Duplicates", table(columns, shown(duplicates["commonest"])), note=note)]


def draw_options(figures: Mapping[str, Any]) -> Markup:
    """Return the options of a stage, and the fingerprint of its tokenizer."""
    return facts_list({**format_options(figures["options"]), "tokenizer": figures["tokenizer"]})
