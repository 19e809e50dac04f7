r"""Counts the words of a corpus: unit by unit in parallel, then merged.

    unit 0   held-out texts, a sorted run  \
    unit 1   held-out texts, a sorted run   >  the merge: every word once, with its count
    unit 2   held-out texts, a sorted run  /

The result depends on neither the number of workers nor the memory nor the units.

A unit's file has an Arrow stream of the texts that are held out (see ``tokkit.vocab.drawn_documents``),
then a sorted run of words and counts (see ``tokkit.vocab.word_counts``). The first text document of
the corpus is never held out, but a unit does not know whether an earlier one has documents. So if
the first document of a unit is drawn, its text is written whole, and the merge counts it if it is
the first of all.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypedDict

import pyarrow as pa

from tokkit.corpus.file_systems import printable
from tokkit.corpus.readers import read_ahead, read_and_count
from tokkit.corpus.sources import STDIN
from tokkit.corpus.units import CorpusUnit, Group
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import HashedFile, draft_path, hash_file
from tokkit.engine.json_files import Count, FileRow
from tokkit.engine.local import UNIT_MEMORY
from tokkit.engine.mirrors import fetch_files
from tokkit.engine.receipts import Receipt, convert_notes
from tokkit.engine.stage import Stage, complete_units, list_inputs, sum_accounts
from tokkit.engine.stage_plan import StagePlan
from tokkit.engine.unit import UnitResult
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.shards.arrow import text_arrays
from tokkit.vocab.drawn_documents import (
    HeldOutWriter,
    choose_share,
    count_bytes,
    draw_held_out,
    read_held_out,
    read_texts,
    take_sample,
)
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.word_counter import WordCounter, make_splitter
from tokkit.vocab.word_counts import (
    LARGEST_SUM,
    Run,
    WordCounts,
    merge_runs,
    read_counts,
    read_run,
)

HELD_OUT = "held out for the report"

_THOUSAND = 1000
# Memory that a trainer takes for each byte of the distinct words.
_BYTES_PER_BYTE = 16


@dataclass(frozen=True)
class CountedCorpus:
    """The words of a corpus, and what is recorded about it.

    Attributes:
        words: words to learn from.
        held_out: large_string, texts of held-out documents, in order, 16 MB at most.
        inputs: rows with ``name``, ``bytes`` and ``sha256``.
        accounts: accounts of the documents.
        removed: characters that normalization removed from the text to learn from, with their
            counts.
    """

    words: WordCounts
    held_out: pa.LargeStringArray
    inputs: list[FileRow]
    accounts: Accounts
    removed: dict[str, int]


@dataclass(frozen=True)
class CountContext:
    """What is the same for all units.

    Attributes:
        config: what to count, and how.
        folder: folder of the units' files.
        memory: approximate size of a process's tables, in bytes.
        units: all units of the corpus, in the process that planned them.
    """

    config: TrainConfig
    folder: Path
    memory: int
    units: Sequence[CorpusUnit]

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the tables, which another process makes for itself."""
        return {name: getattr(self, name) for name in ("config", "folder", "memory", "share")}

    @cached_property
    def share(self) -> float:
        """Share of the documents that is counted."""
        return choose_share(self.config, self.units)

    @cached_property
    def counter(self) -> WordCounter:
        """Tables of this process, or of its parent, which are empty between units."""
        return WordCounter(make_splitter(self.config), self.memory, self.folder)

    @cached_property
    def _factors(self) -> dict[str, int]:
        """Weights in thousandths, by the name of an input."""
        return {
            STDIN if name == "-" else printable(name): round(_THOUSAND * weight)
            for name, weight in self.config.weights.items()
        }

    def factor(self, unit: CorpusUnit) -> int:
        """Return the factor by which the counts of a file are multiplied."""
        return self._factors.get(unit.source.input, _THOUSAND) if self._factors else 1


def count_corpus(
    config: TrainConfig, plan: StagePlan, folder: Path, *, table_memory: int | None = None
) -> CountedCorpus:
    """Count the words of a corpus, except in units that were counted before.

    Args:
        config: what to count; the result does not depend on ``workers`` and ``memory``.
        plan: units of the corpus; the caller has prepared its output folder.
        folder: folder of the units' files.
        table_memory: approximate size of a process's tables in bytes; None for its share of
            ``memory``.

    Raises:
        TokkitError: if nothing is left to learn from, the distinct words are too many to learn
            from within ``memory``, or the disk is full; also of the readers.
    """
    stage = make_counting_stage(config, plan, folder, table_memory=table_memory)
    receipts, is_resumed = complete_units(
        stage, workers=config.workers, progress=config.progress, commit=config.commit
    )
    corpus = _merge(stage.context, receipts, list_inputs(stage, receipts))
    corpus.accounts.check(config.output, is_resumed=is_resumed)
    return corpus


def make_counting_stage(
    config: TrainConfig, plan: StagePlan, folder: Path, *, table_memory: int | None = None
) -> Stage:
    """Return the stage that counts; see ``count_corpus``."""
    if table_memory is None:
        num_processes = min(config.workers, len(plan.units)) + 1
        table_memory = config.memory // num_processes
        if config.cluster is not None:
            table_memory = min(config.memory, UNIT_MEMORY) // 2
    units = [part for unit in plan.units for part in unit.payload]
    return Stage(
        **plan.fields(),
        function=count_unit,
        context=CountContext(config, folder, table_memory, units),
        load=load_share,
        prepare=lambda _: folder.mkdir(exist_ok=True),
        cluster=config.cluster,
    )


def load_share(context: CountContext) -> None:
    """Find out which share of the documents is counted."""
    _ = context.share


class CountNotes(TypedDict):
    """Facts about the counts of a unit.

    Attributes:
        run_start: where the counts begin in the file.
        share: of the documents that were counted.
        sum: weighted sum of the files of counts.
        first_factor: weight of the first text document if it was drawn to be held out, 0 if it was
            counted, and None without one.
        removed: how often normalization removed each character.
    """

    run_start: Count
    share: float
    sum: int
    first_factor: int | None
    removed: dict[str, int]


def count_unit(
    context: CountContext, group: Group, sink: HashedFile, report: Callable[[int], None]
) -> UnitResult:
    """Write the held-out texts and the counts of one unit; the notes are ``CountNotes``."""
    accounts = Accounts()
    digests = []
    counted_sum = 0
    first_factor: int | None = None
    with HeldOutWriter(sink) as held_out:
        for unit in read_ahead(group):
            digests.append(digest := hashlib.sha256())
            factor = context.factor(unit)
            context.counter.set_factor(factor)
            if unit.source.format == "counts":
                counted_sum += factor * _count_words(context, unit, accounts, digest, report)
                continue
            for whole_batch in read_and_count(unit, context.config, accounts, digest):
                batch = take_sample(whole_batch, context.share)
                num_left_out = len(whole_batch.texts) - len(batch.texts)
                accounts.drop("documents", "not in the sample", num_left_out)
                if context.share < 1:
                    accounts.count("sample_bytes", count_bytes(batch))
                texts, drawn = batch.texts, draw_held_out(batch, context.config.held_out)
                if first_factor is None and len(texts):
                    first_factor = factor if drawn[0] else 0
                    if drawn[0]:
                        held_out.write_whole(texts[:1])
                        texts, drawn = texts[1:], drawn[1:]
                if drawn.any():
                    held_out.write(texts.filter(pa.array(drawn)))
                    texts = texts.filter(pa.array(~drawn))
                    accounts.drop("documents", HELD_OUT, int(drawn.sum()))
                accounts.keep("documents", len(texts))
                context.counter.add(texts)
                report(batch.bytes_read)
    run_start = sink.tell()
    removed = context.counter.finish(sink)
    return UnitResult(
        rows=accounts.kept("documents") + bool(first_factor),
        tokens=0,
        accounts=accounts,
        input_sha256=tuple(digest.hexdigest() for digest in digests),
        notes={
            "run_start": run_start,
            "share": context.share,
            "sum": counted_sum,
            "first_factor": first_factor,
            "removed": removed,
        },
    )


def _count_words(
    context: CountContext,
    unit: CorpusUnit,
    accounts: Accounts,
    digest: "hashlib._Hash",
    report: Callable[[int], None],
) -> int:
    """Count the words of a file of counts, which is one document, and return their sum."""
    total = 0
    for words, counts, num_read in read_counts(unit, context.config, digest):
        total += int(counts.sum())
        _require_sum(unit.name, total * context.factor(unit))
        context.counter.add_counted(*text_arrays(words), counts)
        report(num_read)
    accounts.add("documents", 1)
    accounts.keep("documents", int(total > 0))
    accounts.drop("documents", "empty", int(total == 0))
    return total


def _require_sum(names: str, total: int) -> None:
    if total > LARGEST_SUM:
        raise TokkitError(
            f"{names}: the sum of the weighted counts exceeds 2^62; divide all counts"
        )


def _merge(
    context: CountContext, receipts: Sequence[Receipt], inputs: list[FileRow]
) -> CountedCorpus:
    """Merge the counts of all units, and decide about the first text document of each."""
    config = context.config
    names = ", ".join(config.inputs)
    paths = [config.output / receipt["name"] for receipt in receipts]
    notes = [convert_notes(receipt.get("notes"), CountNotes) for receipt in receipts]
    fetch_files(config.output, ((row["name"], row["sha256"], row["bytes"]) for row in receipts))
    for path, receipt in zip(paths, receipts, strict=True):
        if hash_file(path) != receipt["sha256"]:  # kernels read it unchecked
            raise TokkitError(
                f"{path}: has changed since it was written; pass --overwrite to count again"
            )
    if any(note["share"] != context.share for note in notes):
        raise TokkitError(
            f"{names}: have changed since counting began; pass --overwrite to count again"
        )
    runs = [Run(path, note["run_start"]) for path, note in zip(paths, notes, strict=True)]
    _require_sum(names, sum(note["sum"] for note in notes))
    removed = Counter[str]()
    for note in notes:
        removed.update(note["removed"])
    accounts = sum_accounts(receipts)
    factors = {
        n: factor for n, note in enumerate(notes) if (factor := note["first_factor"]) is not None
    }
    first = min(factors, default=None)
    num_drawn = sum(factor > 0 for factor in factors.values())
    if first is not None and factors[first]:
        num_drawn -= 1
        context.counter.set_factor(factors[first])
        context.counter.add(read_texts(paths[first])[:1])
        runs.append(Run(draft_path(context.folder / "first")))
        with wrap_os_errors(runs[-1].path), runs[-1].path.open("wb") as file:
            removed.update(context.counter.finish(file))
        accounts.keep("documents", 1)
    else:
        first = None
    accounts.drop("documents", HELD_OUT, num_drawn)
    if not accounts.kept("documents"):
        option = "--sample" if context.share < 1 else "--documents"
        raise TokkitError(f"{names}: no document is left to learn from; see {option}")
    merged = draft_path(context.folder / "merged")
    divisor = _THOUSAND if config.weights else 1
    with wrap_os_errors(merged), merged.open("wb") as file:
        totals = merge_runs(
            runs, file, context.memory, divisor=divisor, smallest=config.min_word_count
        )
    _require_totals(config, names, totals.words, totals.bytes)
    return CountedCorpus(
        words=read_run(merged, totals),
        held_out=read_held_out(paths, without_first_of=first),
        inputs=inputs,
        accounts=accounts,
        removed=dict(sorted(removed.items(), key=lambda item: (-item[1], item[0]))),
    )


def _require_totals(config: TrainConfig, names: str, num_words: int, num_bytes: int) -> None:
    """Refuse to learn from no words, or from more than fit into memory."""
    if not num_words and config.min_word_count > 1:
        raise TokkitError(
            f"{names}: no word occurs {config.min_word_count} times; lower --min-word-count"
        )
    if not num_words:
        raise TokkitError(f"{names}: no character is left to learn from")
    needed = num_bytes * _BYTES_PER_BYTE
    if needed > config.memory:
        raise TokkitError(
            f"{names}: learning from {num_words} distinct words takes about {needed >> 20} MB, more "
            f"than --memory; raise it, or leave out rare words with --min-word-count "
            f"{config.min_word_count + 1} or more"
        )
