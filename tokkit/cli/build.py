"""``tokkit build``: make training instances from token shards."""

from tokkit.cli.command_options import import_single_threaded, stage_command
from tokkit.cli.output import print_manifest
from tokkit.instances.build_config import BuildConfig


@stage_command(BuildConfig)
def build(config: BuildConfig, *, as_json: bool) -> None:
    """Make training instances from TOKENS.

    TOKENS is a folder that encode wrote. Its sentences are paired or packed, and tokens are masked
    if masking is static. Run the same command again to resume.
    """
    import_single_threaded()
    from tokkit.instances.build import build as run

    print_manifest(config.output, run(config), as_json=as_json)
