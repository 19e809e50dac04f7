"""``tokkit train``: learn a vocabulary."""

from tokkit.cli.command_options import import_single_threaded, stage_command
from tokkit.cli.output import print_training
from tokkit.vocab.train_config import TrainConfig


@stage_command(TrainConfig)
def train(config: TrainConfig, *, as_json: bool) -> None:
    """Learn a WordPiece, BPE or unigram vocabulary from INPUT.

    INPUT is a file, folder, glob or URI, or - for standard input: plain text, JSON, CSV, TSV,
    Parquet, Arrow, or with --format counts what --save-counts wrote; text also compressed as .gz,
    .zst, .bz2, .xz or .lz4.
    """
    import_single_threaded()
    from tokkit.vocab.train import train as run

    print_training(config.output, run(config), as_json=as_json)
