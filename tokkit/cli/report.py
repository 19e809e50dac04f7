"""``tokkit report``: folders on one HTML page."""

from dataclasses import replace

from tokkit.cli.command_options import stage_command
from tokkit.cli.output import print_json
from tokkit.cli.recipe import read_recipe
from tokkit.cli.streams import echo
from tokkit.engine.local import import_single_threaded
from tokkit.errors import plural
from tokkit.inspection.report.report_config import ReportConfig


@stage_command(ReportConfig)
def report(config: ReportConfig, *, as_json: bool) -> None:
    """Show what is in PATHs on one HTML page.

    PATH is a tokenizer, token, instance or run folder, finished or not; a recipe, or the folder that
    its stages write into. Tokenizers and runs are compared. The page needs neither a network nor a
    server, and holds all its figures as JSON.
    """
    import_single_threaded()
    from tokkit.inspection.report.report import report as run

    paths = tuple(read_recipe(p).output if p.suffix == ".toml" else p for p in config.paths)
    run(replace(config, paths=paths))
    size = config.output.stat().st_size
    if as_json:
        print_json({"path": str(config.output), "bytes": size})
    else:
        echo(f"{config.output}: {plural(size, 'byte')}")
