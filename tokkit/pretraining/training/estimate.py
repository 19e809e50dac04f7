"""What a run needs, measured on its first steps before it starts (``--dry-run``).

A few steps of each phase are taken with the real model on real batches: one to warm up and three
that are timed. Memory is the peak of these steps. On a GPU that is what torch allocated; on a CPU
it is by how much the process grew, so in a process that was larger before, too little is reported.
The instances of the run's first batches, a random sample of a few thousand, stand for all.

An evaluation only goes forward, and takes a third of the time in which its tokens would be trained
on. With 1,000 steps of 0.5 seconds, batches of 256, an evaluation of 512 instances every 100 steps
and one before the first:

    training 1000 * 0.5 = 500 s       evaluations 11 * (512 / 256) * 0.5 / 3 = 3.7 s

Of several processes one is measured, on its share of a batch and without the exchange of gradients;
with ``--fsdp`` it still holds the whole model, so a process of the run needs less memory. A model
whose weights, gradients and moments alone exceed the memory is not measured.

Floating-point operations: forward and backward, each parameter of a matrix that a token passes costs
6, a multiplication and an addition once forward and twice backward. Attention costs 12 more for each
layer, hidden unit and token that is attended to (two products of 2 operations, three times). Only
predicted tokens pass the head. So a token costs

    6 * encoder parameters  +  12 * layers * hidden * length  +  6 * head parameters * masked share

For BERT-base with a vocabulary of 30,522, 128 tokens in a sequence and a masked share of 0.15 that is
510.3 + 14.2 + 21.6 = 546.1 million. Embeddings are looked up, not multiplied; what is computed for
padding, or computed twice to save memory, is not counted, because nobody needs it. The rate of these
operations as a share of the device's peak is the MFU, model FLOPs utilization (PaLM, Chowdhery et al.
2022, arXiv:2204.02311, appendix B).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from tokkit.pretraining.data.loader import Loader, open_sources
from tokkit.pretraining.models.architectures import outline_model
from tokkit.pretraining.models.transformer import Transformer
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import (
    find_available_memory,
    find_peak_memory,
    torch_settings,
)
from tokkit.pretraining.training.distributed import ProcessGroup, join_process_group
from tokkit.pretraining.training.launch_info import SINGLE_PROCESS
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.setup import TrainingSetup, choose_model, open_loaders, set_up

NUM_SAMPLED = 4096
NUM_TIMED = 3
BYTES_PER_PARAMETER = 4 * 4  # weight, gradient and two moments of the optimizer, in fp32


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Statistics of the instances of a run, or of one of its phases.

    Attributes:
        num_instances: instances in an epoch.
        num_held_out: instances in an evaluation.
        tokens: mean number of tokens in an instance.
        length: mean number of tokens that a token attends to.
        masked_share: predicted tokens divided by all tokens.
    """

    num_instances: int
    num_held_out: int
    tokens: float
    length: float
    masked_share: float


def measure_run(config: PretrainConfig, num_processes: int) -> dict[str, Any]:
    """Return what a run needs: parameters, bytes of memory, tokens, operations, seconds.

    Nothing is written. What is not known is None.
    """
    with (
        join_process_group(config, SINGLE_PROCESS) as group,
        torch_settings(config, group.device),
    ):
        sources = open_sources(config)
        samples = [
            sample_instances(loader, config.batch_size)
            for loader in open_loaders(config, sources, group)
        ]
        shape, _ = choose_model(config, sources)
        model = outline_model(shape)
        parameters = count_parameters(model)
        available = find_available_memory(group.device)
        if available is not None and group.device.type == "cpu":
            available //= num_processes
        seconds, peak = [math.nan] * len(samples), None
        if available is None or BYTES_PER_PARAMETER * parameters["total"] <= available:
            seconds, peak = _measure(config, group, num_processes)
    fits = None
    if available is not None and (peak is not None or not config.fsdp):
        fits = peak is not None and peak <= available
    return {
        "parameters": parameters,
        "peak_memory": peak,
        "available_memory": available,
        "fits": fits,
        **summarize(config, model, samples, seconds),
        "timed_steps": 0 if math.isnan(seconds[0]) else NUM_TIMED,
    }


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Return the parameters of each part, and ``total``; what layers share counts once."""
    counts = {"embeddings": 0, "layers": 0, "heads": 0}
    for name, parameter in model.named_parameters():
        part = name.split(".", 1)[0]
        counts[part if part in counts else "heads"] += parameter.numel()
    return {**counts, "total": sum(counts.values())}


def sample_instances(loader: Loader, batch_size: int) -> Sample:
    """Return statistics of a loader's instances.

    Args:
        loader: of a single process, which reads whole batches.
        batch_size: instances in a batch.
    """
    num_steps = max(1, min(NUM_SAMPLED, loader.num_instances) // batch_size)
    batches = [loader.training_instances(step) for step in range(num_steps)]
    lengths = np.concatenate([np.diff(batch.offsets) for batch in batches])
    num_tokens = int(lengths.sum())
    num_predicted = sum(len(batch.masks.labels) for batch in batches)
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
    encoder = sum(parameter.numel() for parameter in model.layers.parameters())
    encoder *= shape.num_hidden_layers // len(model.layers)  # 1, or all where layers are shared
    attention = 12 * shape.num_hidden_layers * shape.hidden_size * sample.length
    return 6 * encoder + attention + 6 * model.count_head_parameters() * sample.masked_share


def _measure(
    config: PretrainConfig, group: ProcessGroup, num_processes: int
) -> tuple[list[float], int | None]:
    """Return seconds per step of each phase, NaN where the memory does not suffice, and the peak."""
    own = replace(
        config, batch_size=config.batch_size // num_processes, nproc_per_node=None, fsdp=False
    )
    if group.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(group.device)
    before = find_peak_memory(group.device)
    seconds = [math.nan] * max(1, len(config.phases))
    try:
        with set_up(own, group) as setup:
            seconds = [_time_steps(own, setup, phase) for phase in range(len(seconds))]
    except torch.OutOfMemoryError:
        return seconds, None
    after = find_peak_memory(group.device)
    return seconds, None if before is None or after is None else after - before


def _time_steps(config: PretrainConfig, setup: TrainingSetup, phase: int) -> float:
    """Return the mean seconds of a step of a phase."""
    # In a run by the clock, of which no time passes, the phase remains what it is set to.
    trainer = Trainer(replace(config, max_steps=None, max_time=1e9), setup)
    trainer.state.phase_starts = [0] * (phase + 1)
    for step in range(1 + NUM_TIMED):
        if step == 1:
            started = time.perf_counter()
        trainer.step()
        trainer.collect_metrics()
    return (time.perf_counter() - started) / NUM_TIMED


def summarize(
    config: PretrainConfig,
    model: Transformer,
    samples: Sequence[Sample],
    seconds_per_step: Sequence[float],
) -> dict[str, Any]:
    """Return the figures of each phase and of the whole run; None for what is not known.

    Args:
        config: of the run.
        model: with or without data.
        samples: one for each phase; a run without phases is one phase.
        seconds_per_step: of each phase, NaN if not measured.
    """
    shares = [share for _, share in config.phases] or [1.0]
    phases: list[dict[str, float]] = []
    evaluation_seconds = 0.0
    for share, sample, seconds in zip(shares, samples, seconds_per_step, strict=True):
        evaluation = sample.num_held_out / config.batch_size * seconds / 3
        if config.max_time is None:
            steps = share * config.num_steps
        else:  # evaluations take part of the same time
            steps = share * config.max_time / (seconds + evaluation / config.eval_steps)
        # One evaluation comes before the first step.
        evaluation_seconds += evaluation * (steps / config.eval_steps + (not phases))
        phases.append(
            {
                "steps": steps,
                "tokens_per_step": config.batch_size * sample.tokens,
                "steps_per_epoch": sample.num_instances / config.batch_size,
                "epochs": steps * config.batch_size / sample.num_instances,
                "flops_per_token": count_flops_per_token(model, sample),
                "seconds_per_step": seconds,
            }
        )
    training = sum(phase["steps"] * phase["seconds_per_step"] for phase in phases)
    figures = {
        "phases": [_without_nan(phase) for phase in phases],
        "steps": sum(phase["steps"] for phase in phases),
        "tokens": sum(phase["steps"] * phase["tokens_per_step"] for phase in phases),
        "flops": sum(
            phase["steps"] * phase["tokens_per_step"] * phase["flops_per_token"] for phase in phases
        ),
        "training_seconds": training,
        "evaluation_seconds": evaluation_seconds,
        "seconds": training + evaluation_seconds,
    }
    return _without_nan(figures)


def _without_nan(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value
        for name, value in figures.items()
    }
