"""The options that all stages share."""

from typing import ClassVar

from tokkit.options import Config, option


class OutputConfig(Config):
    """The options of every command that writes a folder."""

    heading: ClassVar[str] = "Execution"

    overwrite: bool = option(
        "Replace the output of another run.", default=False, flags=("--overwrite",)
    )
    progress: bool = option("Show a progress bar if standard error is a terminal.", default=True)


class StageConfig(OutputConfig):
    """The options of a stage that the engine runs; its output does not depend on ``workers``."""

    heading: ClassVar[str] = "Execution"

    workers: int = option(
        "Number of worker processes; 0 works in the main process.", default=1, minimum=0
    )
