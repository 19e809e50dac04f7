"""The options that all stages share."""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import ClassVar

from tokkit.engine.mirrors import pull
from tokkit.errors import require
from tokkit.options import Config, option


class OutputConfig(Config):
    """The options of every command that writes a folder."""

    heading: ClassVar[str] = "Execution"

    overwrite: bool = option(
        "Replace the output of another run.", default=False, flags=("--overwrite",)
    )
    progress: bool = option("Show a progress bar if standard error is a terminal.", default=True)
    cache: Path | None = option(
        "Folder for copies of what is on s3:// or gs://, as large as the folders that are read; may be "
        "deleted while no command runs.",
        default=None,
        shown_default="TOKKIT_CACHE, or ~/.cache/tokkit",
    )

    def pull_folders(self) -> None:
        """Copy from stores what is small in the folders that the options name, the output's too."""
        for name in self.options:
            value = getattr(self, name)
            for path in value if isinstance(value, tuple) else (value,):
                if isinstance(path, Path):
                    pull(path, is_output=name in ("output", "save_counts"))


def parse_part(text: str) -> tuple[int, int]:
    """Parse ``I/N``; ``auto`` and ``auto/N`` take what is left out from the scheduler's variables.

    Slurm numbers the tasks of an array as the user says, so ``auto`` counts from the first one. Where
    some are left out, as in ``--array=3,17,29``, their number says nothing about N.

    Raises:
        ValueError: with what is wrong.
    """
    index, _, number = text.partition("/")
    if text != "auto" and not (number.isdecimal() and (index == "auto" or index.isdecimal())):
        raise ValueError(f"{text!r} is not a part, such as 0/16, auto/16 or auto")
    if index != "auto":
        return int(index), int(number)
    found = {
        name: int(value)
        for name, value in os.environ.items()
        if name.startswith(("SLURM_ARRAY_TASK_", "JOB_COMPLETION_", "AWS_BATCH_JOB_ARRAY_"))
        and value.isdecimal()
    }
    indices = ("SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "AWS_BATCH_JOB_ARRAY_INDEX")
    variable = next((name for name in indices if name in found), None)
    if variable is None:
        raise ValueError(f"auto needs one of {', '.join(indices)}; pass I/N")
    if number:
        return found[variable], int(number)
    if "SLURM_ARRAY_TASK_ID" in found:
        first, last, count, step = (
            found.get(f"SLURM_ARRAY_TASK_{name}", 1) for name in ("MIN", "MAX", "COUNT", "STEP")
        )
        if (last - first) // step + 1 == count:
            return (found[variable] - first) // step, count
        raise ValueError("auto cannot infer N, because the array skips task ids; pass auto/N")
    if "AWS_BATCH_JOB_ARRAY_SIZE" in found:
        return found[variable], found["AWS_BATCH_JOB_ARRAY_SIZE"]
    raise ValueError(f"{variable} comes without the number of parts; pass auto/N")


class ArrayConfig(OutputConfig):
    """The options of a stage whose units are done by the tasks of an array job.

    All of them write one folder, and they do not communicate.
    """

    heading: ClassVar[str] = "Array jobs"

    plan: bool = option(
        "Write the plan of the work units, and stop.", default=False, flags=("--plan",)
    )
    part: tuple[int, int] | None = option(
        "Process part I/N of the plan, counted from 0 (units I, I+N, I+2N, …), and stop. auto takes I and N from "
        "Slurm or AWS Batch; auto/N takes I from them, or from a Kubernetes indexed job.",
        default=None,
        parse=parse_part,
    )
    missing: int | None = option(
        "Print which of N parts have units that are not done, as 3,17,29, and stop.",
        default=None,
        minimum=1,
    )
    commit: bool = option(
        "Finish the folder; fail if a unit of the plan is missing.",
        default=False,
        flags=("--commit",),
    )

    @property
    def is_step(self) -> bool:
        """Whether this command leaves the folder unfinished."""
        return self.plan or self.part is not None or self.missing is not None

    @property
    def is_planned(self) -> bool:
        """Whether the units come from the plan in the folder."""
        return self.part is not None or self.missing is not None or self.commit

    def require_finish(self) -> None:
        """Refuse the steps that do not finish the folder, in a function that returns its record."""
        require(
            not self.is_step,
            "--plan, --part and --missing are not supported by this function; call "
            "tokkit.engine.stage.run_step",
        )

    def __post_init__(self) -> None:
        """Refuse options that exclude each other, and a part that is none of its number."""
        super().__post_init__()
        given = [self.plan, self.part is not None, self.missing is not None, self.commit]
        require(sum(given) <= 1, "--plan, --part, --missing and --commit exclude each other")
        require(
            not (self.overwrite and self.is_planned),
            "--overwrite would delete what other parts have done; pass it with --plan",
        )
        if self.part is not None:
            index, number = self.part
            require(0 <= index < number, f"--part {index}/{number}: I must be from 0 to N-1")


def count_processors(root: Path = Path("/")) -> int:
    """Return the number of processors that this process may use, at least 1.

    Three things bound it: the machine, the process's affinity (``taskset``, Slurm), and the quota of
    its control group (containers), which affinity does not show: with ``docker run --cpus 2`` a process
    sees all of the machine's processors, and 64 workers would wait for each other.

        /sys/fs/cgroup/cpu.max                      150000 100000       version 2: 1.5 processors
        /sys/fs/cgroup/cpu/cpu.cfs_quota_us         150000              version 1, with cpu.cfs_period_us

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    number = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        number = len(os.sched_getaffinity(0))
    quotas = [math.ceil(quota) for quota in _read_quotas(root)]
    return max(1, min([number, *quotas]))


def _read_quotas(root: Path) -> Iterator[float]:
    """Yield the quotas of the process's control group and of those above it, in processors."""
    groups = root / "sys/fs/cgroup"
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers and "cpu" not in controllers.split(","):
                continue
            base = groups / controllers if controllers else groups
            # In a container the path may be the host's; its own group is then at the top.
            for place in (base / path.lstrip("/"), *(base / path.lstrip("/")).parents):
                if base in (place, *place.parents):
                    yield from _read_quota(place)


def _read_quota(place: Path) -> Iterator[float]:
    """Yield the quota of one control group, of either version; nothing if there is none."""
    with suppress(OSError, ValueError):
        quota, period = (place / "cpu.max").read_text().split()
        yield int(quota) / int(period)  # "max" is no number
    with suppress(OSError, ValueError):
        quota = (place / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:
            yield int(quota) / int((place / "cpu.cfs_period_us").read_text())


class StageConfig(ArrayConfig):
    """The options of a stage that the engine runs; its output does not depend on them."""

    heading: ClassVar[str] = "Execution"

    workers: int = option(
        "Number of worker processes; 0 runs in the main process. A Ray cluster uses all of its processors.",
        default=count_processors,
        shown_default="the processors that the process may use",
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
