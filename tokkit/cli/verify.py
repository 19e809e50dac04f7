"""``tokkit verify``: is a folder what its manifest says?"""

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokkit.cli.options import JSON_OPTION

if TYPE_CHECKING:
    from tokkit.inspection.verify import Verification


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
    with suppress(BrokenPipeError):  # whoever closed the pipe may still ask for the status
        _print(path, found, as_json=as_json)
    context.exit(1 if found.faults else 0)


def _print(path: Path, found: "Verification", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "path": str(path)}))
    else:
        for fault in found.faults:
            click.echo(f"tokkit: {fault}", err=True)
        verdict = f"{len(found.faults)} faults" if found.faults else "all as the manifest says"
        click.echo(f"{path}: {found.kind}, {found.files} files, {found.bytes:,} bytes: {verdict}")
