"""The plan of a build: which unit makes which shard.

A unit is a run of the token folder's record batches in one pass, for one split. With four record
batches of 10 tokens, units of 20, two passes and half of the documents held out:

    train-00000    pass 0    record batches 0, 1
    train-00001    pass 0    record batches 2, 3
    train-00002    pass 1    record batches 0, 1
    train-00003    pass 1    record batches 2, 3
    eval-00000     pass 0    record batches 0, 1, 2, 3

What is held out is passed over once, in longer runs, since little of each is used. A unit of packs
also knows how far the sequence is filled that an earlier unit began, and reads on beyond its end
until its own last sequence is full. The plan depends on the folder and the options alone.

What the options of a build come to, for a token folder and its tokenizer.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokkit.engine.unit import Unit
from tokkit.errors import TokkitError
from tokkit.instances.build_config import BuildConfig
from tokkit.instances.document_reader import DocumentReader, Split
from tokkit.instances.packs import PackOptions, SpanNoise, measure_fillings, size_block
from tokkit.instances.pairs import PairOptions
from tokkit.masking.masks import MaskOptions
from tokkit.shards.objectives import OBJECTIVES
from tokkit.shards.reader import BatchRef
from tokkit.shards.schema import Header
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True)
class BuildContext:
    """What every unit needs; picklable.

    Attributes:
        reader: of the token folder.
        eval_fraction: share of the documents that is held out.
        header: of the shards.
        objective: what instances are for.
        targets: the column of targets; None where the objective has none.
        seed: of every draw.
        pairs: how pairs are made; None where instances are packed.
        packs: how they are packed; None where they are pairs.
        masks: how they are masked; None leaves that to the loader.
        compression: of the shards' buffers.
    """

    reader: DocumentReader
    eval_fraction: float
    header: Header
    objective: str
    targets: str | None
    seed: np.uint64
    pairs: PairOptions | None
    packs: PackOptions | None
    masks: MaskOptions | None
    compression: str


def make_context(
    config: BuildConfig, reader: DocumentReader, tokenizer: Tokenizer, eval_fraction: float
) -> BuildContext:
    """Work out the context of a build."""
    header = Header(
        kind="instances",
        tokenizer_fingerprint=tokenizer.fingerprint,
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        max_seq_length=config.max_seq_length,
    )
    is_paired = OBJECTIVES[config.objective].has_pairs
    return BuildContext(
        reader=reader,
        eval_fraction=eval_fraction,
        header=header,
        objective=config.objective,
        targets=OBJECTIVES[config.objective].targets,
        seed=np.uint64(config.seed),
        pairs=_pair_options(config, tokenizer) if is_paired else None,
        packs=None if is_paired else _pack_options(config, tokenizer, header),
        masks=MaskOptions.make(config, tokenizer, header) if config.masking == "static" else None,
        compression=config.compression,
    )


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
    special = tokenizer.special_ids
    packing, room = "blocks", config.max_seq_length
    prefix: list[int] = []
    suffix: list[int] = []
    noise = gap_id = None
    if config.objective == "mlm":
        packing, room, gap_id = config.packing, room - 2, special["sep"]
        prefix, suffix = [special["cls"]], [special["sep"]]
    elif config.objective == "span-corruption":
        room, num_noise, num_spans = size_block(
            room, config.noise_density, config.mean_noise_span_length
        )
        sentinel_ids = np.array(tokenizer.sentinel_ids(num_spans), header.id_dtype)
        noise = SpanNoise(room, num_noise, num_spans, sentinel_ids, tokenizer.end_of_text_id())
    else:
        gap_id = tokenizer.end_of_text_id()
        if config.objective == "plm":
            room, suffix = room - 2, [special["sep"], special["cls"]]
    return PackOptions(
        packing=packing,
        room=room,
        gap_id=gap_id,
        prefix=np.array(prefix, header.id_dtype),
        suffix=np.array(suffix, header.id_dtype),
        noise=noise,
        one_in=config.predict_one_in if config.objective == "plm" else None,
    )


MAX_DOCUMENTS = 1 << 32  # a pair's draws name its document in 40 bits, and bounds have 32
_COUNTED_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class BuildUnit:
    """What one unit does.

    Attributes:
        number: of the pass.
        start: its first record batch.
        stop: the one after its last.
        size: its tokens, about, for the progress bar.
        held_out: for which split.
        filled: of packs: how far a sequence is filled that was begun before.
    """

    number: int
    start: int
    stop: int
    size: int
    held_out: bool
    filled: int = 0


def hold_out_fraction(config: BuildConfig, reader: DocumentReader) -> float:
    """The share of the documents to hold out: as asked, or nothing where that were too few.

    A split of pairs has at least two documents, since a random segment is from another one; else
    one is enough.

    Raises:
        TokkitError: where too few documents are left to train on, or there are too many.
    """
    fewest = 2 if config.objective == "nsp" else 1
    total = reader.num_documents
    folder = reader.folder.path
    if total > MAX_DOCUMENTS:
        raise TokkitError(
            f"{folder}: {total} documents, more than {MAX_DOCUMENTS}; "
            f"cut the corpus into several token folders"
        )
    if total < fewest:
        raise TokkitError(
            f"{folder}: has {total} document, and a random segment must come from another one; "
            f"cut the text into documents with encode --documents line or blank-line, or build "
            f"with --objective sop or mlm"
        )
    num_held_out = _count_held_out(config, total)
    if num_held_out < fewest or total == 1:
        return 0.0
    if total - num_held_out < fewest:
        raise TokkitError(
            f"{folder}: --eval-fraction {config.eval_fraction} leaves {total - num_held_out} of "
            f"{total} documents to train on, and it takes {fewest}; pass a smaller one, or 0"
        )
    return config.eval_fraction


def _count_held_out(config: BuildConfig, num_documents: int) -> int:
    if config.eval_fraction == 0:
        return 0
    split = Split(held_out=True, eval_fraction=config.eval_fraction, seed=np.uint64(config.seed))
    return sum(
        len(split.select(start, min(start + _COUNTED_AT_ONCE, num_documents)))
        for start in range(0, num_documents, _COUNTED_AT_ONCE)
    )


def plan_units(config: BuildConfig, context: BuildContext) -> list[Unit]:
    """Plan every unit, in the order of the shards.

    Args:
        config: the options.
        context: what they come to for the token folder.
    """
    reader = context.reader
    content = _describe_content(reader)
    fillings = _measure_fillings(context, held_out=False)
    runs = cut_runs(reader.refs, config.unit_tokens)
    units = [
        BuildUnit(number, start, stop, tokens, held_out=False, filled=fillings[start])
        for number in range(config.dupe_factor)
        for start, stop, tokens in runs
    ]
    planned = [_make_unit(reader, content, index, unit) for index, unit in enumerate(units)]
    if context.eval_fraction:
        fillings = _measure_fillings(context, held_out=True)
        runs = cut_runs(reader.refs, int(config.unit_tokens / context.eval_fraction))
        for index, (start, stop, tokens) in enumerate(runs):
            size = max(1, int(tokens * context.eval_fraction))
            unit = BuildUnit(0, start, stop, size, held_out=True, filled=fillings[start])
            planned.append(_make_unit(reader, content, index, unit))
    return planned


def _measure_fillings(context: BuildContext, *, held_out: bool) -> list[int]:
    """How far a sequence is filled when each record batch begins; nothing for pairs."""
    if context.packs is None:
        return [0] * len(context.reader.refs)
    split = Split(held_out, context.eval_fraction, context.seed)
    return [*map(int, measure_fillings(context.reader, split, context.packs))]


def cut_runs(refs: Sequence[BatchRef], num_tokens: int) -> list[tuple[int, int, int]]:
    """Cut record batches into runs of at least ``num_tokens``: first, end, tokens of each."""
    runs = []
    start = tokens = 0
    for stop, ref in enumerate(refs, 1):
        tokens += ref.tokens
        if tokens >= num_tokens or stop == len(refs):
            runs.append((start, stop, tokens))
            start, tokens = stop, 0
    return runs


def _describe_content(reader: DocumentReader) -> str:
    """A hash of all that a unit may read: any document may lend a segment."""
    digest = hashlib.sha256()
    for row in reader.folder.manifest.shards:
        digest.update(row["sha256"].encode())
    return digest.hexdigest()


def _make_unit(reader: DocumentReader, content: str, index: int, unit: BuildUnit) -> Unit:
    split = "eval" if unit.held_out else "train"
    return Unit(
        name=f"{reader.folder.path}, record batches {unit.start} to {unit.stop}, "
        f"pass {unit.number}, {split}",
        shard=f"{split}-{index:05d}.arrow",
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
