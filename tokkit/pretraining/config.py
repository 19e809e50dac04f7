"""The options of ``tokkit pretrain``."""

from dataclasses import dataclass
from pathlib import Path

from tokkit.errors import require

PRESETS = ("tiny", "mini", "small", "medium", "base", "large")
DEVICES = ("auto", "cpu", "cuda", "mps")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """What ``pretrain`` needs to know.

    Attributes:
        instances: the instance folder that ``build`` wrote.
        output: the run folder: checkpoints, metrics, and the exported model.
        preset: the size of the model, as google-research/bert names them.
        max_steps: optimizer steps.
        batch_size: instances a step.
        learning_rate: at the end of warm-up.
        warmup_steps: steps over which the rate rises linearly; None is a tenth of ``max_steps``.
        weight_decay: AdamW's, on all but biases and norms.
        dropout: share of the activations, hidden and of attention, that a step leaves out.
        checkpoint_every: steps between checkpoints; the last two are kept.
        eval_every: steps between evaluations on the held-out instances.
        masked_lm_prob: for instances without static masks.
        max_predictions_per_seq: likewise; None is ``ceil(max_seq_length * masked_lm_prob)``.
        seed: of weights, order, masks and dropout.
        device: ``auto`` takes a GPU where there is one.
        precision: ``auto`` is bf16 on a GPU and fp32 on a CPU.
        threads: of torch on a CPU; None leaves them to torch.
        overwrite: replace what another run left in ``output``.
        progress: show a bar on standard error where it is a terminal.
    """

    instances: Path
    output: Path
    preset: str = "base"
    max_steps: int = 100_000
    batch_size: int = 256
    learning_rate: float = 1e-4
    warmup_steps: int | None = None
    weight_decay: float = 0.01
    dropout: float = 0.1
    checkpoint_every: int = 1000
    eval_every: int = 1000
    masked_lm_prob: float = 0.15
    max_predictions_per_seq: int | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    overwrite: bool = False
    progress: bool = True

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        require(self.preset in PRESETS, f"--preset must be one of {', '.join(PRESETS)}")
        require(self.max_steps >= 1, "--max-steps must be at least 1")
        require(self.batch_size >= 1, "--batch-size must be at least 1")
        require(self.learning_rate > 0, "--learning-rate must be above 0")
        require(
            self.warmup_steps is None or 0 <= self.warmup_steps <= self.max_steps,
            "--warmup-steps must be from 0 to --max-steps",
        )
        require(self.weight_decay >= 0, "--weight-decay must be 0 or more")
        require(0.0 <= self.dropout < 1.0, "--dropout must be at least 0, below 1")
        require(self.checkpoint_every >= 1, "--checkpoint-every must be at least 1")
        require(self.eval_every >= 1, "--eval-every must be at least 1")
        require(0.0 < self.masked_lm_prob <= 1.0, "--masked-lm-prob must be above 0, at most 1")
        require(
            self.max_predictions_per_seq is None or self.max_predictions_per_seq >= 1,
            "--max-predictions-per-seq must be at least 1",
        )
        require(0 <= self.seed < 1 << 64, "--seed must be from 0 to 2^64 - 1")
        require(self.device in DEVICES, f"--device must be one of {', '.join(DEVICES)}")
        require(self.precision in PRECISIONS, f"--precision must be one of {', '.join(PRECISIONS)}")
        require(self.threads is None or self.threads >= 1, "--threads must be at least 1")
