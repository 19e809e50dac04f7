"""``tokkit encode``: turn text into shards of token ids."""

import click

from tokkit.cli.command_options import import_single_threaded, stage_command
from tokkit.cli.output import print_manifest
from tokkit.encoding.encode_config import EncodeConfig


@stage_command(EncodeConfig)
@click.option("--stats", "show_stats", is_flag=True, help="Print speed and cache hit rates.")
def encode(config: EncodeConfig, *, show_stats: bool, as_json: bool) -> None:
    """Encode INPUT into Arrow shards of token ids, a document a row.

    INPUT is a file, folder, glob or URI, or - for standard input: plain text, JSON, CSV, TSV,
    Parquet or Arrow; text also compressed as .gz, .zst, .bz2, .xz or .lz4. Run the same command
    again to resume.
    """
    import_single_threaded()
    from tokkit.encoding.encode import encode as run
    from tokkit.encoding.encode_unit import EncodeStats

    stats = EncodeStats() if show_stats else None
    print_manifest(config.output, run(config, stats), as_json=as_json, stats=stats)
