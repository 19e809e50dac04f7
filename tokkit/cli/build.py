"""``tokkit build``: make training instances from token shards."""

from pathlib import Path
from typing import Any

import click

from tokkit.cli.options import config_option, work_options
from tokkit.cli.report import print_manifest
from tokkit.instances.config import (
    COMPRESSIONS,
    MASKINGS,
    OBJECTIVES,
    RANDOM_TOKENS,
    SINGLE_SENTENCE,
    BuildConfig,
)


@click.command()
@click.argument("tokens", type=click.Path(path_type=Path))
@config_option(BuildConfig, "output", "Instance folder to write.", flags=("-o", "--output"))
@config_option(BuildConfig, "objective", "What an instance is.", choices=OBJECTIVES)
@config_option(
    BuildConfig, "max_seq_length", "Longest instance in tokens, [CLS] and [SEP] among them."
)
@config_option(BuildConfig, "short_seq_prob", "How often a document gives shorter instances.")
@config_option(
    BuildConfig,
    "single_sentence",
    "Documents of one sentence give a random pair, or are dropped.",
    choices=SINGLE_SENTENCE,
)
@config_option(BuildConfig, "dupe_factor", "Passes over the corpus, each with other draws.")
@config_option(
    BuildConfig, "masking", "Mask here, or in the loader at each epoch.", choices=MASKINGS
)
@config_option(BuildConfig, "masked_lm_prob", "Share of the tokens that are predicted.")
@config_option(
    BuildConfig,
    "max_predictions_per_seq",
    "Most predictions in one instance.",
    default_text="max-seq-length x masked-lm-prob, rounded up",
)
@config_option(
    BuildConfig,
    "random_tokens",
    "Random replacements: no control and unused entries, or all entries as google-research/bert.",
    choices=RANDOM_TOKENS,
)
@config_option(BuildConfig, "eval_fraction", "Share of the documents held out for evaluation.")
@config_option(BuildConfig, "seed", "Of every draw.")
@config_option(BuildConfig, "compression", "Of the shards.", choices=COMPRESSIONS)
@config_option(BuildConfig, "unit_tokens", "About how many tokens make one shard.")
@work_options(BuildConfig)
def build(*, as_json: bool, **options: Any) -> None:
    """Pair segments of TOKENS into training instances.

    TOKENS is a folder that encode wrote. Running the same command again goes on where the last one stopped.
    """
    config = BuildConfig(**options)
    from tokkit.instances.build import build as run

    print_manifest(config.output, run(config), as_json=as_json)
