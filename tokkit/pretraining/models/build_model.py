"""The model that an objective trains: ``Gpt2`` if it is causal, else ``Bert``."""

import torch

from tokkit.pretraining.models import bert, gpt2
from tokkit.pretraining.models.bert import Bert, ModelConfig
from tokkit.pretraining.models.gpt2 import Gpt2

Model = Bert | Gpt2


def build_model(config: ModelConfig) -> Model:
    """Return a model on the CPU with weights drawn from torch's generator."""
    if config.is_causal:
        decoder = Gpt2(config)
        gpt2.initialize(decoder)
        return decoder
    encoder = Bert(config)
    bert.initialize(encoder)
    return encoder


def outline_model(config: ModelConfig) -> Model:
    """Return a model without data: its tensors are on torch's ``meta`` device."""
    with torch.device("meta"):
        return Gpt2(config) if config.is_causal else Bert(config)
