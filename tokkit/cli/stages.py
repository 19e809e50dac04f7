"""``tokkit train``, ``encode`` and ``build``: commands of the stages that work on units."""

from dataclasses import replace
from typing import TYPE_CHECKING

import click

from tokkit.cli.command_options import stage_command
from tokkit.cli.output import print_manifest, print_step, print_training
from tokkit.cli.streams import name_next
from tokkit.corpus.corpus_config import CorpusConfig
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.local import import_single_threaded
from tokkit.engine.stage_config import StageConfig
from tokkit.instances.build_config import BuildConfig
from tokkit.options import Config
from tokkit.vocab.train_config import TrainConfig

if TYPE_CHECKING:
    from tokkit.engine.stage import Stage


@stage_command(TrainConfig)
def train(config: TrainConfig, *, as_json: bool) -> None:
    """Learn a WordPiece, BPE or unigram vocabulary from INPUT.

    INPUT is a file, folder, glob or URI, or - for standard input: plain text, JSON, CSV, TSV,
    Parquet, Arrow, or with --format counts what --save-counts wrote; text also compressed as .gz,
    .zst, .bz2, .xz or .lz4.
    """
    import_single_threaded()
    from tokkit.vocab.train import make_train_stage
    from tokkit.vocab.train import train as run

    if config.is_step:
        take_step(config, make_train_stage(config), as_json=as_json)
        return
    print_training(config.output, run(config), as_json=as_json)
    if config.format == "counts":
        name_next("report", config.output)
        return
    read_as = _format_options(config, CorpusConfig)
    name_next("encode", *config.inputs, "-t", config.output, "-o", "tokens", *read_as)


@stage_command(EncodeConfig)
@click.option("--stats", "show_stats", is_flag=True, help="Print speed and cache hit rates.")
def encode(config: EncodeConfig, *, show_stats: bool, as_json: bool) -> None:
    """Encode INPUT into Arrow shards of token ids, one document per row.

    INPUT is a file, folder, glob or URI, or - for standard input: plain text, JSON, CSV, TSV,
    Parquet or Arrow; text also compressed as .gz, .zst, .bz2, .xz or .lz4. Run the same command
    again to resume.
    """
    import_single_threaded()
    from tokkit.encoding.encode import choose_workers, make_encode_stage
    from tokkit.encoding.encode import encode as run
    from tokkit.encoding.encode_unit import EncodeStats

    if config.is_step:
        stage = make_encode_stage(config)
        workers = choose_workers(config, stage)
        take_step(replace(config, workers=workers), stage, as_json=as_json)
        return
    stats = EncodeStats() if show_stats else None
    print_manifest(config.output, run(config, stats), as_json=as_json, stats=stats)
    name_next("build", config.output, "-o", "instances")


@stage_command(BuildConfig)
def build(config: BuildConfig, *, as_json: bool) -> None:
    """Make training instances from TOKENS.

    TOKENS is a folder that encode wrote. Its sentences are paired or packed, and tokens are masked
    if masking is static. Run the same command again to resume.
    """
    import_single_threaded()
    from tokkit.instances.build import build as run
    from tokkit.instances.build import make_build_stage

    if config.is_step:
        take_step(config, make_build_stage(config), as_json=as_json)
        return
    print_manifest(config.output, run(config), as_json=as_json)
    name_next("pretrain", config.output, "-o", "run")


def _format_options(config: Config, declared: type[Config]) -> list[str]:
    """Return the options of a base class that are not their defaults, as on a command line."""
    arguments: list[str] = []
    for name, option in declared.options.items():
        value = getattr(config, name)
        if option.argument or value == option.default:
            continue
        if isinstance(value, bool):
            arguments.append(option.flag.split("/")[not value])
            continue
        parts = value if isinstance(value, tuple) else (value,)
        arguments += [text for part in parts for text in (option.flag, str(part))]
    return arguments


def take_step(config: StageConfig, stage: "Stage", *, as_json: bool) -> None:
    """Take one step of an array job, and print its result."""
    from tokkit.engine.stage import run_step

    print_step(stage.output, run_step(stage, config), as_json=as_json)
