"""The options of batches: what they are made of, and their size."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from tokkit.errors import TokkitError, require
from tokkit.masking.mask_config import MaskConfig
from tokkit.options import LARGEST_SEED, option, parse_numbers
from tokkit.shards.objectives import OBJECTIVES

DEFAULT_BATCH_SIZE = 256


class DataConfig(MaskConfig):
    """What batches are made of. The options of masking are for instances without static masks."""

    heading: ClassVar[str] = "Batches"

    instances: tuple[Path, ...] = option(
        "Instance folders that build wrote.", argument="INSTANCES..."
    )
    weights: tuple[float, ...] = option(
        "Share of each of several INSTANCES in the batches, such as 0.7,0.3.",
        default=(),
        above=0,
        parse=parse_numbers,
        shown_default="1 for a single folder",
    )
    seed: int = option("Random seed.", default=0, minimum=0, maximum=LARGEST_SEED)

    def __post_init__(self) -> None:
        """Refuse weights that do not fit the folders, and what every config refuses."""
        super().__post_init__()
        require(len(self.instances) >= 1, "no INSTANCES: name an instance folder")
        self._check_folders()

    @property
    def folders(self) -> tuple[Path, ...]:
        """All instance folders."""
        return self.instances

    def _check_folders(self) -> None:
        require(
            len(self.instances) == 1 or len(self.weights) == len(self.instances),
            f"--weights must be {len(self.instances)} shares, one for each instance folder",
        )
        require(
            len(self.instances) > 1 or not self.weights,
            "--weights requires several instance folders; leave it out",
        )
        require(
            not self.weights or math.isclose(sum(self.weights), 1, abs_tol=1e-9),
            "--weights must add up to 1, such as 0.7,0.3",
        )


class LoaderConfig(DataConfig):
    """The options of a loader, whose batches all have one size."""

    heading: ClassVar[str] = DataConfig.heading

    batch_size: int = option(
        "Number of instances per step, over all processes.", default=DEFAULT_BATCH_SIZE, minimum=1
    )


def require_objective(options: Mapping[str, object], where: str) -> None:
    """Refuse instances that no model here learns from.

    Args:
        options: of the folder's manifest.
        where: what the error calls the folder.
    """
    objective = options.get("objective")
    if objective not in OBJECTIVES:
        raise TokkitError(
            f"{where}: was built with --objective {objective}, but what is trained here learns "
            f"from {', '.join(OBJECTIVES)}; build it again"
        )
