"""``tokkit verify``: is a folder what its manifest says?"""

import dataclasses
import json
from pathlib import Path

import click

from tokkit.cli.options import JSON_OPTION


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--progress/--no-progress", default=True, show_default=True, help="A bar on a terminal."
)
@JSON_OPTION
@click.pass_context
def verify(context: click.Context, path: Path, *, progress: bool, as_json: bool) -> None:
    """Re-read every file of PATH and check it.

    PATH is a folder that a stage wrote. Sizes, hashes, columns, id ranges and accounts are compared with the manifest. Exit status 1
    if anything is wrong; each fault is a line.
    """
    from tokkit.inspection.verify import verify as run

    found = run(path, progress=progress)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "path": str(path)}))
    else:
        for fault in found.faults:
            click.echo(f"tokkit: {fault}", err=True)
        verdict = f"{len(found.faults)} faults" if found.faults else "all as the manifest says"
        click.echo(f"{path}: {found.kind}, {found.files} files, {found.bytes:,} bytes: {verdict}")
    context.exit(1 if found.faults else 0)
