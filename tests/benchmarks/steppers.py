"""Those who take training steps, behind the same few calls: tokkit, and transformers beside it.

Both train from the same instances, masks and micro-batches, with the same optimizer and clipping.
What is tokkit's is a run's own parts: its loader, feed, model and step. Beside it is transformers'
``BertForPreTraining`` with ``sdpa``, padded to the longest, in a plain loop; its batches are laid
out beforehand and lie on the device, so its loader costs it nothing.
"""

import gc
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch

from tokkit.pretraining.data.batches import Batch, MicroBatches, Sizes
from tokkit.pretraining.data.instance_loader import padded_batch
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import autocast, choose_precision, torch_settings
from tokkit.pretraining.training.distributed import join_process_group
from tokkit.pretraining.training.estimate import count_flops_per_token, sample_instances
from tokkit.pretraining.training.launch_info import SINGLE_PROCESS
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.optimizers import build_optimizer, clip_gradients, update_weights
from tokkit.pretraining.training.setup import TrainingSetup, choose_model, set_up

RATE = 1e-4
WARM_UP_STEPS = 5


class Contestant(Protocol):
    """Takes steps; their numbers say which batches."""

    def warm_up(self, steps: Sequence[int]) -> None:
        """Take a few steps, among them one of each shape that is in ``steps``."""

    def take(self, step: int) -> float:
        """Take a step, or have it begun on a device; returns seconds of waiting for data."""

    def finish(self) -> None:
        """Wait for the device."""


class Ours:
    """A run of tokkit's."""

    def __init__(self, config: PretrainConfig, setup: TrainingSetup) -> None:
        self._trainer = Trainer(config, setup)
        self._prefetcher = setup.prefetcher
        self._next = 0

    def warm_up(self, steps: Sequence[int]) -> None:
        first: dict[tuple[int, ...], int] = {}
        for step in steps:
            for batch in self._pass_over(step):
                shape = (len(batch.inputs.input_ids_N), len(batch.inputs.labels_M))
                first.setdefault(shape, step)
        for step in [*sorted(set(first.values())), *steps[:WARM_UP_STEPS]]:
            self._next = step
            self.take(step)
        self.finish()
        self._pass_over(steps[0])
        self._next = steps[0]

    def take(self, step: int) -> float:
        waited = 0.0
        while self._next < step:  # in order, so that the prefetcher has the next one ready
            self._pass_over(self._next)
            self._next += 1
            waited += self._prefetcher.waited
        self._trainer.state.step = step
        self._trainer.step()
        self._next = step + 1
        return waited + self._prefetcher.waited

    def finish(self) -> None:
        self._trainer.collect_metrics()

    def _pass_over(self, step: int) -> tuple[Batch, ...]:
        batches = self._prefetcher.next_batches(0, step)
        self._prefetcher.mark_copied()
        return batches


class Theirs:
    """A plain loop with their model.

    Args:
        config: of the run whose batches it takes.
        steps: whose batches are laid out.
        device: where.
        compiled: by ``torch.compile``.
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
        plan = MicroBatches.plan(loader, loader.rank_size, config.micro_batch_tokens, static=False)
        self._batches = {
            step: _lay_out(loader, step, plan.bounds, sources.pad_id, device) for step in steps
        }

    def warm_up(self, steps: Sequence[int]) -> None:
        first: dict[Any, int] = {}
        for step in steps:
            for batch in self._batches[step]:
                first.setdefault(batch["input_ids"].shape, step)
        for step in [*sorted(set(first.values())), *steps[:WARM_UP_STEPS]]:
            self.take(step)
        self.finish()

    def take(self, step: int) -> float:
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
    """A step's micro-batches, as their model takes them."""
    instances = loader.training_instances(step)
    labels = torch.from_numpy(instances.next_sentence_labels)
    tensors = {**padded_batch(instances, pad_id), "next_sentence_label": labels}
    return [
        {name: tensor[start:stop].to(device) for name, tensor in tensors.items()}
        for start, stop in pairwise(bounds)
    ]


@contextmanager
def open_ours(config: PretrainConfig) -> Iterator[Ours]:
    """A run, as ``tokkit pretrain`` would begin it."""
    with (
        join_process_group(config, SINGLE_PROCESS) as group,
        torch_settings(config, group.device),
        set_up(config, group) as setup,
    ):
        yield Ours(config, setup)
    _forget()


@contextmanager
def open_theirs(
    config: PretrainConfig, steps: Sequence[int], *, compiled: bool
) -> Iterator[Theirs]:
    """Their model, in the same settings."""
    with join_process_group(config, SINGLE_PROCESS) as group, torch_settings(config, group.device):
        yield Theirs(config, steps, group.device, compiled=compiled)
    _forget()


def _forget() -> None:
    """Let the memory go that a contestant had."""
    torch._dynamo.reset()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def count_flops(config: PretrainConfig) -> float:
    """The operations that a real token costs a run's model, forward and backward."""
    sources = open_sources(config)
    shape = choose_model(config, sources)[0]
    return count_flops_per_token(
        shape, sample_instances(Loader(sources, config), config.batch_size)
    )


def choose_steps(config: PretrainConfig, num_steps: int, num_shapes: int) -> list[int]:
    """The first steps whose micro-batches have the commonest shapes, as a compiled model has them.

    A model is compiled for each, which takes as long as thousands of steps.
    """
    loader = Loader(open_sources(config), config)
    plan = MicroBatches.plan(loader, loader.rank_size, config.micro_batch_tokens, static=True)
    shapes = {}
    for step in range(2 * num_steps):
        instances = loader.training_instances(step)
        sizes = Sizes.measure(instances, plan.bounds, plan.rounding, causal=False)
        _, tokens, _, predictions = np.diff(sizes.bounds).tolist()
        shapes[step] = tuple(zip(tokens, predictions, strict=True))
    counts = Counter(shape for of_step in shapes.values() for shape in of_step)
    common = {shape for shape, _ in counts.most_common(num_shapes)}
    return [step for step, of_step in shapes.items() if common.issuperset(of_step)][:num_steps]


def count_tokens(config: PretrainConfig, steps: Sequence[int]) -> tuple[int, float]:
    """Real tokens of some steps, and their share of what padding would make of them."""
    loader = Loader(open_sources(config), config)
    num_tokens = sum(len(loader.training_instances(step).input_ids) for step in steps)
    return num_tokens, num_tokens / (len(steps) * config.batch_size * loader.max_seq_length)


def time_steps(contestant: Contestant, steps: Sequence[int]) -> tuple[float, float]:
    """Seconds of some steps, and of them waiting for data."""
    contestant.finish()
    started = time.perf_counter()
    waited = sum(contestant.take(step) for step in steps)
    contestant.finish()
    return time.perf_counter() - started, waited
