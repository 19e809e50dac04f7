"""What a run needs, measured on a few steps before it starts (``--dry-run``).

The real model takes a few steps of each phase on real batches: one to warm up, and three that are
timed. Memory is the peak during these steps. On a GPU that is what torch allocated; on a CPU it is how
much the process grew, which is too little if it had been larger before. A random sample, the few
thousand instances of the first batches, represents all instances.

An evaluation only runs forward, and takes a third of the time of training on the same tokens. With
1,000 steps of 0.5 seconds, batches of 256, and an evaluation of 512 instances before the first step and
every 100 steps:

    training 1000 * 0.5 = 500 s       evaluations 11 * (512 / 256) * 0.5 / 3 = 3.7 s

Of several processes one is measured, on its share of a batch and without exchanging gradients. With
``--fsdp`` it still holds the whole model, so the processes of the run need less memory. A model whose
weights, gradients and moments alone exceed the memory is not measured.
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from tokkit.pretraining.data.instance_sources import Sources, open_sources
from tokkit.pretraining.models.architectures import build_meta_model
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
from tokkit.pretraining.training.metrics import (
    Sample,
    TrainingState,
    count_flops_per_token,
    count_parameters,
    sample_instances,
)
from tokkit.pretraining.training.run_plan import RunPlan
from tokkit.pretraining.training.schedule import Schedule
from tokkit.pretraining.training.train_model import (
    choose_model,
    make_schedule,
    open_loaders,
    open_trainer,
)

NUM_TIMED = 3
BYTES_PER_PARAMETER = 4 * 4  # weight, gradient and two moments of the optimizer, in fp32


def measure_run(plan: RunPlan, num_processes: int) -> dict[str, Any]:
    """Return what a run needs: parameters, bytes of memory, tokens, operations and seconds.

    Nothing is written. Unknown values are None.
    """
    config = plan.config
    with join_process_group(config, SINGLE_PROCESS) as group, torch_settings(config, group.device):
        sources = open_sources(config)
        schedule = make_schedule(config, sources, plan.origin)
        loaders = open_loaders(config, sources, group, schedule)
        samples = [sample_instances(loader) for loader in loaders]
        shape, _ = choose_model(config, sources, plan.model)
        model = build_meta_model(shape)
        parameters = count_parameters(model)
        available = find_available_memory(group.device)
        if available is not None and group.device.type == "cpu":
            available //= num_processes
        seconds, peak = [math.nan] * len(samples), None
        if available is None or BYTES_PER_PARAMETER * parameters["total"] <= available:
            seconds, peak = _measure(plan, sources, group, num_processes)
    fits = None
    if available is not None and (peak is not None or not config.fsdp):
        fits = peak is not None and peak <= available
    return {
        "parameters": parameters,
        "peak_memory": peak,
        "available_memory": available,
        "fits": fits,
        **summarize(config, model, samples, seconds, schedule),
        "timed_steps": 0 if math.isnan(seconds[0]) else NUM_TIMED,
    }


def _measure(
    plan: RunPlan, sources: Sources, group: ProcessGroup, num_processes: int
) -> tuple[list[float], int | None]:
    """Return the seconds per step of each phase, NaN if memory does not suffice, and peak memory.

    Steps have the last batch size, which is the largest if batches grow.
    """
    config = plan.config
    # By the clock, at which no time passes here, the phase remains as it is set.
    left_out: dict[str, Any] = dict.fromkeys(
        ("max_steps", "warmup_tokens", "decay_steps", "continue_from", "decay_from")
    )
    own = replace(
        config,
        batch_size=config.batch_stages[-1][0] // num_processes,
        phases=tuple(
            replace(p, batch_size=p.batch_size and p.batch_size // num_processes)
            for p in config.own_phases
        )
        or config.phases,
        nproc_per_node=None,
        fsdp=False,
        max_time=1e9,
        **left_out,
    )
    if group.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(group.device)
    before = find_peak_memory(group.device)
    seconds = [math.nan] * len(config.shares)
    try:
        with open_trainer(own, sources, group, model_shape=plan.model) as trainer:
            seconds = [_time_steps(trainer, phase) for phase in range(len(seconds))]
    except torch.OutOfMemoryError:
        return seconds, None
    after = find_peak_memory(group.device)
    return seconds, None if before is None or after is None else after - before


def _time_steps(trainer: Trainer, phase: int) -> float:
    """Return the mean seconds of a step of a phase."""
    trainer.state = TrainingState(phase_starts=[0] * (phase + 1))
    for step in range(1 + NUM_TIMED):
        if step == 1:
            trainer.collect_metrics()  # waits for the first step, which compiles and allocates
            started = time.perf_counter()
        trainer.step()
    trainer.collect_metrics()  # only once, since training does not wait for a GPU at each step
    return (time.perf_counter() - started) / NUM_TIMED


def summarize(
    config: PretrainConfig,
    model: Transformer,
    samples: Sequence[Sample],
    seconds_per_step: Sequence[float],
    schedule: Schedule,
) -> dict[str, Any]:
    """Return the figures of each phase and of the whole run; unknown ones are None.

    Args:
        config: options of the run.
        model: model of the run, with or without data.
        samples: sample of each phase; a run without phases has one.
        seconds_per_step: of each phase, with batches of the last size; NaN if not measured.
        schedule: schedule of the run.
    """
    phases: list[dict[str, float]] = []
    evaluation_seconds = 0.0
    for number, (sample, seconds) in enumerate(zip(samples, seconds_per_step, strict=True)):
        share, sizes = config.shares[number], schedule.batch_sizes(number)
        last_size = sizes.sizes[-1]
        evaluation = sample.num_held_out / last_size * seconds / 3
        if not schedule.by_clock:
            steps = share * schedule.end
        else:  # evaluations take part of the same time
            steps = share * schedule.end / (seconds + evaluation / config.eval_steps)
        size = float(last_size)
        if len(sizes.stages) > 1:
            size = (sizes.at(round(steps))[0] - sizes.start) / max(1, round(steps))
        # One evaluation comes before the first step.
        evaluation_seconds += evaluation * (steps / config.eval_steps + (not phases))
        phases.append(
            {
                "steps": steps,
                "tokens_per_step": size * sample.tokens,
                "steps_per_epoch": sample.num_instances / size,
                "epochs": steps * size / sample.num_instances,
                "flops_per_token": count_flops_per_token(model, sample),
                "seconds_per_step": seconds * size / last_size,
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
