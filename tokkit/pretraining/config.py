"""The options of ``tokkit pretrain``, and those of them that say what the batches are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokkit.errors import TokkitError, require
from tokkit.instances.maskconfig import MaskConfig

OBJECTIVES = ("nsp", "sop", "mlm")  # what a masked language model learns from
PRESETS = ("tiny", "mini", "small", "medium", "base", "large")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(MaskConfig):
    """What a loader needs to know; masks are for instances without static ones.

    Attributes:
        instances: the folders that ``build`` wrote.
        weights: the share of each folder in the instances that are visited; empty where there is
            one folder.
        batch_size: instances a step, of all ranks together.
        seed: of every draw.
    """

    instances: tuple[Path, ...]
    weights: tuple[float, ...] = ()
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require(len(self.instances) >= 1, "there must be an instance folder")
        require(
            len(self.instances) == 1 or len(self.weights) == len(self.instances),
            f"--weights must be {len(self.instances)} shares, one for each instance folder",
        )
        require(
            len(self.instances) > 1 or not self.weights,
            "--weights goes with several instance folders",
        )
        require(
            not self.weights
            or (min(self.weights) > 0 and math.isclose(sum(self.weights), 1, abs_tol=1e-9)),
            "--weights must be above 0 and add up to 1, such as 0.7,0.3",
        )
        require(self.batch_size >= 1, "--batch-size must be at least 1")
        require(0 <= self.seed < 1 << 64, "--seed must be from 0 to 2^64 - 1")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(LoaderConfig):
    """What ``pretrain`` needs to know; the seed is also that of weights and dropout.

    Attributes:
        output: the run folder: checkpoints, metrics, and the exported model.
        preset: the size of the model, as google-research/bert names them.
        max_steps: optimizer steps.
        learning_rate: at the end of warm-up.
        warmup_steps: steps over which the rate rises linearly; None is a tenth of ``max_steps``.
        weight_decay: AdamW's, on all but biases and norms.
        dropout: share of the activations, hidden and of attention, that a step leaves out.
        checkpoint_every: steps between checkpoints; the last two are kept.
        eval_every: steps between evaluations on the held-out instances.
        device: ``auto`` takes a GPU where there is one.
        precision: ``auto`` is bf16 on a GPU and fp32 on a CPU.
        threads: of torch on a CPU; None leaves them to torch.
        overwrite: replace what another run left in ``output``.
        progress: show a bar on standard error where it is a terminal.
    """

    output: Path
    preset: str = "base"
    max_steps: int = 100_000
    learning_rate: float = 1e-4
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    dropout: float = 0.1
    checkpoint_every: int = 1000
    eval_every: int = 1000
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        super().__post_init__()
        require(self.preset in PRESETS, f"--preset must be one of {', '.join(PRESETS)}")
        require(self.max_steps >= 1, "--max-steps must be at least 1")
        require(self.learning_rate > 0, "--learning-rate must be above 0")
        require(
            self.warmup_steps is None or 0 <= self.warmup_steps <= self.max_steps,
            "--warmup-steps must be from 0 to --max-steps",
        )
        require(self.weight_decay >= 0, "--weight-decay must be 0 or more")
        require(0.0 <= self.dropout < 1.0, "--dropout must be at least 0, below 1")
        require(self.checkpoint_every >= 1, "--checkpoint-every must be at least 1")
        require(self.eval_every >= 1, "--eval-every must be at least 1")
        require(self.device in DEVICES, f"--device must be one of {', '.join(DEVICES)}")
        require(self.precision in PRECISIONS, f"--precision must be one of {', '.join(PRECISIONS)}")
        require(self.threads is None or self.threads >= 1, "--threads must be at least 1")


def require_objective(options: Mapping[str, object], where: str) -> None:
    """Refuse instances that are not for a masked language model.

    Args:
        options: of the folder's manifest.
        where: what the error calls the folder.
    """
    objective = options.get("objective")
    if objective not in OBJECTIVES:
        raise TokkitError(
            f"{where}: was built with --objective {objective}, but masked language models learn "
            f"from {', '.join(OBJECTIVES)}; build it again"
        )
