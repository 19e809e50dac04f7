"""The training loops that are compared, with the same methods: tokkit's and a loop of transformers.

Both train on the same instances, masks and micro-batches, with the same optimizer and clipping.
tokkit's loop has the parts of a real run: its loader, prefetcher, model and step. The other is
transformers' ``BertForPreTraining`` with ``sdpa``, padded to the longest, in a plain loop; its
batches are made in advance and are on the device already, so it never waits for data.
"""

import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from tokkit.pretraining.data.batches import Batch, Layout, MicroBatches
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.models.architectures import build_meta_model
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import autocast, choose_precision, torch_settings
from tokkit.pretraining.training.distributed import join_process_group
from tokkit.pretraining.training.launch_info import SINGLE_PROCESS
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.metrics import count_flops_per_token, sample_instances
from tokkit.pretraining.training.optimizers import build_optimizer, clip_gradients, update_weights
from tokkit.pretraining.training.train_model import choose_model, open_trainer

RATE = 1e-4
WARM_UP_STEPS = 5


class TrainingLoop(Protocol):
    """Trains on batches that are known by their steps."""

    def warm_up(self, steps: Sequence[int]) -> None:
        """Train on a few batches, among them one of each shape in ``steps``."""

    def run_step(self, step: int) -> float:
        """Train on a batch, or launch that on a device; return the seconds of waiting for data."""

    def finish(self) -> None:
        """Wait until the device has done all steps."""


class TokkitLoop:
    """The loop of ``tokkit pretrain``."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._prefetcher = trainer.prefetcher
        self._next = 0

    def warm_up(self, steps: Sequence[int]) -> None:
        first: dict[tuple[int, ...], int] = {}
        for step in steps:
            for batch in self._skip(step):
                shape = (len(batch.inputs.input_ids_N), len(batch.inputs.labels_M))
                first.setdefault(shape, step)
        for step in [*sorted(set(first.values())), *steps[:WARM_UP_STEPS]]:
            self._next = step
            self.run_step(step)
        self.finish()
        self._skip(steps[0])
        self._next = steps[0]

    def run_step(self, step: int) -> float:
        waited = 0.0
        while self._next < step:  # in order, so that the prefetcher has the next one ready
            self._skip(self._next)
            self._next += 1
            waited += self._prefetcher.waited
        self._trainer.state.step = step
        self._trainer.step()
        self._next = step + 1
        return waited + self._prefetcher.waited

    def finish(self) -> None:
        self._trainer.collect_metrics()

    def _skip(self, step: int) -> tuple[Batch, ...]:
        batches = self._prefetcher.next_batches(0, step)
        self._prefetcher.mark_copied()
        return batches


class TransformersLoop:
    """A plain loop with a model of transformers.

    Args:
        config: options of the run whose batches it trains on.
        steps: steps whose batches are made in advance.
        device: device of model and batches.
        compiled: whether the model is compiled by ``torch.compile``.
    """

    def __init__(
        self, config: PretrainConfig, steps: Sequence[int], device: torch.device, *, compiled: bool
    ) -> None:
        import transformers

        sources = open_sources(config)
        shape = choose_model(config, sources)[0]
        torch.manual_seed(config.seed)
        self._model = transformers.BertForPreTraining(
            transformers.BertConfig(**asdict(shape), attn_implementation="sdpa")
        ).to(device)
        self._model.train()
        self._optimizer = build_optimizer(self._model, config)
        self._forward = torch.compile(self._model, dynamic=False) if compiled else self._model
        self._autocast = autocast(choose_precision(config.precision, device), device)
        self._max_norm = config.max_gradient_norm
        self._device = device
        loader = Loader(sources, config)
        plan = MicroBatches.plan(
            loader, loader.rank_sizes[0], config.micro_batch_tokens or 0, static=False
        )
        self._batches = {
            step: _lay_out(loader, step, plan.bounds, sources.pad_id, device) for step in steps
        }

    def warm_up(self, steps: Sequence[int]) -> None:
        first: dict[Any, int] = {}
        for step in steps:
            for batch in self._batches[step]:
                first.setdefault(batch["input_ids"].shape, step)
        for step in [*sorted(set(first.values())), *steps[:WARM_UP_STEPS]]:
            self.run_step(step)
        self.finish()

    def run_step(self, step: int) -> float:
        batches = self._batches[step]
        for batch in batches:
            with self._autocast:
                loss = self._forward(**batch).loss
            torch.autograd.backward(loss / len(batches))
        clip_gradients(self._model, self._max_norm)
        update_weights(self._optimizer, RATE)
        return 0.0

    def finish(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()


def _lay_out(
    loader: Loader, step: int, bounds: Sequence[int], pad_id: int, device: torch.device
) -> list[dict[str, Any]]:
    """Return a step's micro-batches as keyword arguments of the model."""
    instances = loader.training_instances(step)
    labels = torch.from_numpy(instances.next_sentence_labels)
    tensors = {**padded_batch(instances, pad_id), "next_sentence_label": labels}
    return [
        {name: tensor[start:stop].to(device) for name, tensor in tensors.items()}
        for start, stop in pairwise(bounds)
    ]


@contextmanager
def open_tokkit(config: PretrainConfig) -> Iterator[TokkitLoop]:
    """Set a run up as ``tokkit pretrain`` does."""
    with (
        join_process_group(config, SINGLE_PROCESS) as group,
        torch_settings(config, group.device),
        open_trainer(config, open_sources(config), group) as trainer,
    ):
        yield TokkitLoop(trainer)
    _free_memory()


@contextmanager
def open_transformers(
    config: PretrainConfig, steps: Sequence[int], *, compiled: bool
) -> Iterator[TransformersLoop]:
    """Set a model of transformers up with the same settings."""
    with join_process_group(config, SINGLE_PROCESS) as group, torch_settings(config, group.device):
        yield TransformersLoop(config, steps, group.device, compiled=compiled)
    _free_memory()


def _free_memory() -> None:
    """Free the memory of the loop that ended."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def count_flops(config: PretrainConfig) -> float:
    """Return the operations per real token of a run's model, forward and backward."""
    sources = open_sources(config)
    shape = choose_model(config, sources)[0]
    sample = sample_instances(Loader(sources, config))
    return count_flops_per_token(build_meta_model(shape), sample)


def choose_steps(config: PretrainConfig, num_steps: int, num_shapes: int) -> list[int]:
    """Return the first steps whose micro-batches have the most common sizes, in 32nds of the capacity.

    A peer is compiled for each shape, which takes as long as thousands of steps.
    """
    loader = Loader(open_sources(config), config)
    plan = MicroBatches.plan(
        loader, loader.rank_sizes[0], config.micro_batch_tokens or 0, static=True
    )
    tokens, _, predictions, number = plan.capacity
    padding = replace(
        plan.padding,
        tokens=max(64, tokens // number // 32),
        predictions=max(1, predictions // number // 16),
    )
    shapes = {}
    for step in range(2 * num_steps):
        instances = loader.training_instances(step)
        layout = Layout.measure(instances, plan.bounds, padding, causal=False)
        _, tokens, _, predictions = np.diff(layout.bounds).tolist()
        shapes[step] = tuple(zip(tokens, predictions, strict=True))
    counts = Counter(shape for of_step in shapes.values() for shape in of_step)
    common = {shape for shape, _ in counts.most_common(num_shapes)}
    return [step for step, of_step in shapes.items() if common.issuperset(of_step)][:num_steps]


def count_tokens(config: PretrainConfig, steps: Sequence[int]) -> tuple[int, float]:
    """Return the real tokens of some steps, and their share of all tokens with padding."""
    loader = Loader(open_sources(config), config)
    num_tokens = sum(len(loader.training_instances(step).input_ids) for step in steps)
    return num_tokens, num_tokens / (len(steps) * loader.rank_sizes[0] * loader.max_seq_length)


def time_steps(loop: TrainingLoop, steps: Sequence[int]) -> tuple[float, float]:
    """Return the seconds that some steps take, and of those the seconds of waiting for data."""
    loop.finish()
    started = time.perf_counter()
    waited = sum(loop.run_step(step) for step in steps)
    loop.finish()
    return time.perf_counter() - started, waited
