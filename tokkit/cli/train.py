"""``tokkit train``: learn a vocabulary."""

from typing import Any

import click

from tokkit.cli.options import (
    Size,
    Weight,
    config_option,
    corpus_options,
    gather_weights,
    keep_one_thread,
    work_options,
)
from tokkit.cli.output import print_training
from tokkit.vocab.train_config import MODELS, SCORES, TrainConfig


@click.command()
@corpus_options(TrainConfig)
@config_option(TrainConfig, "output", "Tokenizer folder to write.", flags=("-o", "--output"))
@config_option(TrainConfig, "model", "What kind of vocabulary.", choices=MODELS)
@config_option(
    TrainConfig,
    "score",
    "Merge the most frequent pair, or the one that makes the corpus most likely (wordpiece).",
    choices=SCORES,
)
@config_option(TrainConfig, "vocab_size", "Entries, the special tokens among them.")
@config_option(TrainConfig, "min_frequency", "How often a pair must occur to be merged.")
@config_option(TrainConfig, "min_word_count", "Words that occur less often are not learned from.")
@config_option(TrainConfig, "limit_alphabet", "Distinct characters kept (wordpiece).")
@config_option(
    TrainConfig,
    "initial_alphabet",
    "A file whose characters are entries, whether they occur or not.",
    default_text="none",
)
@config_option(
    TrainConfig,
    "max_token_length",
    "Characters that an entry has at most.",
    default_text="any; 16 for unigram",
)
@config_option(
    TrainConfig,
    "special_tokens",
    "A control token; repeat it for each, in the order of their ids.",
    flags=("--special-token",),
)
@config_option(TrainConfig, "unused", "How many entries [unused0], [unused1] ... are kept free.")
@config_option(
    TrainConfig, "cased", "Keep upper case (wordpiece, unigram).", flags=("--cased/--uncased",)
)
@config_option(
    TrainConfig,
    "strip_accents",
    "Remove combining marks (wordpiece).",
    flags=("--strip-accents/--keep-accents",),
    default_text="strip where uncased, as BERT does",
)
@config_option(
    TrainConfig, "split_digits", "Each digit is a word of its own.", flags=("--split-digits",)
)
@config_option(
    TrainConfig,
    "byte_fallback",
    "Bytes are entries, for characters that are not (unigram).",
    flags=("--byte-fallback",),
)
@config_option(
    TrainConfig,
    "weights",
    "How often the words of an INPUT count, as in books.txt=2.0; repeat it for others.",
    flags=("--weight",),
    value_type=Weight(),
    gather=gather_weights,
)
@config_option(TrainConfig, "held_out", "Share of the documents kept for the report alone.")
@config_option(
    TrainConfig,
    "memory",
    "What counting takes at most, as 512MB or 4GiB; the rest goes to disk.",
    value_type=Size(),
    default_text="2GiB",
)
@config_option(
    TrainConfig, "save_counts", "A file to write words and counts to.", default_text="none"
)
@config_option(
    TrainConfig, "compare", "Another tokenizer to put beside this one in the report; repeat it."
)
@work_options(TrainConfig, workers="Processes that count; the vocabulary does not depend on them.")
def train(*, as_json: bool, **options: Any) -> None:
    """Learn a WordPiece, BPE or unigram vocabulary from INPUT.

    INPUT is a file, folder, glob or URI, or - for standard input: plain text, JSON lines, Parquet
    or Arrow, also compressed as .gz, .zst, .bz2 or .lz4.
    """
    config = TrainConfig(**options)
    keep_one_thread()
    from tokkit.vocab.train import train as run

    print_training(config.output, run(config), as_json=as_json)
