"""What a run will need, told before it begins (``--dry-run``): parameters, memory, steps, time.

What instances are like is told from the first few thousand of the run's own order, a random
sample. Time is measured: one step to warm up and three that count, of the real model on real
batches. A phase takes time as it takes operations; an evaluation only goes forward, and takes a
third of the time in which its tokens would be trained on. With 1,000 steps of 0.5 seconds, batches
of 256, an evaluation of 512 instances every 100 steps and one before the first:

    training 1000 * 0.5 = 500 s       evaluations 11 * (512 / 256) * 0.5 / 3 = 3.7 s

Where the memory does not suffice, nothing is measured; then the time is told from the device's peak
and an assumed MFU, if that peak is known, and otherwise not at all. What cannot be told is not a
number, and so is all that follows from it.

How many floating-point operations a token costs, and how many a device could do.

Forward and backward, each parameter of a matrix that a token goes through costs 6 operations: a
multiplication and an addition, once forward and twice backward. Attention costs beside that 12 a
layer, a hidden unit and a token that is looked at (two products of 2 operations, three times). The
head is gone through by predicted tokens only. So a token costs

    6 * encoder parameters  +  12 * layers * hidden * length  +  6 * head parameters * masked share

For BERT-base with 30,522 entries, 128 tokens to a sequence and a share of 0.15 that is
510.3 + 14.2 + 21.6 = 546.1 million. Embeddings are looked up, not multiplied; what is computed for
padding, or computed twice to save memory, is not counted: it is no use to anyone.

MFU, model FLOPs utilization (PaLM, Chowdhery et al. 2022, arXiv:2204.02311, appendix B), is the
rate of these operations as a share of what the device's data sheet promises.

How much memory a process of a run needs: a sum of what is known to be there.

Of BERT-base with 30,522 entries, 110.1 million parameters, in bf16 on a GPU, with micro-batches of
16,384 tokens of which 2,458 are predicted, in MB:

    weights       440    fp32
    gradients     440    fp32
    moments       881    two of the optimizer, fp32
    copies        220    the weights in bf16, for products
    activations  5832    what the backward pass needs of the forward pass
    logits        899    those of a part of the predictions, and the decoder's gradient

The first three are exact. Activations are those of a model that is not compiled: a compiler
computes some of them again rather than keeping them. What libraries keep for themselves, some
hundred MB on a GPU, is not counted.
"""

import math
import operator
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.models.bert import ModelConfig
from tokkit.pretraining.models.build_model import Model
from tokkit.pretraining.models.loss import CHUNK_LOGITS
from tokkit.pretraining.pretrain_config import PretrainConfig


def count_encoder_parameters(*, num_layers: int, hidden_size: int, intermediate_size: int) -> int:
    """Parameters that a token goes through: layers that share weights count as many times.

    They are those of attention (4 matrices), of the feed-forward network (2) and of 2 norms.
    """
    attention = 4 * (hidden_size * hidden_size + hidden_size)
    feed_forward = 2 * hidden_size * intermediate_size + hidden_size + intermediate_size
    return num_layers * (attention + feed_forward + 4 * hidden_size)


def count_head_parameters(*, hidden_size: int, vocab_size: int, has_transform: bool = True) -> int:
    """Parameters that a predicted token goes through: BERT's transform and norm, and a decoder."""
    transform = hidden_size * hidden_size + 3 * hidden_size if has_transform else 0
    return transform + vocab_size * hidden_size + vocab_size


def count_flops_per_token(
    *,
    num_layers: int,
    hidden_size: int,
    intermediate_size: int,
    vocab_size: int,
    mean_length: float,
    masked_share: float,
    has_transform: bool = True,
) -> float:
    """Operations of a token of text, forward and backward.

    Args:
        num_layers: of the encoder.
        hidden_size: width of the residual stream.
        intermediate_size: width of the feed-forward network.
        vocab_size: entries, without what fills up the decoder.
        mean_length: tokens that a token looks at, see ``mean_length``; half of it where it looks
            back only.
        masked_share: predicted tokens of all; 1 where every token is predicted.
        has_transform: whether the head is BERT's; GPT's is the decoder alone.
    """
    encoder = count_encoder_parameters(
        num_layers=num_layers, hidden_size=hidden_size, intermediate_size=intermediate_size
    )
    head = count_head_parameters(
        hidden_size=hidden_size, vocab_size=vocab_size, has_transform=has_transform
    )
    return 6 * encoder + 12 * num_layers * hidden_size * mean_length + 6 * head * masked_share


def mean_length(lengths: npt.NDArray[np.integer[Any]]) -> float:
    """The length of the sequence that a token is in, on average over tokens.

    Two sequences of 10 and 30 tokens: (10 * 10 + 30 * 30) / 40 = 25, not 20.

    Args:
        lengths: tokens of each sequence.
    """
    exact = lengths.astype(np.float64)
    return float((exact * exact).sum() / max(exact.sum(), 1.0))


# Dense operations a second in bf16 with sums in fp32, by the name that ``torch.cuda.
# get_device_name`` gives: whole names, since a slice of a card (MIG) or a cut-down one has a name
# that begins alike. Data sheets that name the rate with sparsity only are halved. What is not
# here, such as the A10G, of which NVIDIA publishes no such figure, has no MFU.
PEAKS: tuple[tuple[str, float], ...] = (
    # NVIDIA Blackwell Architecture technical brief and DGX/HGX B200, GB200 NVL72 data sheets
    (r"NVIDIA B200", 2250e12),
    (r"NVIDIA GB200", 2500e12),
    # NVIDIA H100 and H200 Tensor Core GPU data sheets; H100 architecture white paper, table 2
    (r"NVIDIA H100 80GB HBM3|NVIDIA H200|NVIDIA GH200 480GB", 989.4e12),
    (r"NVIDIA H100 PCIe", 756e12),
    (r"NVIDIA H100 NVL|NVIDIA H200 NVL", 835.5e12),
    # NVIDIA A100, A40, A30 and A10 Tensor Core GPU data sheets
    (r"(NVIDIA )?A100-(SXM4|SXM|PCIE)-(40|80)GB|NVIDIA A100 80GB PCIe", 312e12),
    (r"NVIDIA A40", 149.7e12),
    (r"NVIDIA A30", 165e12),
    (r"NVIDIA A10", 125e12),
    # NVIDIA L4, L40 and L40S data sheets
    (r"NVIDIA L4", 121e12),
    (r"NVIDIA L40", 181.05e12),
    (r"NVIDIA L40S", 362.05e12),
    # NVIDIA RTX A6000 data sheet; Ada GPU architecture white paper, RTX 6000
    (r"NVIDIA RTX A6000", 154.8e12),
    (r"NVIDIA RTX 6000 Ada Generation", 364.2e12),
    # NVIDIA V100, V100S and T4 data sheets: of fp16, since they have no units for bf16
    (r"Tesla V100-SXM[23]-(16|32)GB(-LS)?", 125e12),
    (r"Tesla V100-PCIE-(16|32)GB", 112e12),
    (r"Tesla V100S-PCIE-32GB", 130e12),
    (r"Tesla T4", 65e12),
    # NVIDIA GA102, Ada and RTX Blackwell GPU architecture white papers: with sums in fp32, at
    # half the rate of sums in fp16
    (r"NVIDIA GeForce RTX 3090", 71e12),
    (r"NVIDIA GeForce RTX 3090 Ti", 80e12),
    (r"NVIDIA GeForce RTX 4090", 165.2e12),
    (r"NVIDIA GeForce RTX 5090", 209.5e12),
    # AMD Instinct MI210, MI250X, MI300X and MI325X data sheets; of the two dies of an MI250X,
    # each is a device
    (r"AMD Instinct MI210", 181e12),
    (r"AMD Instinct MI250X", 191.5e12),
    (r"AMD Instinct MI300X|AMD Instinct MI325X", 1307.4e12),
)


def find_peak_flops(device_name: str) -> float | None:
    """Dense bf16 operations a second that a device's data sheet promises.

    Args:
        device_name: as ``torch.cuda.get_device_name`` gives it.

    Returns:
        None where the device is not known: then there is no MFU.
    """
    return next((peak for name, peak in PEAKS if re.fullmatch(name, device_name)), None)


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of one process.

    Attributes:
        weights: in fp32.
        gradients: likewise.
        moments: of the optimizer, likewise.
        copies: of weights, for products in bf16; where weights are split among processes, all that
            is whole at one time.
        activations: of one micro-batch.
        logits: of one part of its predictions, and the gradient of the decoder.
    """

    weights: int
    gradients: int
    moments: int
    copies: int
    activations: int
    logits: int

    @property
    def total(self) -> int:
        """All of them, which are there at once when the backward pass begins."""
        return sum(asdict(self).values())

    def as_dict(self) -> dict[str, int]:
        """The parts and ``total``."""
        return {**asdict(self), "total": self.total}


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Parameters by part, and ``total``; what layers share counts once."""
    counts = {"embeddings": 0, "layers": 0, "heads": 0}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        counts[part if part in counts else "heads"] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def estimate_memory(
    shape: ModelConfig,
    parameters: dict[str, int],
    *,
    num_tokens: int,
    num_predicted: int,
    mean_length: float,
    is_half: bool,
    on_gpu: bool,
    num_shards: int = 1,
) -> Memory:
    """Estimate what a process needs.

    Args:
        shape: of the model.
        parameters: as ``count_parameters`` gives them.
        num_tokens: of a micro-batch.
        num_predicted: of them.
        mean_length: see ``tokkit.pretraining.training.estimate``.
        is_half: products are in bf16.
        on_gpu: where attention keeps no weights, and dropout a byte for each place.
        num_shards: processes among which weights, gradients and moments are split; 1 for none.
    """
    total = parameters["total"]
    own = -(-total // num_shards)
    if num_shards > 1:
        # What is no layer stays whole; of layers the one in use is, and the next.
        num_layers = 1 if shape.share_layers else shape.num_hidden_layers
        whole = total - parameters["layers"] + 2 * parameters["layers"] // num_layers
        copies = (4 + (2 if is_half else 0)) * whole
    else:
        copies = 2 * total if is_half else 0
    chunk = min(num_predicted, max(1, CHUNK_LOGITS // shape.vocab_size))
    return Memory(
        weights=4 * own,
        gradients=4 * own,
        moments=8 * own,
        copies=copies,
        activations=_estimate_activations(
            shape, num_tokens, num_predicted, mean_length, is_half=is_half, on_gpu=on_gpu
        ),
        # Logits, their distance from the sum, and its exponential, in fp32.
        logits=3 * 4 * chunk * shape.vocab_size + 4 * shape.num_entries * (shape.hidden_size + 1),
    )


def _estimate_activations(
    shape: ModelConfig,
    num_tokens: int,
    num_predicted: int,
    mean_length: float,
    *,
    is_half: bool,
    on_gpu: bool,
) -> int:
    """What autograd keeps: the inputs of products, norms and GELU, and what was dropped.

    A layer keeps of each token its input, queries, keys, values, their mixture and the first norm's
    output (6 times the hidden size), the inputs of both norms (2, in fp32 always), and the input
    and output of GELU (2 times the feed-forward size).
    """
    product = 2 if is_half else 4
    D, F = shape.hidden_size, shape.intermediate_size
    layer: float = product * (6 * D + 2 * F) + 2 * 4 * D
    if shape.hidden_dropout_prob:
        layer += 2 * D * (1 if on_gpu else product)
    if not on_gpu and shape.attention_probs_dropout_prob:
        # All in fp32: queries, keys and values once more, in a padded block; the weights of
        # attention, what was dropped of them, and what was left.
        layer += 4 * 3 * (D + shape.num_attention_heads * mean_length)
    elif not on_gpu:
        layer += 3 * product * D  # the block
    embeddings = (4 + product) * D  # the input of the norm, and what was dropped
    head = 5 * product * D  # inputs of the transform, of GELU, norm and decoder, and a gradient
    return round(num_tokens * (shape.num_hidden_layers * layer + embeddings) + num_predicted * head)


def find_capacity(device: torch.device) -> int | None:
    """Bytes of memory that a run could use: free on a GPU, all there is beside a CPU; else None."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "cpu" and "SC_PHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


NUM_SAMPLED = 4096
NUM_STEPS = 3
ASSUMED_MFU = 0.4


@dataclass(frozen=True, kw_only=True)
class Sample:
    """What the instances of a run, or of one of its phases, are like.

    Attributes:
        num_instances: that make an epoch.
        num_held_out: that an evaluation looks at.
        tokens: of an instance, on average.
        length: of what a token looks at, on average over tokens.
        masked_share: predicted tokens of all.
    """

    num_instances: int
    num_held_out: int
    tokens: float
    length: float
    masked_share: float


def sample_instances(loader: Loader, batch_size: int, *, causal: bool = False) -> Sample:
    """Say what a loader's instances are like.

    Args:
        loader: of one process, which reads whole batches.
        batch_size: of them.
        causal: every token but an instance's first is predicted, from those before it.
    """
    num_steps = max(1, min(NUM_SAMPLED, loader.num_instances) // batch_size)
    batches = [loader.training_instances(step) for step in range(num_steps)]
    lengths = np.concatenate([np.diff(batch.offsets) for batch in batches])
    num_masked = sum(len(batch.masks.labels) for batch in batches)
    num_tokens = int(lengths.sum())
    return Sample(
        num_instances=loader.num_instances,
        num_held_out=loader.num_held_out,
        tokens=num_tokens / len(lengths),
        length=mean_length(lengths) / (2 if causal else 1),
        masked_share=(num_tokens - len(lengths) if causal else num_masked) / num_tokens,
    )


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What is foretold of a phase; a run without phases is one.

    Attributes:
        steps: of the optimizer.
        tokens_per_step: of all processes, without padding.
        steps_per_epoch: over the phase's instances.
        flops_per_token: forward and backward.
        seconds_per_step: of training.
    """

    steps: float
    tokens_per_step: float
    steps_per_epoch: float
    flops_per_token: float
    seconds_per_step: float

    @property
    def flops_per_step(self) -> float:
        """Of all processes."""
        return self.tokens_per_step * self.flops_per_token


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What is foretold of a run.

    Attributes:
        parameters: by part, and ``total``.
        memory: of a process.
        other_memory: of a process with ``--fsdp`` where that is not asked for, else without; None
            where there is one process.
        capacity: bytes that a process may use; None where that is not known.
        phases: one after the other.
        evaluation_seconds: that all evaluations take.
        timing: where the times are from, in words.
    """

    parameters: dict[str, int]
    memory: Memory
    other_memory: Memory | None
    capacity: int | None
    phases: tuple[Phase, ...]
    evaluation_seconds: float
    timing: str

    def as_dict(self) -> dict[str, Any]:
        """All of it, with totals, as JSON; what is not a number is None."""
        phases = [
            {**asdict(phase), "epochs": phase.steps / phase.steps_per_epoch}
            for phase in self.phases
        ]
        training = sum(phase.steps * phase.seconds_per_step for phase in self.phases)
        form = {
            "parameters": self.parameters,
            "memory": self.memory.as_dict(),
            "other_memory": self.other_memory and self.other_memory.as_dict(),
            "capacity": self.capacity,
            "fits": fits(self.memory, self.capacity),
            "phases": phases,
            "steps": sum(phase.steps for phase in self.phases),
            "tokens": sum(phase.steps * phase.tokens_per_step for phase in self.phases),
            "flops": sum(phase.steps * phase.flops_per_step for phase in self.phases),
            "training_seconds": training,
            "evaluation_seconds": self.evaluation_seconds,
            "seconds": training + self.evaluation_seconds,
            "timing": self.timing,
        }
        cleaned: dict[str, Any] = _without_nan(form)
        return cleaned


def _without_nan(form: Any) -> Any:
    if isinstance(form, dict):
        return {name: _without_nan(value) for name, value in form.items()}
    if isinstance(form, list):
        return [_without_nan(value) for value in form]
    return None if isinstance(form, float) and math.isnan(form) else form


def fits(memory: Memory, capacity: int | None) -> bool:
    """Whether the memory suffices, as far as is known."""
    return capacity is None or memory.total <= capacity


def forecast(
    config: PretrainConfig,
    model: Model,
    samples: Sequence[Sample],
    *,
    device: torch.device,
    is_half: bool,
    num_processes: int = 1,
    time_step: Callable[[], float] | None = None,
) -> Forecast:
    """Foretell a run; nothing is written.

    Args:
        config: of the run.
        model: of its shape; its tensors are not looked at, and may be on the meta device.
        samples: of its phases in order; of a run without phases, one.
        device: of each process.
        is_half: products are in bf16.
        num_processes: that share each batch.
        time_step: takes one step of the first phase and returns its seconds. It is not called where
            the memory does not suffice, so it may load what it needs when it is first called.
    """
    parameters = count_parameters(model)
    whole, split = (
        _estimate(
            config,
            model.config,
            parameters,
            samples,
            num_processes=num_processes,
            num_shards=num_shards,
            is_half=is_half,
            on_gpu=device.type != "cpu",
        )
        for num_shards in (1, num_processes)
    )
    memory, other = (split, whole) if config.fsdp else (whole, split)
    capacity = find_capacity(device)
    if capacity is not None and device.type == "cpu":
        capacity //= num_processes
    flops = [flops_per_token(model.config, sample) for sample in samples]
    work = [config.batch_size * s.tokens * cost for s, cost in zip(samples, flops, strict=True)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    peak = find_peak_flops(name) if is_half else None
    seconds, timing = _time(time_step if fits(memory, capacity) else None)
    if math.isnan(seconds) and peak is not None:
        seconds = work[0] / (peak * num_processes * ASSUMED_MFU)
        timing += f"; told from an assumed MFU of {ASSUMED_MFU:.0%} of the peak of {name}"
    phases = tuple(
        _foretell(config, number, sample, cost, seconds * part / work[0])
        for number, (sample, cost, part) in enumerate(zip(samples, flops, work, strict=True))
    )
    evaluations = [
        _evaluation_seconds(config, sample, phase.seconds_per_step)
        for sample, phase in zip(samples, phases, strict=True)
    ]
    counts = [phase.steps / config.eval_every for phase in phases]
    return Forecast(
        parameters=parameters,
        memory=memory,
        other_memory=other if num_processes > 1 else None,
        capacity=capacity,
        phases=phases,
        # One comes before the first step.
        evaluation_seconds=evaluations[0] + sum(map(operator.mul, evaluations, counts)),
        timing=timing,
    )


def _time(time_step: Callable[[], float] | None) -> tuple[float, str]:
    """Seconds of a step after the first, and how they were found."""
    if time_step is None:
        return math.nan, "not measured"
    time_step()
    return sum(time_step() for _ in range(NUM_STEPS)) / NUM_STEPS, f"measured on {NUM_STEPS} steps"


def _estimate(
    config: PretrainConfig,
    shape: ModelConfig,
    parameters: dict[str, int],
    samples: Sequence[Sample],
    *,
    num_processes: int,
    num_shards: int,
    is_half: bool,
    on_gpu: bool,
) -> Memory:
    """The memory of a process in the phase that needs most."""
    estimates = []
    for sample in samples:
        own = config.batch_size * sample.tokens / num_processes
        num_tokens = min(round(own), config.micro_batch_tokens)
        estimates.append(
            estimate_memory(
                shape,
                parameters,
                num_tokens=num_tokens,
                num_predicted=round(num_tokens * sample.masked_share),
                mean_length=sample.length,
                is_half=is_half,
                on_gpu=on_gpu,
                num_shards=num_shards,
            )
        )
    return max(estimates, key=lambda estimate: estimate.total)


def flops_per_token(shape: ModelConfig, sample: Sample) -> float:
    """Operations of a token of instances like those of the sample, forward and backward."""
    return count_flops_per_token(
        num_layers=shape.num_hidden_layers,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        vocab_size=shape.vocab_size,
        mean_length=sample.length,
        masked_share=sample.masked_share,
        has_transform=shape.objective != "clm",
    )


def _foretell(
    config: PretrainConfig, number: int, sample: Sample, flops: float, seconds: float
) -> Phase:
    share = config.phases[number][1] if config.phases else 1.0
    if config.max_time is None:
        steps = share * config.num_steps
    else:  # evaluations take of the same time
        evaluation = _evaluation_seconds(config, sample, seconds)
        steps = share * config.max_time / (seconds + evaluation / config.eval_every)
    return Phase(
        steps=steps,
        tokens_per_step=config.batch_size * sample.tokens,
        steps_per_epoch=sample.num_instances / config.batch_size,
        flops_per_token=flops,
        seconds_per_step=seconds,
    )


def _evaluation_seconds(config: PretrainConfig, sample: Sample, seconds_per_step: float) -> float:
    """Of one evaluation: 2 of the 6 operations that each parameter costs in training."""
    return sample.num_held_out / config.batch_size * seconds_per_step / 3
