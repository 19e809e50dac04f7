"""``tokkit run``: run all stages of a recipe."""

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tokkit.cli.command_options import LocalPath, config_options, number_type, read_table
from tokkit.cli.pretrain import pretrain
from tokkit.cli.recipe import Recipe, read_recipe
from tokkit.cli.stages import build, encode, train
from tokkit.cli.streams import echo
from tokkit.encoding.encode_config import EncodeConfig
from tokkit.engine.files import remove_drafts
from tokkit.engine.local import import_single_threaded, share_cluster
from tokkit.engine.stage_config import OutputConfig, StageConfig
from tokkit.errors import TokkitError, UsageError, require
from tokkit.inspection.folder_kinds import FOLDERS, RecipeRecord
from tokkit.inspection.report.report_config import ReportConfig
from tokkit.instances.build_config import BuildConfig
from tokkit.options import Config
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.vocab.train_config import TrainConfig

COMMANDS = {"train": train, "encode": encode, "build": build, "pretrain": pretrain}
STAGES = tuple(FOLDERS)
ENGINE_OPTIONS = ("engine", "ray_address")
ANSWERS_SHOWN = 5


@click.command()
@click.argument("recipe", type=LocalPath())
@click.option("--from", "first", type=click.Choice(STAGES), help="First stage to run.")
@click.option("--until", "last", type=click.Choice(STAGES), help="Last stage to run.")
@click.option(
    "--workers",
    type=number_type(int, 0),
    help="Number of worker processes of every stage, in place of the recipe's.",
)
@config_options(*(replace(StageConfig.options[name], default=None) for name in ENGINE_OPTIONS))
@config_options(*OutputConfig.options.values())
@click.option(
    "--report/--no-report", "has_report", default=True, help="Show all stages on one HTML page."
)
def run(
    recipe: Path,
    first: str | None,
    last: str | None,
    *,
    workers: int | None,
    engine: str | None,
    ray_address: str | None,
    overwrite: bool,
    progress: bool,
    cache: Path | None,
    has_report: bool,
) -> None:
    """Run all stages of RECIPE, a TOML file.

    A stage that is up to date is skipped, and one that was interrupted is resumed.
    """
    plan = read_recipe(recipe, cache)
    stages = choose_stages(plan, first, last)
    shared: dict[str, Any] = {"overwrite": overwrite, "progress": progress, "cache": cache}
    for name, value in (("workers", workers), ("engine", engine), ("ray_address", ray_address)):
        if value is not None:
            require(
                not {"train", "encode", "build"}.isdisjoint(stages),
                f"{StageConfig.options[name].flag} has no effect on {' and '.join(stages)}; leave it out",
            )
            shared[name] = value
    configs = {stage: make_config(plan, stage, shared) for stage in stages if stage in COMMANDS}
    import_single_threaded()
    check_pretraining(configs)
    has_examples = bool(plan.examples) and "pretrain" in stages
    if has_examples:
        check_examples(plan, stages)
    rows = []
    taken: dict[str, float] = {}
    clusters = [config.cluster for config in configs.values() if isinstance(config, StageConfig)]
    with ExitStack() as stack:
        stack.enter_context(share_cluster(clusters))
        for stage in stages:
            folder = plan.folder(stage)
            before, started = _last_change(folder), time.monotonic()
            _run_stage(plan, stage, configs.get(stage), shared, stack)
            if has_examples and stage == "build":
                check_examples(plan, ("pretrain",))
            seconds = time.monotonic() - started
            has_changed = _last_change(folder) != before
            if has_changed:
                taken[stage] = round(seconds, 1)
                if has_report:
                    with suppress(TokkitError):  # is reported at the end
                        _record_times(plan, taken)
            rows.append((stage, str(folder), f"{seconds:.1f} s" if has_changed else "up to date"))
    _print_summary(rows)
    if has_examples and rows[-1][2] != "up to date":
        _print_examples(plan)
    if has_report:
        _write_report(plan, taken)


def choose_stages(recipe: Recipe, first: str | None, last: str | None) -> tuple[str, ...]:
    """Return the recipe's stages from ``first`` to ``last``."""
    start = STAGES.index(first) if first else 0
    stop = STAGES.index(last) + 1 if last else len(STAGES)
    chosen = tuple(stage for stage in STAGES[start:stop] if stage in recipe.tables)
    if not chosen:
        raise UsageError(
            f"{recipe.path}: no stage from {first or 'the first'} until {last or 'the last'}"
        )
    return chosen


def make_config(recipe: Recipe, stage: str, shared: Mapping[str, Any]) -> Config:
    """Return the config of one stage.

    Args:
        recipe: its table and the paths that connect it.
        stage: any but ``corpus``.
        shared: options of ``tokkit run`` itself, which replace those of the table.

    Raises:
        UsageError: naming a key or a value that the stage refuses.
    """
    command = COMMANDS[stage]
    options = read_table(command, recipe.tables[stage], f"{recipe.path}, [{stage}]")
    shared = {name: value for name, value in shared.items() if name in command.config.options}
    made = command.config(**{**recipe.paths(stage), **options, **shared})
    made.require_effect(options)
    return made


def check_pretraining(configs: Mapping[str, Config]) -> None:
    """Refuse what the last stage would refuse, before the first has read anything."""
    build, pretrain = configs.get("build"), configs.get("pretrain")
    if isinstance(build, BuildConfig) and isinstance(pretrain, PretrainConfig):
        from tokkit.pretraining.pretrain import check_before_build

        check_before_build(pretrain, build.objective, build.max_seq_length)


def _run_stage(
    recipe: Recipe,
    stage: str,
    config: Config | None,
    shared: Mapping[str, Any],
    connection: ExitStack,
) -> None:
    folder = recipe.folder(stage)
    shown = f"{recipe.command} > {recipe.inputs[0]}" if stage == "corpus" else folder
    echo(f"tokkit: {stage}: {shown}", err=True)
    if stage == "pretrain":  # which may take days, and does nothing on Ray
        connection.close()
    if config is None:
        from tokkit.engine.command import save_output

        save_output(
            str(recipe.command),
            Path(recipe.inputs[0]),
            overwrite=shared["overwrite"],
            progress=shared["progress"],
        )
    else:
        import tokkit

        getattr(tokkit, stage)(config)


def _last_change(folder: Path) -> int:
    """Return the time stamp of what a stage writes last, from which we see whether it did anything."""
    last = [folder / "manifest.json", folder / "training.json"]
    return max((path.stat().st_mtime_ns for path in last if path.is_file()), default=0)


def check_examples(recipe: Recipe, stages: Collection[str]) -> None:
    """Refuse examples in which the trained model would find no mask.

    This is known before the first stage, from the tokenizer or from the options of the one that is
    still to be trained; and after ``build`` from the tokenizer of the instances.

    Args:
        recipe: a recipe with examples.
        stages: the stages that are still to be run.

    Raises:
        UsageError: naming the example.
        TokkitError: if the tokenizer lacks a special token.
    """
    from tokkit.tokenizer.hub_names import find_folder
    from tokkit.tokenizer.special_tokens import ROLES, encode_masked, split_at_masks
    from tokkit.tokenizer.tokenizer import load_tokenizer

    config = make_config(recipe, "train" if "train" in stages else "encode", {})
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
        path = find_folder(config.tokenizer)
    if path.exists():
        tokenizer = load_tokenizer(path)
        for example in recipe.examples:
            encode_masked(tokenizer, example)


def _record_times(recipe: Recipe, taken: Mapping[str, float]) -> bool:
    """Record what stages took, also for a report of a recipe that still runs; return if it is new."""
    earlier = RecipeRecord.read(recipe.output)
    record = RecipeRecord(
        recipe=str(recipe.path),
        examples=list(recipe.examples),
        seconds={**(earlier.seconds if earlier else {}), **taken},
    )
    record.write(recipe.output)
    return record != earlier


def _write_report(recipe: Recipe, taken: Mapping[str, float]) -> None:
    """Show all stages on one page, unless nothing has changed since; a failure fails no stage.

    Args:
        recipe: the recipe.
        taken: seconds of the stages that did something.
    """
    from tokkit.inspection.report.report import report

    path = recipe.output / "report.html"
    remove_drafts(recipe.output)  # a run that was killed may have left one of the page
    try:
        if _record_times(recipe, taken) or taken or not path.is_file():
            report(ReportConfig(paths=(recipe.output,), output=path))
    except TokkitError as error:
        echo(f"tokkit: no report: {error}", err=True)
        return
    echo()
    echo(f"report: {path}")


def _print_summary(rows: Sequence[tuple[str, str, str]]) -> None:
    """Print the folder of each stage, and how long it took."""
    echo()
    width = max(len(folder) for _, folder, _ in rows)
    for stage, folder, took in rows:
        echo(f"{stage:<9}  {folder:<{width}}  {took:>10}")


def _print_examples(recipe: Recipe) -> None:
    """Let the trained model fill in the masks of the recipe's examples."""
    from tokkit.pretraining.models.export import fill_mask

    for example in recipe.examples:
        echo()
        echo(example)
        for answers in fill_mask(recipe.folder("pretrain") / "export", example, ANSWERS_SHOWN):
            echo("  " + "  ".join(f"{token} {share:.0%}" for token, share in answers))
