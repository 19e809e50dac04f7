"""``tokkit build``: make training instances from token shards."""

from pathlib import Path
from typing import Any

import click

from tokkit.cli.options import config_option, keep_one_thread, mask_options, work_options
from tokkit.cli.output import print_manifest
from tokkit.instances.build_config import MASKINGS, PACKINGS, SINGLE_SENTENCE, BuildConfig
from tokkit.shards import COMPRESSIONS
from tokkit.shards.objectives import OBJECTIVES


@click.command()
@click.argument("tokens", type=click.Path(path_type=Path))
@config_option(BuildConfig, "output", "Instance folder to write.", flags=("-o", "--output"))
@config_option(
    BuildConfig,
    "objective",
    "BERT's pairs, ALBERT's, RoBERTa's sequences, GPT's blocks, T5's spans, XLNet's permutations.",
    choices=tuple(OBJECTIVES),
)
@config_option(
    BuildConfig, "max_seq_length", "Longest instance in tokens, control tokens among them."
)
@config_option(BuildConfig, "short_seq_prob", "nsp, sop: how often a document gives shorter ones.")
@config_option(
    BuildConfig,
    "single_sentence",
    "nsp: documents of one sentence give a random pair, or are dropped.",
    choices=SINGLE_SENTENCE,
)
@config_option(
    BuildConfig,
    "packing",
    "mlm: go on with the next document, or begin anew with each.",
    choices=PACKINGS,
)
@config_option(BuildConfig, "noise_density", "span-corruption: share of the tokens.")
@config_option(BuildConfig, "mean_noise_span_length", "span-corruption: tokens of a span.")
@config_option(BuildConfig, "predict_one_in", "plm: one token in so many is predicted.")
@config_option(BuildConfig, "dupe_factor", "Passes over the corpus, each with other draws.")
@config_option(
    BuildConfig, "masking", "Mask here, or in the loader at each epoch.", choices=MASKINGS
)
@mask_options(BuildConfig)
@config_option(BuildConfig, "eval_fraction", "Share of the documents held out for evaluation.")
@config_option(BuildConfig, "seed", "Of every draw.")
@config_option(BuildConfig, "compression", "Of the shards.", choices=COMPRESSIONS)
@config_option(BuildConfig, "unit_tokens", "About how many tokens make one shard.")
@work_options(BuildConfig)
def build(*, as_json: bool, **options: Any) -> None:
    """Make training instances of TOKENS: pair or pack them, mask them.

    TOKENS is a folder that encode wrote. Running the same command again goes on where the last one stopped.
    """
    config = BuildConfig(**options)
    keep_one_thread()
    from tokkit.instances.build import build as run

    print_manifest(config.output, run(config), as_json=as_json)
