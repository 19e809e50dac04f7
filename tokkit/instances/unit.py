"""One unit of a build: documents in, a shard of training instances out."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tokkit.engine.accounts import Accounts
from tokkit.engine.unit import UnitResult
from tokkit.instances.config import BuildConfig
from tokkit.instances.documents import DocumentReader, Documents, Split
from tokkit.instances.masks import MaskOptions, Masks, count_replacements, mask_instances
from tokkit.instances.pairs import (
    Instances,
    PairBlock,
    PairOptions,
    cut_pairs,
    lay_out,
    pair_documents,
)
from tokkit.instances.plan import PairUnit
from tokkit.kernels.masking import replacement_ids
from tokkit.shards.schema import Header, instances_schema
from tokkit.shards.writer import ShardWriter, Sink, booleans, large_list
from tokkit.vocab.tokenizer import Tokenizer

BATCH_TOKENS = 4 << 20  # of a record batch, about


@dataclass(frozen=True)
class BuildContext:
    """What every unit needs; picklable.

    Attributes:
        reader: of the token folder.
        eval_fraction: share of the documents that is held out.
        header: of the shards.
        pairs: how pairs are made.
        masks: how they are masked; None leaves that to the loader.
        compression: of the shards' buffers.
    """

    reader: DocumentReader
    eval_fraction: float
    header: Header
    pairs: PairOptions
    masks: MaskOptions | None
    compression: str


def make_context(
    config: BuildConfig, reader: DocumentReader, tokenizer: Tokenizer, eval_fraction: float
) -> BuildContext:
    """What the options come to, for a token folder and its tokenizer."""
    header = Header(
        kind="instances",
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        max_seq_length=config.max_seq_length,
    )
    seed = np.uint64(config.seed)
    pairs = PairOptions(
        max_seq_length=config.max_seq_length,
        short_seq_prob=config.short_seq_prob,
        drop_single=config.single_sentence == "drop",
        seed=seed,
        cls_id=tokenizer.special_ids["cls"],
        sep_id=tokenizer.special_ids["sep"],
    )
    masks = None
    if config.masking == "static":
        kept_out = (*tokenizer.control_ids, *tokenizer.unused_ids)
        masks = MaskOptions(
            masked_lm_prob=config.masked_lm_prob,
            max_predictions=config.max_predictions,
            seed=seed,
            mask_id=tokenizer.special_ids["mask"],
            replacements=replacement_ids(
                tokenizer.vocab_size,
                () if config.random_tokens == "all" else kept_out,
                header.id_dtype,
            ),
        )
    return BuildContext(reader, eval_fraction, header, pairs, masks, config.compression)


def build_unit(
    context: BuildContext, unit: PairUnit, sink: Sink, report: Callable[[int], None]
) -> UnitResult:
    """Write one shard of instances.

    Args:
        context: the same for all units.
        unit: which documents, in which pass.
        sink: the shard.
        report: told the progress in tokens.
    """
    split = Split(unit.held_out, context.eval_fraction, context.pairs.seed)
    documents = context.reader.read(unit.start, unit.stop, split)
    accounts = Accounts()
    if unit.number == 0:
        _count_documents(accounts, documents, unit, context.pairs)
    schema = instances_schema(context.header, static=context.masks is not None)
    rows = tokens = reported = 0
    with ShardWriter(sink, schema, context.compression) as writer:
        for block in pair_documents(documents, context.reader, split, context.pairs, unit.number):
            _count_pairs(accounts, block, unit)
            for pairs in cut_pairs(block, BATCH_TOKENS):
                instances = lay_out(block, pairs, context.pairs)
                masks = None
                if context.masks is not None:
                    masks = mask_instances(instances, context.masks, unit.number)
                    _count_masks(accounts, instances, masks, context.masks.mask_id)
                writer.write(_make_batch(schema, instances, masks))
                rows += len(instances)
                tokens += len(instances.ids)
            done = unit.size * block.stop_row // len(documents)
            report(done - reported)
            reported = done
    report(unit.size - reported)
    accounts.count("instances", rows)
    return UnitResult(rows=rows, tokens=tokens, accounts=accounts)


def _make_batch(schema: pa.Schema, instances: Instances, masks: Masks | None) -> pa.RecordBatch:
    columns = [
        large_list(instances.ids, instances.offsets),
        pa.array(instances.segment_lengths, pa.int32()),
        pa.array(instances.documents, pa.uint64()),
        pa.array(instances.is_random, pa.int8()),
        large_list(booleans(instances.word_starts, int(instances.offsets[-1])), instances.offsets),
    ]
    if masks is not None:
        columns += [
            large_list(masks.positions, masks.offsets),
            large_list(masks.labels, masks.offsets),
        ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _count_documents(
    accounts: Accounts, documents: Documents, unit: PairUnit, options: PairOptions
) -> None:
    """Enter each document of a split once, in the first pass, whatever the number of passes."""
    lengths = np.diff(documents.token_offsets)
    single = np.diff(documents.sentence_offsets) == 1
    dropped = single if options.drop_single else np.zeros_like(single)
    accounts.add("documents", len(documents))
    accounts.drop("documents", "of one sentence", int(dropped.sum()))
    accounts.keep("documents", int((~dropped).sum()))
    accounts.add("tokens", len(documents.ids))
    accounts.drop("tokens", "in documents of one sentence", int(lengths[dropped].sum()))
    accounts.count("eval_documents", len(documents) if unit.held_out else 0)


def _count_pairs(accounts: Accounts, block: PairBlock, unit: PairUnit) -> None:
    """Enter what became of the tokens: in the ledger for the first pass, as figures for all."""
    pairs = block.pairs
    is_random = pairs["is_random"]
    num_a = int(pairs["a_length"].sum())
    num_b = int(pairs["b_length"][~is_random].sum())
    num_random = int(pairs["b_length"][is_random].sum())
    if unit.number == 0:
        accounts.drop("tokens", "truncated", block.num_truncated)
        accounts.keep("tokens", num_a + num_b)
    accounts.count("random_pairs", int(is_random.sum()))
    accounts.count("short_visits", block.num_short)
    accounts.count("tokens_in_a", num_a)
    accounts.count("tokens_in_b", num_b)
    accounts.count("tokens_in_random_b", num_random)
    accounts.count("tokens_truncated", block.num_truncated)
    num_whole = int(pairs["b_whole"][is_random].sum())
    accounts.count("tokens_truncated_of_random_b", num_whole - num_random)


def _count_masks(accounts: Accounts, instances: Instances, masks: Masks, mask_id: int) -> None:
    """Enter how many tokens are predicted, and what stands in their places."""
    num_masked = len(masks.positions)
    num_mask, num_kept = count_replacements(instances, masks, mask_id)
    accounts.count("masked_tokens", num_masked)
    accounts.count("masked_by_mask", num_mask)
    accounts.count("masked_by_themselves", num_kept)
    accounts.count("masked_by_random_tokens", num_masked - num_mask - num_kept)
