"""``tokkit inspect``: what is in a folder or shard?"""

import json
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tokkit.cli.options import JSON_OPTION, StageCommand, config_options
from tokkit.cli.output import describe_facts, print_run
from tokkit.errors import UsageError
from tokkit.masking.mask_config import MASK_DEFAULTS
from tokkit.pretraining.pretrain_config import LoaderConfig

REPLAYED = ("batch_size", "seed", *MASK_DEFAULTS)


@click.command(cls=StageCommand)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="To show.")
@click.option(
    "--shard", help="Of a folder: the shard whose rows are shown, such as eval-00000.arrow."
)
@click.option("--replay", is_flag=True, help="Show a batch as pretraining sees it.")
@click.option("--phase", type=click.IntRange(min=0), help="Of a run with phases, from 0.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, help="Of the batch, from 0.")
@click.option("--step", type=click.IntRange(min=0), default=0, help="Within the epoch, from 0.")
@config_options(LoaderConfig, REPLAYED)
@JSON_OPTION
@click.pass_context
def inspect(
    context: click.Context,
    /,
    path: Path,
    *,
    rows: int,
    shard: str | None,
    replay: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Show what is in PATH, a folder or a shard.

    PATH is what a stage wrote. Rows are decoded; a masked position is shown as what stands there and what is to be predicted,
    as in [MASK→word]. Of a run, also one that is not finished, its state, facts and loss curves are shown. With --replay, PATH is an
    instance or a run folder.
    """
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT
    }
    if replay:
        if shard is not None:
            raise UsageError("--shard does not go with --replay, which reads all shards")
        from tokkit.inspection.replay import replay as run_again

        chosen = None if context.get_parameter_source("rows") is ParameterSource.DEFAULT else rows
        facts, shown = run_again(path, rows=0 if as_json else chosen, **given)
        _print(path, "batch", facts, shown, as_json=as_json)
        return
    if given:
        raise UsageError(f"--{next(iter(given)).replace('_', '-')} goes with --replay")
    from tokkit.inspection.inspect import inspect as run

    seen = run(path, rows=0 if as_json else rows, shard=shard)
    if seen.kind == "run" and not as_json:
        print_run(path, seen.facts)
        return
    _print(path, seen.kind, seen.facts, seen.rows, as_json=as_json)


def _print(
    path: Path, kind: str, facts: dict[str, Any], rows: tuple[str, ...], *, as_json: bool
) -> None:
    if as_json:
        click.echo(json.dumps({"path": str(path), "kind": kind, **facts}))
        return
    click.echo(f"{path}: {kind}")
    for line in describe_facts(facts):
        click.echo(f"  {line}")
    for row in rows:
        click.echo(f"\n{row}")
