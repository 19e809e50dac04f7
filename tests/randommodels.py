"""Models with random weights and instances of random ids, for comparing models."""

import numpy as np
import torch
from flatbatches import pair_instances

from tokkit.pretraining.models.bert import ModelConfig
from tokkit.pretraining.models.build_model import Model, build_model
from tokkit.shards.instances import Instances


def make_model(config: ModelConfig, seed: int = 0) -> Model:
    """A model none of whose parameters is 0 or 1, so that every one of them shows."""
    torch.manual_seed(seed)
    model = build_model(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model


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
