"""The architectures, and their names in ``transformers``, of tensors and of config fields.

    objective              layers        --architecture     architecture
    nsp, sop, mlm          separate      bert               bert
    nsp, sop, mlm          shared        bert               albert
    clm                    separate      gpt2               gpt2
    mlm                    separate      modernbert         modernbert
    clm                    separate      modernbert         modernbert-decoder

Our single projection of queries, keys and values is theirs stacked. GPT-2 stacks them in the same
order, and stores the matrices of its layers transposed:

    layers.0.attention.qkv.weight [3 D, D]  =  bert.encoder.layer.0.attention.self.query.weight [D, D]
                                               …key.weight [D, D]
                                               …value.weight [D, D]
                                            =  transformer.h.0.attn.c_attn.weight [D, 3 D], transposed

The padding of the vocabulary does not exist there: it is cut off when writing, and zero after
reading. The decoder's weight is the word embedding, which is stored once; ``transformers`` ties it
again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields

import torch
from torch import Tensor

from tokkit.pretraining.models.bert import ALBERT, BERT
from tokkit.pretraining.models.gpt2 import GPT2
from tokkit.pretraining.models.modernbert import (
    MODERNBERT,
    MODERNBERT_DECODER,
    ModernBertConfig,
)
from tokkit.pretraining.models.transformer import Architecture, ModelConfig, Transformer

ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (BERT, ALBERT, GPT2, MODERNBERT, MODERNBERT_DECODER)
}
# The class of the shape for each ``--architecture``.
CONFIG_CLASSES: Mapping[str, type[ModelConfig]] = {
    "bert": ModelConfig,
    "gpt2": ModelConfig,
    "modernbert": ModernBertConfig,
}
VOCAB_TENSORS = ("embeddings.words.weight", "masked_token_head.bias")  # with a row for each token


def choose_architecture(config: ModelConfig) -> Architecture:
    """Return the architecture of a model."""
    return ARCHITECTURES[config.model_type]


def build_model(config: ModelConfig) -> Transformer:
    """Return a model on the CPU with weights drawn from torch's generator."""
    model = choose_architecture(config).build(config)
    model.initialize()
    return model


def outline_model(config: ModelConfig) -> Transformer:
    """Return a model without data: its tensors are on torch's ``meta`` device."""
    with torch.device("meta"):
        return choose_architecture(config).build(config)


def config_names(architecture: Architecture) -> dict[str, str]:
    """Return the fields of our config that exist in theirs, and their names there."""
    theirs = {"share_layers": None, **architecture.config}
    ours = (field.name for field in fields(architecture.config_class))
    named = {name: theirs.get(name, name) for name in ours}
    return {name: their_name for name, their_name in named.items() if their_name is not None}


def describe_sizes(config: ModelConfig) -> dict[str, int]:
    """Return the sizes on which a model's number of parameters depends."""
    has_positions = "embeddings.positions" in choose_architecture(config).outer
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "intermediate_size": config.intermediate_size,
        "max_position_embeddings": config.max_position_embeddings if has_positions else 0,
        "type_vocab_size": config.type_vocab_size if has_positions else 0,
    }


def transformers_names(name: str, architecture: Architecture) -> tuple[str, ...]:
    """Return their name of one of our tensors; several names where theirs are stacked in it.

    >>> transformers_names("layers.3.up.bias", BERT)
    ('bert.encoder.layer.3.intermediate.dense.bias',)
    """
    module, parameter = name.rsplit(".", 1)
    if not module.startswith("layers."):
        return (f"{architecture.outer[module]}.{parameter}",)
    _, number, part = module.split(".", 2)
    layer = architecture.layer.format(number)
    return tuple(f"{layer}.{their}.{parameter}" for their in architecture.inner[part])


def to_transformers(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return our tensors, weights or gradients, under their names."""
    architecture, named = choose_architecture(config), {}
    for name, tensor in tensors.items():
        rows = tensor[: config.vocab_size] if name in VOCAB_TENSORS else tensor
        their_names = transformers_names(name, architecture)
        for their_name, part in zip(their_names, rows.chunk(len(their_names)), strict=True):
            named[their_name] = part.T if _is_transposed(name, part, architecture) else part
    return named


def from_transformers(
    tensors: Mapping[str, Tensor], config: ModelConfig, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors of our model that have these names of ours.

    Raises:
        KeyError: naming a tensor that is missing.
    """
    architecture, found = choose_architecture(config), {}
    for name in names:
        their_names = transformers_names(name, architecture)
        tensor = torch.cat([tensors[their_name] for their_name in their_names])
        if name in VOCAB_TENSORS:
            padding = config.padded_vocab_size - config.vocab_size
            tensor = torch.cat([tensor, tensor.new_zeros(padding, *tensor.shape[1:])])
        is_transposed = _is_transposed(name, tensor, architecture)
        found[name] = tensor.T.contiguous() if is_transposed else tensor
    return found


def _is_transposed(name: str, tensor: Tensor, architecture: Architecture) -> bool:
    is_matrix = name.startswith("layers.") and tensor.dim() == 2
    return is_matrix and architecture.transposed
