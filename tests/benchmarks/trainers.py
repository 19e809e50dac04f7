"""The contestants of ``pretrain.py``: tokkit's own step, and transformers' model in a plain loop.

Both get the same instances, masks and micro-batches of each step, made ready by one thread, the same
optimizer and the same precision. transformers' are padded to the longest of the micro-batch.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.data import Instances
from tokkit.pretraining.dataset import padded_batch
from tokkit.pretraining.device import autocast, choose_precision, torch_settings
from tokkit.pretraining.microbatches import most_rows
from tokkit.pretraining.optim import build_optimizer, clip_gradients, update
from tokkit.pretraining.padded import pad_instances
from tokkit.pretraining.place import ALONE
from tokkit.pretraining.setup import Setup, set_up
from tokkit.pretraining.world import open_world

RATE = 1e-4

Prepared = tuple[list[dict[str, torch.Tensor]], int]  # micro-batches, and their tokens


class Tokkit:
    """The product's own parts, as a run uses them.

    Args:
        config: of the run.
        setup: made of it.
    """

    def __init__(self, config: PretrainConfig, setup: Setup) -> None:
        self.name = f"tokkit, {'compiled' if config.compile == 'on' else 'eager'}"
        self.setup = setup
        self.waited = 0.0
        self._last: Any = None

    def step(self, number: int) -> int:
        """Take a step; returns its tokens. What the one before found is read first."""
        if self._last is not None:
            self._last.read()
        _, counts, self._last = self.setup.take_step(number, RATE, number=number)
        self.waited += self.setup.feed.waited
        return int(counts[2])

    def finish(self) -> None:
        """Wait until all steps are taken."""
        self._last.read()


class Transformers:
    """``BertForPreTraining`` with sdpa.

    Args:
        config: of the run.
        setup: tokkit's, for the shape of the model, the instances and the device.
        compiled: by ``torch.compile``.

    Raises:
        ImportError: where there is no transformers.
    """

    def __init__(self, config: PretrainConfig, setup: Setup, *, compiled: bool) -> None:
        import transformers

        self.name = f"transformers, {'compiled' if compiled else 'eager'}"
        self.waited = 0.0
        self._device = setup.stepper.world.device
        self._precision = choose_precision(config.precision, self._device)
        shape = setup.model.config
        self.model = transformers.BertForPreTraining(
            transformers.BertConfig(
                vocab_size=shape.vocab_size,
                hidden_size=shape.hidden_size,
                num_hidden_layers=shape.num_hidden_layers,
                num_attention_heads=shape.num_attention_heads,
                intermediate_size=shape.intermediate_size,
                attn_implementation="sdpa",
            )
        )
        self.model.to(self._device).train()
        if compiled:
            self.model.compile()
        self._optimizer = build_optimizer(self.model, config)
        self._max_norm = config.max_gradient_norm
        self._loader = setup.loaders[0]
        self._pad_id = setup.sources.pad_id
        self._num_rows = most_rows(self._loader, config.micro_batch_tokens)
        self._executor = ThreadPoolExecutor(1)
        self._next: tuple[int, Future[Prepared]] | None = None

    def step(self, number: int) -> int:
        """Take a step; returns its tokens, without padding."""
        if self._next is None or self._next[0] != number:
            self._next = (number, self._executor.submit(self._prepare, number))
        started = time.perf_counter()
        batches, num_tokens = self._next[1].result()
        self.waited += time.perf_counter() - started
        self._next = (number + 1, self._executor.submit(self._prepare, number + 1))
        for batch in batches:
            there = {name: part.to(self._device, non_blocking=True) for name, part in batch.items()}
            with autocast(self._precision, self._device):
                loss = self.model(**there).loss / len(batches)
            loss.backward()
        clip_gradients(self.model, self._max_norm)
        update(self._optimizer, RATE)
        return num_tokens

    def _prepare(self, number: int) -> Prepared:
        instances = self._loader.training_instances(number)
        batches = []
        for part in cut(instances, self._num_rows):
            padded = pad_instances(part, self._pad_id)
            batches.append(
                {**padded_batch(padded), "next_sentence_label": padded.next_sentence_labels_B}
            )
        if self._device.type == "cuda":
            batches = [{name: t.pin_memory() for name, t in batch.items()} for batch in batches]
        return batches, len(instances.input_ids)

    def finish(self) -> None:
        """Wait until all steps are taken."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


def cut(instances: Instances, num_rows: int) -> Iterator[Instances]:
    """Runs of at most so many instances, as many in each as in the micro-batches of tokkit."""
    size = len(instances.offsets) - 1
    number = -(-size // num_rows)
    for part in range(number):
        rows = slice(size * part // number, size * (part + 1) // number)
        ends = slice(rows.start, rows.stop + 1)
        offsets, masked = instances.offsets[ends], instances.masked_offsets[ends]
        yield Instances(
            input_ids=instances.input_ids[offsets[0] : offsets[-1]],
            offsets=offsets - offsets[0],
            segment_lengths=instances.segment_lengths[rows],
            documents=instances.documents[rows],
            next_sentence_labels=instances.next_sentence_labels[rows],
            masked_positions=instances.masked_positions[masked[0] : masked[-1]],
            masked_labels=instances.masked_labels[masked[0] : masked[-1]],
            masked_offsets=masked - masked[0],
            word_starts=instances.word_starts,
        )


@dataclass(frozen=True)
class Task:
    """What is trained.

    Attributes:
        preset: size of the model.
        length: of the longest instance.
        folder: of instances.
        batch_size: instances a step.
        micro_batch_tokens: of the option of that name.
        device: likewise.
    """

    preset: str
    length: int
    folder: Path
    batch_size: int
    micro_batch_tokens: int
    device: str

    def config(self, *, compiled: bool) -> PretrainConfig:
        """The options of the run."""
        return PretrainConfig(
            instances=(self.folder,),
            output=Path("nowhere"),
            preset=self.preset,
            batch_size=self.batch_size,
            micro_batch_tokens=self.micro_batch_tokens,
            device=self.device,
            compile="on" if compiled else "off",
        )


@contextmanager
def open_tokkit(task: Task, *, compiled: bool) -> Iterator[Tokkit]:
    """Put a run together."""
    config = task.config(compiled=compiled)
    with ExitStack() as stack:
        world = stack.enter_context(open_world(config, ALONE))
        stack.enter_context(torch_settings(config, world.device))
        yield Tokkit(config, stack.enter_context(set_up(config, world)))
