"""What the options of a build come to, for a token folder and its tokenizer."""

from dataclasses import dataclass

import numpy as np

from tokkit.instances.config import BuildConfig
from tokkit.instances.control import find_end_of_text, find_sentinels
from tokkit.instances.documents import DocumentReader
from tokkit.instances.masks import MaskOptions
from tokkit.instances.packs import PackOptions, SpanNoise, size_block
from tokkit.instances.pairs import PairOptions
from tokkit.shards.schema import Header
from tokkit.vocab.tokenizer import Tokenizer

TARGETS = {"span-corruption": "target_ids", "plm": "target_positions"}


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
    return BuildContext(
        reader=reader,
        eval_fraction=eval_fraction,
        header=header,
        objective=config.objective,
        targets=TARGETS.get(config.objective),
        seed=np.uint64(config.seed),
        pairs=_pair_options(config, tokenizer) if config.is_paired else None,
        packs=None if config.is_paired else _pack_options(config, tokenizer, header),
        masks=MaskOptions.make(config, config.seed, tokenizer, header)
        if config.masking == "static"
        else None,
        compression=config.compression,
    )


def _pair_options(config: BuildConfig, tokenizer: Tokenizer) -> PairOptions:
    return PairOptions(
        max_seq_length=config.max_seq_length,
        short_seq_prob=config.short_seq_prob,
        drop_single=config.objective == "sop" or config.single_sentence == "drop",
        swap=config.objective == "sop",
        seed=np.uint64(config.seed),
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
        sentinel_ids = np.array(find_sentinels(tokenizer, num_spans), header.id_dtype)
        noise = SpanNoise(room, num_noise, num_spans, sentinel_ids, find_end_of_text(tokenizer))
    else:
        gap_id = find_end_of_text(tokenizer)
        if config.objective == "plm":
            room, suffix = room - 2, [special["sep"], special["cls"]]
    return PackOptions(
        packing=packing,
        room=room,
        gap_id=gap_id,
        prefix=np.array(prefix, header.id_dtype),
        suffix=np.array(suffix, header.id_dtype),
        seed=np.uint64(config.seed),
        noise=noise,
        one_in=config.predict_one_in if config.objective == "plm" else None,
    )
