"""The options of batches: their instances, their sizes, and the phases of a run.

A recipe has phases as tables:

    [[pretrain.phases]]                                  # 70% of the steps, on the recipe's instances
    share = 0.7
    masked-lm-prob = 0.3

    [[pretrain.phases]]                                  # the rest, on two folders built before
    share = 0.3
    instances = ["long/instances", "books/instances"]
    weights = [0.8, 0.2]
    batch-size = 64
    learning-rate = 3e-4
    masked-lm-prob = 0.15

A phase inherits what it does not set from the run. On the command line, phases are lengths with their
shares, such as ``128:0.9,512:0.1``: each takes the folder that was built with its length.

The position in the instances is the only state of the data. With batches of 4 for three steps, and of
8 after that:

    step      0  1  2  3   4   5
    size      4  4  4  8   8   8
    position  0  4  8  12  20  28
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from tokkit.errors import TokkitError, plural, require
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


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A phase of a run; None and () are inherited from the run.

    Attributes:
        share: share of the run.
        instances: instance folders.
        weights: share of each folder in the batches.
        batch_size: number of instances per step.
        learning_rate: the peak, which the schedule scales.
        masked_lm_prob: share of the tokens to predict.
    """

    share: float
    instances: tuple[Path, ...] = ()
    weights: tuple[float, ...] = ()
    batch_size: int | None = None
    learning_rate: float | None = None
    masked_lm_prob: float | None = None

    def check(self, where: str) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: if a value is out of range; it names the phase.
        """
        for name, low, high in (
            ("share", 0, 1),
            ("batch_size", 0, None),
            ("learning_rate", 0, None),
            ("masked_lm_prob", 0, 1),
        ):
            value = getattr(self, name)
            require(
                value is None or (value > low and (high is None or value <= high)),
                f"{where}: {name.replace('_', '-')} must be above {low}"
                + (f" and at most {high}" if high else ""),
            )

    @property
    def loader_options(self) -> dict[str, Any]:
        """The loader's options that differ from those of the run."""
        named = {name: getattr(self, name) for name in ("instances", "weights", "masked_lm_prob")}
        changed = {name: value for name, value in named.items() if value}
        return changed | ({"weights": self.weights} if self.instances else {})


Phases = tuple[tuple[int, float] | Phase, ...]


def parse_phases(text: str) -> Phases:
    """Parse lengths and shares, or the JSON of a recipe's tables."""
    if text.startswith("["):
        return _parse_tables(json.loads(text))
    try:
        parts = [part.split(":") for part in text.split(",")]
        return tuple((int(length), float(share)) for length, share in parts)
    except ValueError:
        raise ValueError(
            f"{text!r} is not lengths with their shares, such as 128:0.9,512:0.1"
        ) from None


def _parse_tables(tables: list[dict[str, Any]]) -> tuple[Phase, ...]:
    known = [field.name.replace("_", "-") for field in fields(Phase)]
    phases = []
    for number, table in enumerate(tables):
        if not isinstance(table, dict):
            raise ValueError(f"phase {number}: is not a table, as all must be if one is")  # noqa: TRY004  as click wants
        if unknown := sorted(table.keys() - {*known}):
            raise ValueError(
                f"phase {number}: unknown key {unknown[0]!r}; known keys are {', '.join(known)}"
            )
        values = {name.replace("-", "_"): value for name, value in table.items()}
        try:
            phases.append(msgspec.convert(values, Phase, dec_hook=lambda kind, value: kind(value)))
        except (ValueError, TypeError) as error:
            raise ValueError(f"phase {number}: {error}") from error
    return tuple(phases)


class PhasesConfig(DataConfig):
    """The options of batches whose instances, sizes and masks may change between phases."""

    heading: ClassVar[str] = DataConfig.heading

    phases: Phases = option(
        "Sequence length of each of several INSTANCES and its share of the run, such as "
        "128:0.9,512:0.1; in a recipe also [[pretrain.phases]], with options of their own.",
        default=(),
        parse=parse_phases,
        shown_default="none",
    )

    def _check_folders(self) -> None:
        if not self.phases:
            super()._check_folders()
            return
        require(
            math.isclose(sum(self.shares), 1, abs_tol=1e-9) and min(self.shares) > 0,
            "the shares of --phases must be above 0 and add up to 1, such as 128:0.9,512:0.1",
        )
        if self.lengths:
            require(not self.own_phases, "--phases are either all lengths or all tables")
            require(not self.weights, "--weights and --phases exclude each other; leave one out")
            require(
                len(self.phases) == len(self.instances),
                f"--phases must name {plural(len(self.instances), 'phase')}, one for each instance folder",
            )
            require(len({*self.lengths}) == len(self.lengths), "--phases names a length twice")
            return
        if not all(phase.instances for phase in self.own_phases):
            super()._check_folders()
        for number, phase in enumerate(self.own_phases):
            phase.check(f"phase {number}")
            folders, weights = phase.instances or self.instances, phase.weights
            if not phase.instances:
                weights = weights or self.weights
            require(
                len(weights) == (len(folders) if len(folders) > 1 else 0)
                and (not weights or math.isclose(sum(weights), 1, abs_tol=1e-9)),
                f"phase {number}: weights must be shares that add up to 1, one for each of several "
                f"instance folders; it has {plural(len(folders), 'folder')}",
            )

    @property
    def folders(self) -> tuple[Path, ...]:
        """The instance folders of all phases."""
        named = dict.fromkeys(f for phase in self.own_phases for f in phase.instances)
        return (*self.instances, *(folder for folder in named if folder not in self.instances))

    @property
    def own_phases(self) -> tuple[Phase, ...]:
        """The phases of a recipe, which have options of their own."""
        return tuple(phase for phase in self.phases if isinstance(phase, Phase))

    @property
    def lengths(self) -> tuple[int, ...]:
        """The lengths of phases that are lengths and shares."""
        return tuple(phase[0] for phase in self.phases if isinstance(phase, tuple))

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of each phase in the run; one share of 1 without phases."""
        shares = (p.share if isinstance(p, Phase) else p[1] for p in self.phases)
        return tuple(shares) or (1.0,)


def order_by_length(lengths: Sequence[int], built: Sequence[tuple[Path, int]]) -> list[int]:
    """Return the number of the folder of each phase that is a length and a share.

    Args:
        lengths: lengths of the phases.
        built: each folder with the length that it was built with.

    Raises:
        TokkitError: if a folder has a length that no phase has, or that of another folder.
    """
    found: dict[int, int] = {}
    for number, (folder, length) in enumerate(built):
        if length not in lengths:
            raise TokkitError(
                f"{folder}: was built with --max-seq-length {length}, but --phases has "
                f"{' and '.join(map(str, lengths))}; build it again, or change --phases"
            )
        if length in found:
            raise TokkitError(
                f"{folder}: was built with --max-seq-length {length}, as was "
                f"{built[found[length]][0]}; each phase takes one folder"
            )
        found[length] = number
    return [found[length] for length in lengths]


@dataclass(frozen=True)
class BatchSizes:
    """The batch sizes of a phase.

    Attributes:
        stages: first step, counted from the start of the phase, and batch size of each stage.
        start: position at which step 0 begins.
    """

    stages: tuple[tuple[int, int], ...]
    start: int = 0

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes of all stages."""
        return tuple(size for _, size in self.stages)

    def at(self, step: int) -> tuple[int, int]:
        """Return the position at which a step begins, and its size."""
        reached = [stage for stage in self.stages if stage[0] <= step]
        ends = [first for first, _ in reached[1:]] + [step]
        taken = ((end - first) * size for (first, size), end in zip(reached, ends, strict=True))
        return self.start + sum(taken), reached[-1][1]

    def find_step(self, position: int) -> int:
        """Return the first step that begins at a position or after it."""
        reached = [stage for stage in self.stages if self.at(stage[0])[0] <= position]
        first, size = (reached or self.stages)[-1 if reached else 0]
        return first + max(0, -(-(position - self.at(first)[0]) // size))


def require_objective(options: Mapping[str, object], where: str) -> None:
    """Refuse instances of an objective that no model here learns.

    Args:
        options: options in the folder's manifest.
        where: name of the folder in the error.
    """
    objective = options.get("objective")
    if objective not in OBJECTIVES:
        raise TokkitError(
            f"{where}: was built with --objective {objective}, but what is trained here learns "
            f"from {', '.join(OBJECTIVES)}; build it again"
        )
