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
    """The options of a stage that the engine runs; its output does not depend on them."""

    heading: ClassVar[str] = "Execution"

    workers: int = option(
        "Number of worker processes; 0 works in the main process. A Ray cluster uses all of its processors.",
        default=1,
        minimum=0,
    )
    engine: str = option(
        "Where the work is done: in processes of this machine, or by Ray, on a cluster.",
        default="local",
        choices=("local", "ray"),
    )
    ray_address: str = option(
        "HOST:PORT of a Ray cluster; auto finds that of this machine, or starts an instance.",
        default="auto",
        only_with={"engine": ("ray",)},
    )

    @property
    def cluster(self) -> str | None:
        """Address of the Ray cluster; None works on this machine."""
        return self.ray_address if self.engine == "ray" else None
