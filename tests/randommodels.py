"""Models with random weights and instances of random ids, for comparing models."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from flatbatches import pair_instances

from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.models.albert import AlbertConfig
from tokkit.pretraining.models.architectures import build_model
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.distributed import ProcessGroup
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.optimizers import build_optimizer
from tokkit.pretraining.training.schedule import Schedule
from tokkit.shards.instances import Instances


class FixedBatches:
    """Stands for the prefetcher; has the micro-batches of a few steps."""

    waited = 0.0

    def __init__(self, batches: Sequence[Sequence[Batch]]) -> None:
        self._batches = batches

    def next_batches(self, _phase: int, step: int) -> Sequence[Batch]:
        return self._batches[step]

    def mark_copied(self) -> None:
        pass


def make_trainer(
    config: PretrainConfig, model: Transformer, batches: Sequence[Sequence[Batch]]
) -> Trainer:
    """A trainer on the CPU for the micro-batches of a few steps, without instance folders."""
    prefetcher: Any = FixedBatches(batches)
    return Trainer(
        config=config,
        schedule=Schedule.from_config(config),
        group=ProcessGroup(),
        loaders=(),
        prefetcher=prefetcher,
        model=model,
        wrapped_model=model,
        optimizer=build_optimizer(model, config),
    )


def make_model(config: ModelConfig, seed: int = 0) -> Transformer:
    """A model none of whose parameters is 0 or 1, so that every one of them shows."""
    torch.manual_seed(seed)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


def share_layers(config: ModelConfig) -> AlbertConfig:
    """The shape of the ALBERT of the same size."""
    return AlbertConfig(**asdict(config), embedding_size=config.hidden_size)


def make_instances(lengths: list[int], vocab_size: int, seed: int = 0) -> Instances:
    """Pairs of random ids, none of them 0, three masked positions in each."""
    random = np.random.default_rng(seed)
    return pair_instances(
        lengths,
        random.integers(1, vocab_size, sum(lengths)),
        segment_lengths=np.array(lengths) // 3,
        next_sentence_labels=random.integers(0, 2, len(lengths)),
        masked_positions=[np.sort(random.permutation(n)[:3]) for n in lengths],
        masked_labels=random.integers(0, vocab_size, 3 * len(lengths)),
    )
