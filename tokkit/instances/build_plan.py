"""The plan of a build: what its options amount to, and which unit makes which shard.

A unit is a run of the token folder's record batches in one pass, for one split. With four record
batches of 10 tokens, units of 20, two passes and half of the documents held out:

    train-0000000    pass 0    record batches 0, 1
    train-0000001    pass 0    record batches 2, 3
    train-0000002    pass 1    record batches 0, 1
    train-0000003    pass 1    record batches 2, 3
    eval-0000000     pass 0    record batches 0, 1, 2, 3

Held-out documents are passed over once, in longer runs, since few of each are used. The plan depends
on the folder's manifest and the options alone, so that it takes no longer for a folder on a store.

Random segments come from the whole folder where it has at most 32 record batches. Else a unit draws
32 of them, so that it reads a bounded part of a folder of any size: the documents of the split, in
their order, are cut into 32 equal parts, and a record batch is that of a random document of each. A
segment is from a random document of a random one of these, so every document is equally likely.
With 2 in place of 32, and documents 0 to 9 in batches of 1, 4, 3 and 2:

    0 │ 1 2 3 4 │ 5 6 7 │ 8 9      parts 0 to 4 and 5 to 9; drawn: 3 and 8, so batches 1 and 3
                                   document 2:  1/2 by the first part, 4/5 by batch 1, 1/4 by itself
                                   document 8:  1/2 by the second, 2/5 by batch 3, 1/2 by itself
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokkit.engine.unit import Unit
from tokkit.errors import TokkitError, plural
from tokkit.instances.build_config import BuildConfig
from tokkit.instances.document_reader import DocumentReader, Int64, SourceRanges, Split
from tokkit.instances.packs import PackOptions, SpanNoise, size_block
from tokkit.instances.pairs import PairOptions
from tokkit.instances.translations import TranslationOptions
from tokkit.kernels.instances.pair_sentences import draw_strata
from tokkit.kernels.philox import SOURCE_RANGES, stream_of
from tokkit.masking.masks import MaskOptions
from tokkit.shards.objectives import OBJECTIVES
from tokkit.shards.reader import BatchRef
from tokkit.shards.schema import Header
from tokkit.tokenizer.tokenizer import Tokenizer

MAX_DOCUMENTS = 1 << 32  # a pair's draws name its document in 40 bits, and bounds have 32
NUM_SOURCE_RANGES = 32  # record batches that a unit's random segments come from


@dataclass(frozen=True)
class BuildContext:
    """What all units need; picklable.

    Attributes:
        config: of the stage.
        reader: of the token folder.
        header: of the shards.
        eval_fraction: share of the documents that is held out.
        held_out_before: int64, number of held-out documents before each record batch, and of all.
        options: how documents become pairs, packed sequences or translations.
        masks: how instances are masked; None leaves that to the loader.
    """

    config: BuildConfig
    reader: DocumentReader
    header: Header
    eval_fraction: float
    held_out_before: Int64
    options: PairOptions | PackOptions | TranslationOptions
    masks: MaskOptions | None

    @property
    def seed(self) -> np.uint64:
        """Random seed."""
        return np.uint64(self.config.seed)

    def split(self, *, held_out: bool) -> Split:
        """The documents to train on, or those held out."""
        return Split(held_out, self.eval_fraction, self.seed)

    def draw_source_ranges(self, unit: "BuildUnit") -> SourceRanges:
        """The record batches that a unit's random segments come from."""
        if len(self.reader.refs) <= NUM_SOURCE_RANGES:
            return self.reader.whole_range()
        before = self.held_out_before
        if not unit.held_out:
            before = self.reader.starts - before
        ranks = np.empty(NUM_SOURCE_RANGES, np.uint64)
        stream = stream_of(SOURCE_RANGES, unit.number)
        index = np.uint64(unit.start << 1 | unit.held_out)
        draw_strata(np.uint64(before[-1]), self.seed, stream, index, ranks)
        return self.reader.ranges_of(
            np.searchsorted(before, ranks.astype(np.int64), side="right") - 1
        )


@dataclass(frozen=True)
class BuildUnit:
    """The work of one unit.

    Attributes:
        number: of the pass over the corpus.
        start: the first record batch.
        stop: the one after the last.
        size: number of tokens, approximately, for the progress bar.
        held_out: the split is that for evaluation.
    """

    number: int
    start: int
    stop: int
    size: int
    held_out: bool


def make_context(
    config: BuildConfig,
    reader: DocumentReader,
    tokenizer: Tokenizer,
    translations: DocumentReader | None = None,
) -> BuildContext:
    """Work out the context of a build.

    Raises:
        TokkitError: there are too few documents, or too many, or the tokenizer has too few
            sentinels.
    """
    header = Header(
        kind="instances",
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        max_seq_length=config.max_seq_length,
    )
    options: PairOptions | PackOptions | TranslationOptions
    if translations is not None:
        end_id = tokenizer.end_of_text_id()
        options = TranslationOptions(translations, config.max_seq_length, end_id)
    elif OBJECTIVES[config.objective].has_pairs:
        options = _pair_options(config, tokenizer)
    else:
        options = _pack_options(config, tokenizer, header)
    is_static = config.masking == "static"
    held_out_before, eval_fraction = _hold_out(config, reader)
    masks = MaskOptions.make(config, tokenizer, header) if is_static else None
    return BuildContext(config, reader, header, eval_fraction, held_out_before, options, masks)


def _hold_out(config: BuildConfig, reader: DocumentReader) -> tuple[Int64, float]:
    """The documents held out before each record batch, and their share of all.

    The share is as configured, or 0 where that is too few of them. A split of pairs needs two
    documents, since a random segment is from another one; else one.
    """
    fewest = 2 if config.objective == "nsp" else 1
    total = reader.num_documents
    folder = reader.folder.path
    if total > MAX_DOCUMENTS:
        raise TokkitError(
            f"{folder}: {total} documents, more than {MAX_DOCUMENTS}; "
            f"split the corpus into several token folders"
        )
    if total < fewest:
        raise TokkitError(
            f"{folder}: has {total} document, and a random segment must come from another one; "
            f"split the text into documents with encode --documents line or blank-line, or build "
            f"with --objective sop or mlm"
        )
    before = np.zeros(len(reader.starts), np.int64)
    if config.eval_fraction:
        fraction, seed = config.eval_fraction, np.uint64(config.seed)
        before = reader.count_before(Split(held_out=True, eval_fraction=fraction, seed=seed))
    num_held_out = int(before[-1])
    if num_held_out < fewest or total == 1:
        return np.zeros_like(before), 0.0
    if total - num_held_out < fewest:
        raise TokkitError(
            f"{folder}: --eval-fraction {config.eval_fraction} leaves {total - num_held_out} of "
            f"{plural(total, 'document')} to train on, but {fewest} are needed; pass a smaller one, or 0"
        )
    return before, config.eval_fraction


def _pair_options(config: BuildConfig, tokenizer: Tokenizer) -> PairOptions:
    return PairOptions(
        max_seq_length=config.max_seq_length,
        short_seq_prob=config.short_seq_prob,
        drop_single=config.objective == "sop" or config.single_sentence == "drop",
        swap=config.objective == "sop",
        cls_id=tokenizer.special_ids["cls"],
        sep_id=tokenizer.special_ids["sep"],
    )


def _pack_options(config: BuildConfig, tokenizer: Tokenizer, header: Header) -> PackOptions:
    special, length = tokenizer.special_ids, config.max_seq_length
    if config.objective == "mlm":
        ends = (special["cls"],), (special["sep"],)
        return PackOptions(config.packing, length - 2, special["sep"], *ends)
    end_id = tokenizer.end_of_text_id()
    if config.objective == "span-corruption":
        sizes = size_block(length, config.noise_density, config.mean_noise_span_length)
        block_tokens, _, num_spans = sizes
        sentinel_ids = np.array(tokenizer.sentinel_ids(num_spans), header.id_dtype)
        return PackOptions("blocks", block_tokens, noise=SpanNoise(*sizes, sentinel_ids, end_id))
    if config.objective == "plm":
        suffix = (special["sep"], special["cls"])
        every = config.predict_one_in
        return PackOptions("blocks", length - 2, end_id, suffix=suffix, predict_every=every)
    return PackOptions("blocks", length, end_id)


def plan_build(config: BuildConfig, context: BuildContext) -> list[Unit]:
    """Plan every unit, in the order of the shards."""
    reader, options = context.reader, context.options
    content = hashlib.sha256()  # of all that a unit may read: any document may give a segment
    others = [options.reader] if isinstance(options, TranslationOptions) else []
    for side in (reader, *others):
        for row in side.folder.manifest.shards:
            content.update(row["sha256"].encode())
    if isinstance(options, PackOptions):
        content.update(b"2")  # in version 1, the last sequence of a unit went on in the next one
    planned = []
    for held_out, share in ((False, 1.0), (True, context.eval_fraction)):
        if not share:
            continue
        runs = _cut_runs(reader.refs, int(config.unit_tokens / share))
        units = [
            BuildUnit(number, start, stop, max(1, int(tokens * share)), held_out)
            for number in range(1 if held_out else config.dupe_factor)
            for start, stop, tokens in runs
        ]
        planned += [
            _describe_unit(reader, content.hexdigest(), index, unit)
            for index, unit in enumerate(units)
        ]
    return planned


def _cut_runs(refs: Sequence[BatchRef], num_tokens: int) -> list[tuple[int, int, int]]:
    """Cut record batches into runs of at least ``num_tokens``: first, end, tokens of each."""
    runs = []
    start = tokens = 0
    for stop, ref in enumerate(refs, 1):
        tokens += ref.tokens
        if tokens >= num_tokens or stop == len(refs):
            runs.append((start, stop, tokens))
            start, tokens = stop, 0
    return runs


def _describe_unit(reader: DocumentReader, content: str, index: int, unit: BuildUnit) -> Unit:
    split = "eval" if unit.held_out else "train"
    return Unit(
        name=f"{reader.folder.path}, record batches {unit.start} to {unit.stop}, "
        f"pass {unit.number}, {split}",
        shard=f"{split}-{index:07d}.arrow",
        identity={
            "tokens": content,
            "split": split,
            "pass": unit.number,
            "start": unit.start,
            "stop": unit.stop,
        },
        stamp=0,
        size=unit.size,
        payload=unit,
    )
