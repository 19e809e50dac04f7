r"""Counting the words of a corpus: unit by unit in parallel, then merged.

    unit 0   a sorted run  \
    unit 1   a sorted run   >  the merge: every word once, with its count
    unit 2   a sorted run  /

Of text, a share of the documents is drawn by their names and held out: never counted, kept for the
report. What comes out depends on neither the number of workers nor the memory nor the units.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from tokkit.corpus.files import printable
from tokkit.corpus.readers import Group, group_units, name_group, read_and_count
from tokkit.corpus.sources import STDIN
from tokkit.corpus.units import UNIT_BYTES, CorpusUnit
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import STATE_FOLDER, HashedFile, read_json
from tokkit.engine.local import run_units
from tokkit.engine.unit import Task, Unit, UnitResult
from tokkit.errors import TokkitError, wrap_os_errors
from tokkit.vocab.count_files import LARGEST_SUM, read_counts
from tokkit.vocab.held_out import HeldOutWriter, draw, read_held_out
from tokkit.vocab.train_config import TrainConfig
from tokkit.vocab.word_counter import WordCounter
from tokkit.vocab.word_counts import WordCounts, merge_runs, read_run, text_arrays
from tokkit.vocab.word_splitter import new_splitter

HELD_OUT = "held out for the report"

_FOLDER = f"{STATE_FOLDER}/counting"
_THOUSAND = 1000
# What a trainer takes for each byte of the distinct words.
_BYTES_PER_BYTE = 16


@dataclass(frozen=True)
class Counted:
    """What there is to know of a corpus.

    Attributes:
        words: to learn from.
        held_out: large_string, the texts of documents that were held out, in order, 16 MB at most.
        inputs: rows with ``name``, ``bytes`` and ``sha256``.
        accounts: the ledger of the documents.
        removed: characters that normalization removed from what is learned from, with how often.
    """

    words: WordCounts
    held_out: pa.LargeStringArray
    inputs: list[dict[str, Any]]
    accounts: Accounts
    removed: dict[str, int]


@dataclass(frozen=True)
class Context:
    """What every unit gets.

    Attributes:
        config: what is counted, and how.
        memory: about how many bytes the tables of a process take.
    """

    config: TrainConfig
    memory: int

    def __getstate__(self) -> dict[str, Any]:
        """What goes to another process: no tables."""
        return {"config": self.config, "memory": self.memory}

    @property
    def folder(self) -> Path:
        """Of the runs."""
        return self.config.output / _FOLDER

    @cached_property
    def counter(self) -> WordCounter:
        """The tables of this process, or of its parent, which are empty between units."""
        return WordCounter(new_splitter(self.config), self.memory, self.folder)

    @cached_property
    def factors(self) -> dict[str, int]:
        """Thousandths by the name of an input."""
        return {
            STDIN if name == "-" else printable(name): round(_THOUSAND * weight)
            for name, weight in self.config.weights.items()
        }

    def factor(self, unit: CorpusUnit) -> int:
        """By which the counts of a unit are multiplied."""
        return self.factors.get(unit.source.input, _THOUSAND) if self.factors else 1


def count_corpus(
    config: TrainConfig,
    units: Sequence[CorpusUnit],
    report: Callable[[int], Any] = lambda _: None,
    *,
    table_memory: int | None = None,
) -> Counted:
    """Count the words of a corpus.

    Args:
        config: what is counted; the result does not depend on ``workers`` and ``memory``.
        units: of the corpus, in order. The output folder is there, and locked by the caller.
        report: called with bytes read.
        table_memory: about how many bytes the tables of a process take; by default its share of
            ``memory``.

    Raises:
        TokkitError: of the readers; where nothing is left to learn from; where the distinct words
            are too many to learn from within ``memory``; where the disk is full.
    """
    share = config.memory // (config.workers + 1)
    context = Context(config, share if table_memory is None else table_memory)
    names = ", ".join(config.inputs)
    work = [
        Unit(
            name=name_group(group),
            shard=f"{_FOLDER}/{number:05}.run",
            identity={},
            stamp=0,
            size=sum(unit.size for unit in group),
            payload=(number, group),
            local=group[0].is_stdin,
        )
        for number, group in enumerate(group_units(units, UNIT_BYTES))
    ]
    accounts = Accounts()
    digests: dict[str, tuple[str, ...]] = {}
    total = 0
    with _folder(context.folder):
        task = Task(count_unit, context, config.output)
        with closing(run_units(task, work, config.workers, report)) as outcomes:
            for unit, outcome in outcomes:
                accounts.merge(outcome.result.accounts)
                digests[unit.shard] = outcome.result.input_sha256
                total += outcome.result.tokens
                if total > LARGEST_SUM:
                    raise _too_large(names)
        if not accounts.kept("documents"):
            if accounts.entries.get("documents", {}).get("dropped", {}).get(HELD_OUT):
                return count_corpus(replace(config, held_out=0.0), units, report)
            raise TokkitError(f"{names}: no document is left to learn from; see --documents")
        merged = context.folder / "merged.tmp"
        runs = [config.output / unit.shard for unit in work]
        with wrap_os_errors(merged), merged.open("wb") as file:
            divisor = _THOUSAND if config.weights else 1
            totals = merge_runs(
                runs, file, context.memory, divisor=divisor, smallest=config.min_word_count
            )
        _check_totals(config, names, totals.words, totals.bytes)
        return Counted(
            words=read_run(merged, totals),
            held_out=read_held_out(
                [context.folder / f"{number:05}.arrow" for number in range(len(work))]
            ),
            inputs=[
                {"name": part.name, "bytes": part.size, "sha256": sha256}
                for unit in work
                for part, sha256 in zip(unit.payload[1], digests[unit.shard], strict=True)
            ],
            accounts=accounts,
            removed=_read_removed(context.folder, len(work)),
        )


def _check_totals(config: TrainConfig, names: str, num_words: int, num_bytes: int) -> None:
    """Refuse to learn from no words, or from too many."""
    if not num_words:
        if config.min_word_count > 1:
            raise TokkitError(
                f"{names}: no word occurs {config.min_word_count} times; lower --min-word-count"
            )
        raise TokkitError(f"{names}: no character is left to learn from")
    needed = num_bytes * _BYTES_PER_BYTE
    if needed > config.memory:
        raise TokkitError(
            f"{names}: {num_words} distinct words take about {needed >> 20} MB to learn from, over "
            f"--memory; raise it, or leave rare words out with --min-word-count "
            f"{config.min_word_count + 1} or more"
        )


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """An empty folder, which is removed at the end."""
    with wrap_os_errors(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    try:
        yield
    finally:
        with suppress(OSError):
            shutil.rmtree(folder)


def count_unit(
    context: Context, payload: tuple[int, Group], sink: HashedFile, report: Callable[[int], None]
) -> UnitResult:
    """Write the run of one unit, its held-out texts, and what normalization removed."""
    number, group = payload
    accounts = Accounts()
    digests = []
    total = 0
    with ExitStack() as stack:
        path = context.folder / f"{number:05}.arrow"
        stack.enter_context(wrap_os_errors(path))
        held_out = HeldOutWriter(stack.enter_context(path.open("wb")))
        stack.callback(held_out.close)
        for unit in group:
            digests.append(digest := hashlib.sha256())
            context.counter.weigh(context.factor(unit))
            if unit.source.format == "counts":
                total += _count_words(context, unit, accounts, digest, report)
                continue
            protects = number == 0 and unit is group[0]
            for batch in read_and_count(unit, context.config, accounts, digest):
                drawn = draw(batch, context.config.held_out)
                if protects and len(drawn):
                    drawn[0] = protects = False
                texts = batch.texts
                if drawn.any():
                    held_out.add(texts.filter(pa.array(drawn)))
                    texts = texts.filter(pa.array(~drawn))
                    accounts.drop("documents", HELD_OUT, int(drawn.sum()))
                accounts.keep("documents", len(texts))
                context.counter.add(texts)
                report(batch.bytes_read)
    removed = context.counter.finish(sink)
    path = context.folder / f"{number:05}.json"
    with wrap_os_errors(path):
        path.write_text(json.dumps(removed))
    return UnitResult(
        rows=0,
        tokens=total,
        accounts=accounts,
        input_sha256=tuple(digest.hexdigest() for digest in digests),
    )


def _count_words(
    context: Context,
    unit: CorpusUnit,
    accounts: Accounts,
    digest: "hashlib._Hash",
    report: Callable[[int], None],
) -> int:
    """Count the words of a file of counts, which is one document; returns their weighted sum."""
    factor = context.factor(unit)
    total = 0
    for words, counts, num_read in read_counts(unit, context.config.errors, digest):
        total += int(counts.sum())
        if total * factor > LARGEST_SUM:
            raise _too_large(unit.name)
        context.counter.add_counted(*text_arrays(words), counts)
        report(num_read)
    accounts.add("documents", 1)
    accounts.keep("documents", int(total > 0))
    accounts.drop("documents", "empty", int(total == 0))
    return total * factor


def _too_large(names: str) -> TokkitError:
    return TokkitError(f"{names}: the weighted counts exceed 2^62 in sum; divide all counts")


def _read_removed(folder: Path, num_units: int) -> dict[str, int]:
    """What normalization removed in all units, the most frequent first."""
    total: Counter[str] = Counter()
    for number in range(num_units):
        total.update(read_json(folder / f"{number:05}.json"))
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))
