"""One unit of a build: documents in, a shard of training instances out.

What a unit enters into the accounts: what became of every token that came in.

The ledger has each document and token of the corpus once, as the first pass over it went; the
figures beside it add up all passes, those over the documents that are held out among them.
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from tokkit.engine.accounts import Accounts
from tokkit.engine.unit import UnitResult
from tokkit.instances.build_plan import BuildContext, BuildUnit
from tokkit.instances.document_reader import Documents, Split
from tokkit.instances.packs import PackOptions, cut_sequences, lay_out_sequences, pack_documents
from tokkit.instances.pairs import PairBlock, PairOptions, cut_pairs, lay_out, pair_documents
from tokkit.kernels.ragged import Integer
from tokkit.masking.masks import mask_instances
from tokkit.shards.counts import tally_instances
from tokkit.shards.instances import Instances, to_record_batch
from tokkit.shards.schema import instances_schema
from tokkit.shards.writer import ShardWriter, Sink


def count_documents(
    accounts: Accounts,
    documents: Documents,
    num_own_rows: int,
    unit: BuildUnit,
    pairs: PairOptions | None,
) -> None:
    """Enter the documents of a unit, and their tokens as having come in."""
    lengths = np.diff(documents.token_offsets)[:num_own_rows]
    dropped = np.zeros(num_own_rows, np.bool_)
    if pairs is not None and pairs.drop_single:
        dropped = np.diff(documents.sentence_offsets) == 1
    if pairs is not None:
        accounts.count("visits", int((~dropped).sum()))
    if unit.number:
        return
    accounts.add("documents", num_own_rows)
    accounts.drop("documents", "of one sentence", int(dropped.sum()))
    accounts.keep("documents", int((~dropped).sum()))
    accounts.add("tokens", int(lengths.sum()))
    accounts.drop("tokens", "in documents of one sentence", int(lengths[dropped].sum()))
    accounts.count("eval_documents", num_own_rows if unit.held_out else 0)


def count_pairs(accounts: Accounts, block: PairBlock, unit: BuildUnit) -> None:
    """Enter what became of the tokens of paired documents."""
    pairs = block.pairs
    is_random = pairs["is_random"]
    if unit.number == 0:
        accounts.drop("tokens", "truncated", block.num_truncated)
        accounts.drop("tokens", "in last sentences alone", block.num_alone)
        accounts.keep("tokens", int(pairs["a_length"].sum() + pairs["b_length"][~is_random].sum()))
    accounts.count("short_visits", block.num_short)
    accounts.count("tokens_truncated", block.num_truncated)
    if block.num_alone:
        accounts.count("tokens_alone", block.num_alone)
    if is_random.any():
        borrowed = pairs[is_random]
        num_truncated = int((borrowed["b_whole"] - borrowed["b_length"]).sum())
        accounts.count("tokens_truncated_of_random_b", num_truncated)


def count_tail(accounts: Accounts, num_left: Integer, unit: BuildUnit) -> None:
    """Enter the tokens at the end of the stream that fill no block."""
    if unit.number == 0:
        accounts.drop("tokens", "at the end, less than a block", int(num_left))


def count_packed(accounts: Accounts, num_tokens: Integer, unit: BuildUnit) -> None:
    """Enter the tokens that were packed."""
    if unit.number == 0:
        accounts.keep("tokens", int(num_tokens))
    accounts.count("tokens_packed", int(num_tokens))


def count_figures(accounts: Accounts, figures: Mapping[str, int]) -> None:
    """Enter what was counted of instances."""
    for figure, number in figures.items():
        accounts.count(figure, number)


BATCH_TOKENS = 4 << 20  # of a record batch, about

Made = Iterator[tuple[Instances, float]]  # and the share of the unit that is done with them


def build_unit(
    context: BuildContext, unit: BuildUnit, sink: Sink, report: Callable[[int], None]
) -> UnitResult:
    """Write one shard of instances.

    Args:
        context: the same for all units.
        unit: which documents, in which pass.
        sink: the shard.
        report: told the progress in tokens.
    """
    accounts = Accounts()
    schema = instances_schema(
        context.header, static=context.masks is not None, targets=context.targets
    )
    rows = tokens = reported = 0
    with ShardWriter(sink, schema, context.compression) as writer:
        for made, share in _make_instances(context, unit, accounts):
            instances = made
            if context.masks is not None:
                instances = mask_instances(
                    made, context.masks, seed=context.seed, epoch=unit.number
                )
            batch = to_record_batch(instances, schema)
            count_figures(accounts, tally_instances(batch, context.header, context.objective))
            writer.write(batch)
            rows += len(instances)
            tokens += len(instances.input_ids)
            done = int(unit.size * share)
            report(done - reported)
            reported = done
    report(unit.size - reported)
    accounts.count("instances", 0)
    return UnitResult(rows=rows, tokens=tokens, accounts=accounts)


def _make_instances(context: BuildContext, unit: BuildUnit, accounts: Accounts) -> Made:
    """The instances of a unit, as many at a time as make a record batch."""
    split = Split(unit.held_out, context.eval_fraction, context.seed)
    if context.pairs is not None:
        return _make_pairs(context, context.pairs, split, unit, accounts)
    assert context.packs is not None  # noqa: S101  there is one or the other
    return _make_packs(context, context.packs, split, unit, accounts)


def _make_pairs(
    context: BuildContext, options: PairOptions, split: Split, unit: BuildUnit, accounts: Accounts
) -> Made:
    reader = context.reader
    documents = reader.read(unit.start, unit.stop, split)
    count_documents(accounts, documents, len(documents), unit, options)
    for block in pair_documents(documents, reader, split, options, unit.number):
        count_pairs(accounts, block, unit)
        for pairs in cut_pairs(block, BATCH_TOKENS):
            yield lay_out(block, pairs, options), block.stop_row / len(documents)


def _make_packs(
    context: BuildContext, options: PackOptions, split: Split, unit: BuildUnit, accounts: Accounts
) -> Made:
    reader = context.reader
    documents = reader.read(unit.start, unit.stop, split, options.read_ahead)
    num_own_rows = int(np.searchsorted(documents.numbers, np.uint64(reader.starts[unit.stop])))
    count_documents(accounts, documents, num_own_rows, unit, None)
    sequences, _, num_left = pack_documents(documents, num_own_rows, unit.filled, options)
    count_tail(accounts, num_left, unit)
    done = 0
    for run in cut_sequences(sequences, BATCH_TOKENS // options.room):
        instances, num_tokens = lay_out_sequences(
            run, documents, options, seed=context.seed, number=unit.number
        )
        count_packed(accounts, num_tokens, unit)
        done += len(run)
        yield instances, done / len(sequences)
