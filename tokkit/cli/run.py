"""``tokkit run``: all stages of a recipe."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from tokkit.cli.build import build
from tokkit.cli.encode import encode
from tokkit.cli.options import import_single_threaded, read_table
from tokkit.cli.pretrain import pretrain
from tokkit.cli.recipe import STAGES, Recipe, read_recipe
from tokkit.cli.train import train
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.errors import UsageError
from tokkit.instances.build_config import BuildConfig
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.vocab.train_config import TrainConfig

StageConfig = TrainConfig | EncodeConfig | BuildConfig | PretrainConfig
Step = Callable[[], object]

TOP_ANSWERS = 5


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--from", "first", type=click.Choice(STAGES), help="Begin with this stage.")
@click.option("--until", "last", type=click.Choice(STAGES), help="End with this stage.")
@click.option("--workers", type=int, help="Processes of every stage, over what the recipe says.")
@click.option("--overwrite", is_flag=True, help="Make anew what another run left in the outputs.")
@click.option(
    "--progress/--no-progress", default=True, show_default=True, help="Bars on a terminal."
)
def run(
    recipe: Path,
    first: str | None,
    last: str | None,
    *,
    workers: int | None,
    overwrite: bool,
    progress: bool,
) -> None:
    """Run all stages of RECIPE, a TOML file.

    Each stage goes on where it stopped, or is skipped if it is up to date.
    """
    read = read_recipe(recipe)
    stages = choose_stages(read, first, last)
    common: dict[str, Any] = {"overwrite": overwrite, "progress": progress}
    if workers is not None:
        common["workers"] = workers
    steps = {stage: plan_step(read, stage, common) for stage in stages}
    import_single_threaded()
    has_examples = bool(read.examples) and "pretrain" in stages
    if has_examples:
        check_examples(read, stages)
    rows = []
    for stage, step in steps.items():
        folder = read.folder(stage)
        click.echo(f"tokkit: {stage}: {announce(read, stage)}", err=True)
        before, started = newest_change(folder), time.monotonic()
        step()
        if has_examples and stage == "build":
            check_examples(read, ("pretrain",))
        seconds = time.monotonic() - started
        fresh = newest_change(folder) != before
        rows.append((stage, folder, f"{seconds:.1f} s" if fresh else "up to date"))
    print_summary(rows)
    if rows[-1][0] == "pretrain" and rows[-1][2] != "up to date":
        print_examples(read)


def choose_stages(recipe: Recipe, first: str | None, last: str | None) -> tuple[str, ...]:
    """The recipe's stages from ``first`` to ``last``."""
    begin = STAGES.index(first) if first else 0
    end = STAGES.index(last) if last else len(STAGES) - 1
    chosen = tuple(stage for stage in recipe.stages if begin <= STAGES.index(stage) <= end)
    if not chosen:
        raise UsageError(
            f"{recipe.path}: no stage from {first or 'the first'} until {last or 'the last'}"
        )
    return chosen


def announce(recipe: Recipe, stage: str) -> str:
    """What is said before a stage begins: the command that will run, or where it writes."""
    if stage == "corpus":
        return f"{recipe.command} > {recipe.inputs[0]}"
    return str(recipe.folder(stage))


def plan_step(recipe: Recipe, stage: str, common: Mapping[str, Any]) -> Step:
    """Check a stage's options now, and return what runs it later."""
    if stage == "corpus":
        return lambda: _run_corpus(recipe, common)
    config = stage_config(recipe, stage, common)
    return lambda: _run_stage(stage, config)


def _run_corpus(recipe: Recipe, common: Mapping[str, Any]) -> None:
    from tokkit.engine.command import save_output

    save_output(
        str(recipe.command),
        Path(recipe.inputs[0]),
        overwrite=common["overwrite"],
        progress=common["progress"],
    )


def stage_config(recipe: Recipe, stage: str, common: Mapping[str, Any]) -> StageConfig:
    """The config of one stage: the paths that connect it, its table, and what the command says."""
    command, config, paths = _declaration(recipe, stage)
    options = read_table(command, recipe.tables[stage], f"{recipe.path}, [{stage}]")
    fields = {field.name for field in dataclasses.fields(config)}
    shared = {name: value for name, value in common.items() if name in fields}
    made = config(**{**paths, "output": recipe.folder(stage), **options, **shared})
    made.require_effect(options)
    return made


def _declaration(
    recipe: Recipe, stage: str
) -> tuple[click.Command, type[StageConfig], dict[str, Any]]:
    """A stage's command, which declares its options, its config, and the paths into it."""
    if stage == "train":
        return train, TrainConfig, {"inputs": recipe.inputs}
    if stage == "encode":
        tokenizer = recipe.folder("train")
        return encode, EncodeConfig, {"inputs": recipe.inputs, "tokenizer": tokenizer}
    if stage == "build":
        return build, BuildConfig, {"tokens": recipe.folder("encode")}
    return pretrain, PretrainConfig, {"instances": (recipe.folder("build"),)}


def _run_stage(stage: str, config: StageConfig) -> object:
    import tokkit

    return getattr(tokkit, stage)(config)


def newest_change(folder: Path) -> int:
    """Time stamp of what a stage writes last, to see whether it did anything."""
    last = [folder / "manifest.json", folder / "training.json"]
    return max((path.stat().st_mtime_ns for path in last if path.is_file()), default=0)


def check_examples(recipe: Recipe, stages: Sequence[str]) -> None:
    """Refuse examples in which the trained model would find no mask.

    Before the first stage that is told from the tokenizer, or from the options of the one that is
    still to be trained, and after ``build`` from the one that the instances have.

    Args:
        recipe: with examples.
        stages: that are still to be run.

    Raises:
        UsageError: naming the example.
        TokkitError: where the tokenizer lacks a special token.
    """
    from tokkit.tokenizer.masked_text import encode_masked, split_at_masks
    from tokkit.tokenizer.special_tokens import ROLES
    from tokkit.tokenizer.tokenizer import load_tokenizer

    config = stage_config(recipe, "train" if "train" in stages else "encode", {})
    if isinstance(config, TrainConfig):
        masks = [token for token in ROLES["mask"] if token in config.special_tokens]
        if not masks:
            raise UsageError(
                f"{recipe.path}: examples need {' or '.join(ROLES['mask'])} among special-token "
                f"of [train]"
            )
        for example in recipe.examples:
            split_at_masks(example, masks[0])
        return
    path = recipe.folder("build") / "tokenizer"
    if isinstance(config, EncodeConfig) and "build" in stages:
        path = config.tokenizer
    if path.exists():
        tokenizer = load_tokenizer(path)
        for example in recipe.examples:
            encode_masked(tokenizer, example)


def print_summary(rows: list[tuple[str, Path, str]]) -> None:
    """Where everything lies, and what each stage took."""
    click.echo()
    width = max(len(str(folder)) for _, folder, _ in rows)
    for stage, folder, took in rows:
        click.echo(f"{stage:<9}  {folder!s:<{width}}  {took:>10}")


def print_examples(recipe: Recipe) -> None:
    """Ask the trained model the recipe's examples."""
    from tokkit.pretraining.models.predict import fill_mask

    for example in recipe.examples:
        click.echo(f"\n{example}")
        for answers in fill_mask(recipe.folder("pretrain") / "export", example, TOP_ANSWERS):
            click.echo("  " + "  ".join(f"{token} {share:.0%}" for token, share in answers))
