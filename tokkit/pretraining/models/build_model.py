"""The model that an objective trains: ``Gpt2`` for ``clm``, ``Bert`` for what masks tokens."""

import torch

from tokkit.pretraining.models import bert, gpt2
from tokkit.pretraining.models.bert import Bert, ModelConfig
from tokkit.pretraining.models.gpt2 import Gpt2

Model = Bert | Gpt2


def build_model(config: ModelConfig) -> Model:
    """Make a model and draw its weights from torch's generator, on the CPU."""
    if config.objective == "clm":
        decoder = Gpt2(config)
        gpt2.initialize(decoder)
        return decoder
    encoder = Bert(config)
    bert.initialize(encoder)
    return encoder


def outline_model(config: ModelConfig) -> Model:
    """The model without numbers: its tensors are on torch's ``meta`` device."""
    with torch.device("meta"):
        return Gpt2(config) if config.objective == "clm" else Bert(config)
