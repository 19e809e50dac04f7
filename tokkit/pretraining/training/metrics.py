"""What a run measures: losses and accuracies as sums, and the operations of a step.

The loss is the mean cross-entropy over the batch's predicted tokens plus the mean over its labelled
pairs. Log lines and evaluations keep sums and counts and divide at the end, so metrics over several
batches, or over parts of a batch in several processes, weigh all tokens equally.

Floating-point operations: each parameter of a matrix that a token passes through costs 6, a
multiplication and an addition once forward and twice backward. Attention costs 12 more for each layer,
hidden unit and token that is attended to (two products of 2 operations, three times). Only predicted
tokens pass through the head. So a token costs

    6 * encoder parameters  +  12 * layers * hidden * length  +  6 * head parameters * masked share

For BERT-base with a vocabulary of 30,522, 128 tokens in a sequence and a masked share of 0.15 that is
510.3 + 14.2 + 21.6 = 546.1 million. Embeddings are looked up, not multiplied. Work for padding, or
repeated to save memory, does not count. The rate of these operations as a share of the device's peak is
the MFU, model FLOPs utilization (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, field
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.models.transformer import Sums, Transformer
from tokkit.shards.objectives import OBJECTIVES

NUM_SAMPLED = 4096


def total_loss(sums: Sums, num_predicted: float, num_pairs: float) -> Tensor:
    """Return the contribution of a micro-batch to the loss of a step.

    Args:
        sums: output of the model.
        num_predicted: number of predicted tokens in the whole step.
        num_pairs: number of labelled pairs in the whole step; 0 for instances without pairs.
    """
    return sums.token_loss / max(1.0, num_predicted) + sums.pair_loss / max(1.0, num_pairs)


@dataclass
class MetricSums:
    """Sums over the steps since the last log line, or over an evaluation.

    They are Python numbers, so they pass through a checkpoint's JSON unchanged.

    Attributes:
        tokens: tokens without padding.
        seconds: duration of the steps.
        waited: seconds of that spent waiting for data.
        num_predicted: tokens with a label.
        num_pairs: pairs with a label.
        token_loss: cross-entropy of the predicted tokens.
        token_correct: tokens predicted correctly.
        pair_loss: cross-entropy of the labelled pairs.
        pair_correct: pairs predicted correctly.
    """

    tokens: float = 0
    seconds: float = 0.0
    waited: float = 0.0
    num_predicted: float = 0
    num_pairs: float = 0
    token_loss: float = 0.0
    token_correct: float = 0
    pair_loss: float = 0.0
    pair_correct: float = 0

    def add(self, batch: Batch, sums: Sequence[float]) -> None:
        """Add a batch and the model's output for it, the four numbers of a ``Sums``."""
        self.tokens += batch.num_tokens
        self.num_predicted += batch.num_predicted
        self.num_pairs += batch.num_pairs
        self.token_loss += sums[0]
        self.token_correct += sums[1]
        self.pair_loss += sums[2]
        self.pair_correct += sums[3]

    def all_reduce(self, add_up: Callable[[Sequence[float]], Sequence[float]]) -> "MetricSums":
        """Return the sums over all processes; durations remain those of this process.

        Args:
            add_up: sums numbers over processes.
        """
        sums = MetricSums(*add_up(astuple(self)))
        sums.seconds, sums.waited = self.seconds, self.waited
        return sums

    def means(self, objective: str) -> dict[str, float]:
        """Return losses and accuracies: means over predicted tokens, and over pairs, if any."""
        tokens = "mlm" if OBJECTIVES[objective].has_masks else objective.replace("-", "_")
        loss = self.token_loss / max(1, self.num_predicted)
        means = {
            "loss": loss,
            f"{tokens}_loss": loss,
            f"{tokens}_accuracy": self.token_correct / max(1, self.num_predicted),
        }
        if self.num_pairs and OBJECTIVES[objective].has_pairs:
            means[f"{objective}_loss"] = self.pair_loss / self.num_pairs
            means[f"{objective}_accuracy"] = self.pair_correct / self.num_pairs
            means["loss"] += means[f"{objective}_loss"]
        return means

    @property
    def perplexity(self) -> float:
        """Exponential of the mean loss of predicted tokens, limited so that it does not overflow."""
        return math.exp(min(self.token_loss / max(1, self.num_predicted), 700.0))

    def speed(
        self, elapsed: float, flops_per_token: float = 0.0, peak_flops: float | None = None
    ) -> dict[str, float]:
        """Return ``tokens_per_second`` and the other metrics of speed.

        Args:
            elapsed: seconds of training.
            flops_per_token: operations per token, forward and backward.
            peak_flops: operations per second of all devices together; None if unknown.
        """
        seconds = max(self.seconds, 1e-9)  # the clock may not have advanced
        speed = {
            "tokens_per_second": round(self.tokens / seconds),
            "data_wait": min(self.waited / seconds, 1.0),
            "elapsed": elapsed,
        }
        if peak_flops is not None:
            speed["mfu"] = self.tokens * flops_per_token / seconds / peak_flops
        return speed


class StepMetrics:
    """Losses and gradient norm of a step, which may still be in transit from the device.

    On a GPU they are copied asynchronously. If they are read one step later, the next step is already
    running by then.

    Args:
        batches: micro-batches.
        sums: output of the model for each.
        gradient_norm: norm before clipping, of the whole step; None for an evaluation.
    """

    def __init__(
        self, batches: Sequence[Batch], sums: Sequence[Sums], gradient_norm: Tensor | None = None
    ) -> None:
        self._batches = batches
        scalars = [scalar.detach().float() for part in sums for scalar in part]
        norm = torch.zeros_like(scalars[0]) if gradient_norm is None else gradient_norm
        values = torch.stack([*scalars, norm.detach().float()])
        self._copied: torch.cuda.Event | None = None
        self._values = values
        if values.is_cuda:
            self._values = torch.empty(values.shape, pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._copied.record()

    def add_to(self, sums: "MetricSums") -> float:
        """Wait for the values, add those of each micro-batch to sums, and return the norm.

        If the norm is not finite, micro-batches whose losses are not finite are left out.
        """
        if self._copied is not None:
            self._copied.synchronize()
        *values, gradient_norm = self._values.tolist()
        for number, batch in enumerate(self._batches):
            found = values[4 * number : 4 * number + 4]
            if math.isfinite(gradient_norm) or math.isfinite(sum(found)):
                sums.add(batch, found)
        return float(gradient_norm)


@dataclass
class TrainingState:
    """Everything a run resumes from besides tensors; each checkpoint holds it as JSON.

    Attributes:
        step: number of steps so far.
        tokens: number of tokens in them, without padding.
        instances: number of instances in them.
        learning_rate: rate of the last step.
        decay_start: step at which the decay started, if some of them belong to one; see
            ``Schedule.decay_start``.
        elapsed: seconds of training, without those in which the run was stopped.
        phase_starts: first step of each phase that has started.
        evaluated_step: last step that was evaluated.
        best_loss: lowest held-out loss.
        skipped_steps: number of steps without an update, in fp16; see ``ScaledOptimizer``.
        loss_scale: the scale and its age at the checkpoint; None without fp16.
        interval: sums since the last log line.
    """

    step: int = 0
    tokens: int = 0
    instances: int = 0
    learning_rate: float = 0.0
    decay_start: int | None = None
    elapsed: float = 0.0
    phase_starts: list[int] = field(default_factory=lambda: [0])
    evaluated_step: int | None = None
    best_loss: float | None = None
    skipped_steps: int = 0
    loss_scale: tuple[float, int] | None = None
    interval: MetricSums = field(default_factory=MetricSums)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "TrainingState":
        """Return the state that ``asdict`` turned into ``data``."""
        return msgspec.convert(data, cls)

    @property
    def num_updates(self) -> int:
        """Number of steps that updated the weights."""
        return self.step - self.skipped_steps

    @property
    def phase(self) -> int:
        """Number of the current phase."""
        return len(self.phase_starts) - 1


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Statistics of the instances of a run, or of one of its phases.

    Attributes:
        num_instances: number of instances in an epoch.
        num_held_out: number of instances in an evaluation.
        tokens: mean number of tokens in an instance.
        length: mean number of tokens that a token attends to.
        masked_share: predicted tokens divided by all tokens.
    """

    num_instances: int
    num_held_out: int
    tokens: float
    length: float
    masked_share: float


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return the number of parameters of each part, and ``total``; shared ones count once."""
    counts = {"embeddings": 0, "layers": 0, "heads": 0}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0].removeprefix("decoder_")
        counts[part if part in counts else "heads"] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def sample_instances(loader: Loader) -> Sample:
    """Return statistics of a loader's first instances, a random sample."""
    num_steps = max(1, min(NUM_SAMPLED, loader.num_instances) // loader.rank_sizes[0])
    batches = [loader.training_instances(step) for step in range(num_steps)]
    lengths = np.concatenate([np.diff(batch.offsets) for batch in batches])
    num_tokens = int(lengths.sum())
    num_predicted = sum(len(batch.predictions.labels) for batch in batches)
    if loader.is_causal:  # all tokens but the first of each instance
        num_predicted = num_tokens - len(lengths)
    return Sample(
        num_instances=loader.num_instances,
        num_held_out=loader.num_held_out,
        tokens=num_tokens / len(lengths),
        length=mean_length(lengths) / (2 if loader.is_causal else 1),
        masked_share=num_predicted / num_tokens,
    )


def mean_length(lengths: npt.NDArray[np.integer[Any]]) -> float:
    """Return the mean over tokens of the length of the sequence that a token is in.

    Two sequences of 10 and 30 tokens: (10 * 10 + 30 * 30) / 40 = 25, not 20.
    """
    exact = lengths.astype(np.float64)
    return float((exact * exact).sum() / max(exact.sum(), 1.0))


def count_flops_per_token(model: Transformer, sample: Sample) -> float:
    """Return the floating-point operations of a token, forward and backward."""
    shape = model.config
    attention = 12 * shape.hidden_size * model.count_attended(sample.length, sample.masked_share)
    return (
        6 * model.count_layer_parameters()
        + attention
        + 6 * model.count_head_parameters() * sample.masked_share
    )
