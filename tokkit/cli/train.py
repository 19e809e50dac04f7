"""``tokkit train``: learn a vocabulary."""

from typing import Any

import click

from tokkit.cli.options import config_option, corpus_options, work_options
from tokkit.cli.report import print_training
from tokkit.vocab.config import MODELS, TrainConfig


@click.command()
@corpus_options(TrainConfig)
@config_option(TrainConfig, "output", "Tokenizer folder to write.", flags=("-o", "--output"))
@config_option(TrainConfig, "model", "What kind of vocabulary.", choices=MODELS)
@config_option(TrainConfig, "vocab_size", "Entries, the special tokens among them.")
@config_option(TrainConfig, "min_frequency", "How often a pair must occur to be merged.")
@config_option(TrainConfig, "limit_alphabet", "Distinct characters kept (wordpiece).")
@config_option(
    TrainConfig,
    "special_tokens",
    "A control token; repeat it for each, in the order of their ids.",
    flags=("--special-token",),
)
@config_option(TrainConfig, "cased", "Keep upper case (wordpiece).", flags=("--cased/--uncased",))
@config_option(
    TrainConfig,
    "strip_accents",
    "Remove combining marks (wordpiece).",
    flags=("--strip-accents/--keep-accents",),
    default_text="strip where uncased, as BERT does",
)
@work_options(
    TrainConfig, workers="Threads of the trainer; the vocabulary does not depend on them."
)
def train(*, as_json: bool, **options: Any) -> None:
    """Learn a WordPiece or BPE vocabulary from INPUT.

    INPUT is a file, folder, glob or URI, or - for standard input: plain text, JSON lines, Parquet
    or Arrow, also compressed as .gz, .zst, .bz2 or .lz4.
    """
    config = TrainConfig(**options)
    from tokkit.vocab.train import train as run

    print_training(config.output, run(config), as_json=as_json)
