"""``tokkit encode``: turn text into shards of token ids."""

from typing import Any

import click

from tokkit.cli.options import config_option, corpus_options, keep_one_thread, work_options
from tokkit.cli.output import print_manifest
from tokkit.encoding.encode_config import SENTENCES, EncodeConfig
from tokkit.shards import COMPRESSIONS


@click.command()
@corpus_options(EncodeConfig)
@config_option(
    EncodeConfig,
    "tokenizer",
    "A folder of ours or of Hugging Face, a tokenizer.json, vocab.txt or sentencepiece model.",
    flags=("-t", "--tokenizer"),
)
@config_option(EncodeConfig, "output", "Token folder to write.", flags=("-o", "--output"))
@config_option(EncodeConfig, "sentences", "How documents fall into sentences.", choices=SENTENCES)
@config_option(EncodeConfig, "language", "ISO 639 code, for --sentences auto.")
@config_option(EncodeConfig, "language_field", "Field of a record that holds its language.")
@config_option(EncodeConfig, "compression", "Of the shards.", choices=COMPRESSIONS)
@config_option(EncodeConfig, "unit_bytes", "About how much of a large file makes one shard.")
@click.option("--stats", "show_stats", is_flag=True, help="Print speed and hit rates as well.")
@work_options(EncodeConfig)
def encode(*, show_stats: bool, as_json: bool, **options: Any) -> None:
    """Encode INPUT into Arrow shards of token ids.

    A row is a document. INPUT is a file, folder, glob or URI, or - for standard input: plain text, JSON lines, Parquet
    or Arrow, also compressed as .gz, .zst, .bz2 or .lz4. Running the same command again goes on
    where the last one stopped.
    """
    config = EncodeConfig(**options)
    keep_one_thread()
    from tokkit.encoding.encode import encode as run
    from tokkit.encoding.encode_unit import EncodeStats

    stats = EncodeStats() if show_stats else None
    print_manifest(config.output, run(config, stats), as_json=as_json, stats=stats)
