"""``tokkit inspect``: what is in a folder or shard?"""

import json
from pathlib import Path

import click

from tokkit.cli.options import JSON_OPTION
from tokkit.cli.report import describe_facts


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--rows", type=click.IntRange(min=0), default=3, show_default=True, help="To show.")
@click.option(
    "--shard", help="Of a folder: the shard whose rows are shown, such as eval-00000.arrow."
)
@JSON_OPTION
def inspect(path: Path, *, rows: int, shard: str | None, as_json: bool) -> None:
    """Show what is in PATH, a folder or a shard.

    PATH is what a stage wrote. Rows are decoded; a masked position is shown as what stands there and what is to be predicted,
    as in [MASK→word].
    """
    from tokkit.inspection.inspect import inspect as run

    seen = run(path, rows=0 if as_json else rows, shard=shard)
    if as_json:
        click.echo(json.dumps({"path": str(path), "kind": seen.kind, **seen.facts}))
        return
    click.echo(f"{path}: {seen.kind}")
    for line in describe_facts(seen.facts):
        click.echo(f"  {line}")
    for row in seen.rows:
        click.echo(f"\n{row}")
