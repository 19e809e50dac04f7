"""One unit of a build: documents in, a shard of training instances out.

The accounts hold each document and token of the corpus once, as the first pass over it treats them.
The figures next to them add up all passes, those over held-out documents included.
"""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from tokkit.engine.accounts import Accounts
from tokkit.engine.unit import UnitResult
from tokkit.instances.build_plan import BuildContext, BuildUnit
from tokkit.instances.document_reader import Documents
from tokkit.instances.packs import PackOptions, lay_out_sequences, pack_documents
from tokkit.instances.pairs import PairBlock, PairOptions, cut_pairs, lay_out_pairs, pair_documents
from tokkit.instances.translations import TranslationOptions, find_pairs, lay_out_translations
from tokkit.masking.masks import mask_instances
from tokkit.shards.instances import Instances, count_instances, to_record_batch
from tokkit.shards.objectives import OBJECTIVES
from tokkit.shards.schema import instances_schema
from tokkit.shards.shard_file import Sink, open_writer

BATCH_TOKENS = 4 << 20  # of a record batch, approximately
LEFT_OVER = "at the end of a unit, less than a block"


def build_unit(
    context: BuildContext, unit: BuildUnit, sink: Sink, report: Callable[[int], None]
) -> UnitResult:
    """Write one shard of instances.

    Args:
        context: the same for all units.
        unit: which documents, in which pass.
        sink: the shard.
        report: receives the progress in tokens.
    """
    accounts = Accounts()
    objective = context.config.objective
    targets = OBJECTIVES[objective].targets
    schema = instances_schema(context.header, static=context.masks is not None, targets=targets)
    rows = tokens = reported = 0
    with open_writer(sink, schema, context.config.compression) as writer:
        for instances, share in _make_instances(context, unit, accounts):
            batch = to_record_batch(instances, schema)
            for figure, number in count_instances(batch, context.header, objective).items():
                accounts.count(figure, number)
            writer.write(batch)
            rows += len(instances)
            tokens += len(instances.input_ids)
            done = int(unit.size * share)
            report(done - reported)
            reported = done
    report(unit.size - reported)
    accounts.count("instances", 0)
    return UnitResult(rows=rows, tokens=tokens, accounts=accounts, batches=writer.batches)


def _make_instances(
    context: BuildContext, unit: BuildUnit, accounts: Accounts
) -> Iterator[tuple[Instances, float]]:
    """The instances of each record batch, and the share of the unit that is done with them."""
    options = context.options
    if isinstance(options, PairOptions):
        made = _make_pairs(context, options, unit, accounts)
    elif isinstance(options, TranslationOptions):
        made = _make_translations(context, options, unit, accounts)
    else:
        made = _make_packs(context, options, unit, accounts)
    if (masks := context.masks) is None:
        return made
    seed, epoch = context.seed, unit.number
    return ((mask_instances(i, masks, seed=seed, epoch=epoch), share) for i, share in made)


def _make_pairs(
    context: BuildContext, options: PairOptions, unit: BuildUnit, accounts: Accounts
) -> Iterator[tuple[Instances, float]]:
    split = context.split(held_out=unit.held_out)
    documents = context.reader.read(unit.start, unit.stop, split)
    dropped = (np.diff(documents.sentence_offsets) == 1) & options.drop_single
    _count_documents(accounts, documents, dropped, unit)
    accounts.count("visits", int((~dropped).sum()))
    sources = context.draw_source_ranges(unit)
    for block in pair_documents(documents, sources, split, options, unit.number):
        _count_pairs(accounts, block, unit)
        for pairs in cut_pairs(block, BATCH_TOKENS):
            yield lay_out_pairs(block, pairs, options), block.stop_row / len(documents)


def _make_packs(
    context: BuildContext, options: PackOptions, unit: BuildUnit, accounts: Accounts
) -> Iterator[tuple[Instances, float]]:
    split = context.split(held_out=unit.held_out)
    documents = context.reader.read(unit.start, unit.stop, split)
    _count_documents(accounts, documents, np.zeros(len(documents), np.bool_), unit)
    sequences, num_left = pack_documents(documents, options)
    if unit.number == 0:
        accounts.drop("tokens", LEFT_OVER, int(num_left))
    step = BATCH_TOKENS // options.max_tokens
    for start in range(0, len(sequences), step):
        instances, num_tokens = lay_out_sequences(
            sequences[start : start + step],
            documents,
            options,
            seed=context.seed,
            number=unit.number,
        )
        if unit.number == 0:
            accounts.keep("tokens", int(num_tokens))
        accounts.count("tokens_packed", int(num_tokens))
        yield instances, min(1, (start + step) / len(sequences))


def _make_translations(
    context: BuildContext, options: TranslationOptions, unit: BuildUnit, accounts: Accounts
) -> Iterator[tuple[Instances, float]]:
    split = context.split(held_out=unit.held_out)
    documents = context.reader.read(unit.start, unit.stop, split)
    translations, is_kept = find_pairs(documents, split, options)
    _count_documents(accounts, documents, ~is_kept, unit, "of pairs longer than --max-seq-length")
    num_kept = int(np.diff(documents.token_offsets)[is_kept].sum())
    accounts.keep("tokens", num_kept)
    accounts.count("tokens_packed", num_kept)
    rows, step = np.flatnonzero(is_kept), BATCH_TOKENS // options.max_seq_length
    for start in range(0, len(rows), step):
        chosen = rows[start : start + step]
        instances = lay_out_translations(documents, translations, chosen, options)
        yield instances, min(1, (start + step) / len(rows))


def _count_documents(
    accounts: Accounts,
    documents: Documents,
    dropped: npt.NDArray[np.bool_],
    unit: BuildUnit,
    reason: str = "of one sentence",
) -> None:
    """Record the unit's own documents, and their tokens as input.

    Args:
        accounts: of the unit.
        documents: of the unit.
        dropped: bool, of each.
        reason: for which.
        unit: only the first pass is recorded.
    """
    if unit.number:
        return
    lengths = np.diff(documents.token_offsets)
    accounts.add("documents", len(dropped))
    accounts.drop("documents", reason, int(dropped.sum()))
    accounts.keep("documents", int((~dropped).sum()))
    accounts.add("tokens", int(lengths.sum()))
    accounts.drop("tokens", f"in documents {reason}", int(lengths[dropped].sum()))
    accounts.count("eval_documents", len(dropped) if unit.held_out else 0)


def _count_pairs(accounts: Accounts, block: PairBlock, unit: BuildUnit) -> None:
    """Record what became of the tokens of paired documents."""
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
        random = pairs[is_random]
        num_truncated = int((random["b_whole"] - random["b_length"]).sum())
        accounts.count("tokens_truncated_of_random_b", num_truncated)
