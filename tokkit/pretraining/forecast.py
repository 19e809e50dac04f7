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
"""

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.flops import count_flops_per_token, find_peak_flops, mean_length
from tokkit.pretraining.loader import Loader
from tokkit.pretraining.memory import Memory, count_parameters, estimate_memory, find_capacity
from tokkit.pretraining.model import ModelConfig
from tokkit.pretraining.models import Model

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
    num_masked = sum(len(batch.masked_labels) for batch in batches)
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
