"""``tokkit verify``: check a folder against its manifest."""

import dataclasses
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from tokkit.cli.command_options import JSON_OPTION, LocalPath, config_options
from tokkit.engine.stage_config import OutputConfig
from tokkit.errors import plural

if TYPE_CHECKING:
    from tokkit.inspection.verify import Verification


@click.command()
@click.argument("path", type=LocalPath())
@config_options(OutputConfig.options["progress"])
@JSON_OPTION
@click.pass_context
def verify(context: click.Context, path: Path, *, progress: bool, as_json: bool) -> None:
    """Check every file of PATH against its manifest.

    PATH is a folder that a stage wrote. Sizes, hashes, columns, id ranges and accounts are checked.
    Each fault is a line on standard error, and the exit status is 1 if there is any.
    """
    from tokkit.inspection.verify import verify as run

    result = run(path, progress=progress)
    with suppress(BrokenPipeError):  # a caller that closed the pipe may still read the status
        _print(result, as_json=as_json)
    context.exit(1 if result.faults else 0)


def _print(result: "Verification", *, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(result), "path": str(result.path)}))
        return
    for fault in result.faults:
        click.echo(f"tokkit: {fault}", err=True)
    verdict = plural(len(result.faults), "fault") if result.faults else "no faults"
    size = f"{plural(result.files, 'file')}, {plural(result.bytes, 'byte')}"
    click.echo(f"{result.path}: {result.kind}, {size}: {verdict}")
