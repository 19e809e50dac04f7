"""The options of ``tokkit pretrain``, and those of them that say what the batches are."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tokkit.errors import TokkitError, require
from tokkit.masking.mask_config import MaskConfig
from tokkit.shards.objectives import TRAINABLE

PRESETS = ("tiny", "mini", "small", "medium", "base", "large")
OPTIMIZERS = ("adamw", "lamb")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")
COMPILE = ("auto", "on", "off")

DEFAULT_PRESET = "base"
DEFAULT_MAX_STEPS = 100_000


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
        self._check_folders()
        require(self.batch_size >= 1, "--batch-size must be at least 1")
        require(0 <= self.seed < 1 << 64, "--seed must be from 0 to 2^64 - 1")

    def _check_folders(self) -> None:
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


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(LoaderConfig):
    """What ``pretrain`` needs to know; the seed is also that of weights and dropout.

    Attributes:
        output: the run folder: checkpoints, metrics, and the exported model.
        preset: the size of the model, as google-research/bert names them; None is ``base``, or the
            size of the model in ``init_from``.
        init_from: a Hugging Face folder of a BERT whose weights are the first ones; None draws them.
        share_layers: all layers have the same weights, as in ALBERT.
        phases: longest sequence and share of the run of each instance folder, one after the other;
            empty where there are no phases.
        max_steps: optimizer steps; None is 100,000, or as many as ``max_time`` allows.
        max_time: seconds of training after which the run ends, and by which its schedule goes.
        optimizer: AdamW, or LAMB for batches of thousands.
        learning_rate: at the end of warm-up.
        warmup_steps: steps over which the rate rises linearly; None is a tenth of the run.
        weight_decay: on all but biases and norms.
        betas: how fast the optimizer's two moments follow the gradient.
        max_gradient_norm: gradients are scaled down to it; 0 leaves them.
        dropout: share of the activations, hidden and of attention, that a step leaves out.
        micro_batch_tokens: tokens that go through the model at once; a step adds up the gradients of
            as many micro-batches as its instances need.
        checkpoint_every: steps between checkpoints.
        keep_checkpoints: how many of the last are kept, beside the best.
        eval_every: steps between evaluations on the held-out instances.
        tensorboard: write event files for TensorBoard as well.
        device: ``auto`` takes a GPU where there is one.
        precision: ``auto`` is bf16 on a GPU and fp32 on a CPU.
        compile: by ``torch.compile``; ``auto`` does so on a GPU.
        nproc_per_node: processes to start on this machine, which share each batch; None is as many
            as a launcher around us has started, or one.
        fsdp: split weights, gradients and moments among the processes.
        threads: of torch on a CPU; None leaves them to torch.
        overwrite: replace what another run left in ``output``.
        progress: show a bar on standard error where it is a terminal.
    """

    output: Path
    preset: str | None = None
    init_from: Path | None = None
    share_layers: bool = False
    phases: tuple[tuple[int, float], ...] = ()
    max_steps: int | None = None
    max_time: float | None = None
    optimizer: str = "adamw"
    learning_rate: float = 1e-4
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    betas: tuple[float, ...] = (0.9, 0.999)
    max_gradient_norm: float = 1.0
    dropout: float = 0.1
    micro_batch_tokens: int = 16_384
    checkpoint_every: int = 1000
    keep_checkpoints: int = 2
    eval_every: int = 1000
    tensorboard: bool = False
    device: str = "auto"
    precision: str = "auto"
    compile: str = "auto"
    nproc_per_node: int | None = None
    fsdp: bool = False
    threads: int | None = None
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range, and options that have no effect together."""
        super().__post_init__()
        self._check_model()
        self._check_schedule()
        self._check_work()

    def _check_model(self) -> None:
        _require_choice("--preset", self.preset, (None, *PRESETS))
        require(
            self.preset is None or self.init_from is None,
            "--preset has no effect beside --init-from, whose model has its size; leave one out",
        )
        require(
            not self.share_layers or self.init_from is None,
            "--share-layers has no effect beside --init-from, whose layers differ; leave one out",
        )
        require(0.0 <= self.dropout < 1.0, "--dropout must be at least 0, below 1")

    def _check_schedule(self) -> None:
        _require_choice("--optimizer", self.optimizer, OPTIMIZERS)
        require(
            self.max_steps is None or self.max_time is None,
            "--max-steps and --max-time both say when the run ends; leave one out",
        )
        require(self.max_steps is None or self.max_steps >= 1, "--max-steps must be at least 1")
        require(self.max_time is None or 0 < self.max_time < math.inf, "--max-time must be above 0")
        require(self.learning_rate > 0, "--learning-rate must be above 0")
        require(
            self.warmup_steps is None or self.warmup_steps >= 0, "--warmup-steps must be 0 or more"
        )
        require(
            self.max_time is not None or (self.warmup_steps or 0) <= self.num_steps,
            "--warmup-steps must be from 0 to --max-steps",
        )
        require(self.weight_decay >= 0, "--weight-decay must be 0 or more")
        require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            "--betas must be two numbers from 0 to below 1, such as 0.9,0.999",
        )
        require(self.max_gradient_norm >= 0, "--max-gradient-norm must be 0 or more")
        self._check_phases()

    def _check_phases(self) -> None:
        if not self.phases:
            return
        lengths = [length for length, _ in self.phases]
        shares = [share for _, share in self.phases]
        require(not self.weights, "--weights and --phases exclude each other")
        require(
            len(self.phases) == len(self.instances),
            f"--phases must name {len(self.instances)} phases, one for each instance folder",
        )
        require(len(set(lengths)) == len(lengths), "--phases names a length twice")
        require(
            min(shares) > 0 and math.isclose(sum(shares), 1, abs_tol=1e-9),
            "the shares of --phases must be above 0 and add up to 1, such as 128:0.9,512:0.1",
        )

    def _check_folders(self) -> None:
        if not self.phases:  # which take one folder after the other
            super()._check_folders()

    def _check_work(self) -> None:
        require(self.micro_batch_tokens >= 1, "--micro-batch-tokens must be at least 1")
        require(self.checkpoint_every >= 1, "--checkpoint-every must be at least 1")
        require(self.keep_checkpoints >= 1, "--keep-checkpoints must be at least 1")
        require(self.eval_every >= 1, "--eval-every must be at least 1")
        _require_choice("--device", self.device, DEVICES)
        _require_choice("--precision", self.precision, PRECISIONS)
        _require_choice("--compile", self.compile, COMPILE)
        require(
            self.nproc_per_node is None or self.nproc_per_node >= 1,
            "--nproc-per-node must be at least 1",
        )
        require(self.threads is None or self.threads >= 1, "--threads must be at least 1")

    @property
    def num_steps(self) -> int:
        """Steps of a run that goes by steps."""
        return DEFAULT_MAX_STEPS if self.max_steps is None else self.max_steps


def _require_choice(name: str, value: str | None, choices: tuple[str | None, ...]) -> None:
    known = ", ".join(choice for choice in choices if choice is not None)
    require(value in choices, f"{name} must be one of {known}")


def require_objective(options: Mapping[str, object], where: str) -> None:
    """Refuse instances that no model here learns from.

    Args:
        options: of the folder's manifest.
        where: what the error calls the folder.
    """
    objective = options.get("objective")
    if objective not in TRAINABLE:
        raise TokkitError(
            f"{where}: was built with --objective {objective}, but what is trained here learns "
            f"from {', '.join(TRAINABLE)}; build it again"
        )
