"""The architectures, and how their tensors and config fields are named in ``transformers``.

    objective              layers        --architecture     architecture
    nsp, sop, mlm          separate      bert               bert
    nsp, sop, mlm          shared        bert               albert
    mlm                    separate      roberta            roberta
    clm                    separate      gpt2               gpt2
    mlm                    separate      modernbert         modernbert
    clm                    separate      modernbert         modernbert-decoder
    span-corruption        separate      t5                 t5
    plm                    separate      xlnet              xlnet
    translation            separate      marian             marian
    translation            separate      t5                 t5

Our single projection of queries, keys and values stacks theirs. GPT-2 stacks them in the same
order, but stores the matrices of its layers transposed:

    layers.0.attention.qkv.weight [3 D, D]  =  bert.encoder.layer.0.attention.self.query.weight [D, D]
                                               …key.weight [D, D]
                                               …value.weight [D, D]
                                            =  transformer.h.0.attn.c_attn.weight [D, 3 D], transposed

``transformers`` has no padding of the vocabulary: it is cut off when writing, and zero after
reading. The unused positions of a RoBERTa are the opposite case: they are added when writing and cut
off when reading. The decoder's weight is the word embedding, which is stored once; ``transformers``
ties it again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor

from tokkit.engine.json_files import RECREATE
from tokkit.errors import TokkitError
from tokkit.pretraining.models.albert import ALBERT
from tokkit.pretraining.models.bert import BERT, ROBERTA
from tokkit.pretraining.models.gpt2 import GPT2
from tokkit.pretraining.models.marian import MARIAN
from tokkit.pretraining.models.model_files import DOWNLOAD
from tokkit.pretraining.models.modernbert import MODERNBERT, MODERNBERT_DECODER
from tokkit.pretraining.models.t5 import T5_ARCHITECTURE
from tokkit.pretraining.models.transformer import Architecture, ModelConfig, Transformer
from tokkit.pretraining.models.xlnet import XLNET

ARCHITECTURES = {
    architecture.model_type: architecture
    for architecture in (
        BERT,
        ALBERT,
        ROBERTA,
        GPT2,
        MODERNBERT,
        MODERNBERT_DECODER,
        T5_ARCHITECTURE,
        XLNET,
        MARIAN,
    )
}
# Model types of transformers that compute the same as another one.
SIBLINGS = {"xlm-roberta": ROBERTA}
POSITIONS = "embeddings.positions.weight"
# Tensors with a row for each token.
VOCAB_TENSORS = ("embeddings.words.weight", "masked_token_head.bias", "lm_head.weight")
_MAX_LAYERS = 10_000
_MAX_PARAMETERS = 1 << 42  # of a shape in run.json, for which there are no weights to measure


def choose_architecture(config: ModelConfig) -> Architecture:
    """Return the architecture of a model."""
    return ARCHITECTURES[config.model_type]


def read_shape(data: Mapping[str, Any], path: Path) -> ModelConfig:
    """Return the shape of a model from the fields in ``run.json``, ``model_type`` included.

    Args:
        data: the fields.
        path: file or folder that errors name.

    Raises:
        TokkitError: if they do not describe a model.
    """
    try:
        config = msgspec.convert(data, ARCHITECTURES[data["model_type"]].config_class)
    except (KeyError, TypeError, ValueError) as error:
        raise TokkitError(
            f"{path}: the shape of its model is damaged ({error}); {RECREATE}"
        ) from error
    require_possible(path, config, _MAX_PARAMETERS, RECREATE)
    return config


def build_model(config: ModelConfig) -> Transformer:
    """Return a model on the CPU with weights drawn from torch's generator."""
    model = choose_architecture(config).build(config)
    model.initialize()
    return model


def build_meta_model(config: ModelConfig) -> Transformer:
    """Return a model whose tensors are on torch's ``meta`` device, without data."""
    with torch.device("meta"):
        return choose_architecture(config).build(config)


def config_names(architecture: Architecture) -> dict[str, str]:
    """Return the fields of our config that theirs has too, each with its name there."""
    ours = (field.name for field in fields(architecture.config_class))
    named = {name: architecture.config.get(name, name) for name in ours}
    return {name: their_name for name, their_name in named.items() if their_name is not None}


def parse_config(
    path: Path, data: Mapping[str, Any], architecture: Architecture, remedy: str, **values: Any
) -> ModelConfig:
    """Return the shape that ``config.json`` describes.

    Args:
        path: path of the file.
        data: its contents.
        architecture: architecture of the model.
        remedy: what to do about a fault.
        values: values of our fields that replace those of the file.

    Raises:
        TokkitError: if a field is missing or has a value that no model can have.
    """
    names = config_names(architecture)
    try:
        completed = architecture.read({**architecture.defaults, **data})
        found = {name: completed[theirs] for name, theirs in names.items() if name not in values}
        return msgspec.convert({**found, **values}, architecture.config_class)
    except KeyError as error:
        raise TokkitError(f"{path}: {error.args[0]} is missing; {remedy}") from error
    except ValueError as error:
        raise TokkitError(f"{path}: {error}; {remedy}") from error


def transformers_names(name: str, architecture: Architecture) -> tuple[str, ...]:
    """Return their name of one of our tensors; several names if ours stacks theirs.

    >>> transformers_names("layers.3.up.bias", BERT)
    ('bert.encoder.layer.3.intermediate.dense.bias',)
    """
    module, parameter = name.rsplit(".", 1)
    if not module.startswith(("layers.", "decoder_layers.")):
        return (f"{architecture.outer[module]}.{parameter}",)
    stack, number, part = module.split(".", 2)
    layer, inner = architecture.layer, architecture.inner
    if stack == "decoder_layers":
        layer, inner = architecture.decoder_layer, architecture.decoder_inner
    return tuple(f"{layer.format(number)}.{their}.{parameter}" for their in inner[part])


def to_transformers(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return our tensors, weights or gradients, under their names."""
    architecture, named = choose_architecture(config), {}
    for name, tensor in tensors.items():
        rows = tensor[: config.vocab_size] if name in VOCAB_TENSORS else tensor
        if name == POSITIONS:
            rows = torch.cat([rows.new_zeros(config.position_offset, rows.shape[1]), rows])
        their_names = transformers_names(name, architecture)
        for their_name, part in zip(their_names, rows.chunk(len(their_names)), strict=True):
            named[their_name] = part.T if _is_transposed(name, part, architecture) else part
    return named


def from_transformers(
    tensors: Mapping[str, Tensor], config: ModelConfig, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors of our model with these names.

    Raises:
        KeyError: if a tensor is missing; it names the tensor.
    """
    architecture, found = choose_architecture(config), {}
    for name in names:
        their_names = transformers_names(name, architecture)
        tensor = torch.cat([tensors[their_name] for their_name in their_names])
        if name in VOCAB_TENSORS:
            padding = config.padded_vocab_size - config.vocab_size
            tensor = torch.cat([tensor, tensor.new_zeros(padding, *tensor.shape[1:])])
        if name == POSITIONS:
            tensor = tensor[config.position_offset :]
        is_transposed = _is_transposed(name, tensor, architecture)
        found[name] = tensor.T.contiguous() if is_transposed else tensor
    return found


def require_possible(
    path: Path, config: ModelConfig, num_bytes: int, remedy: str = DOWNLOAD
) -> None:
    """Refuse a shape whose heads do not divide its width, or that the weights are too small for.

    Otherwise a damaged ``config.json`` could make the process allocate any amount of memory.

    Args:
        path: the file.
        config: its content.
        num_bytes: size of the weights.
        remedy: what to do about a fault in this file alone.
    """
    width, heads = config.hidden_size, config.num_attention_heads
    if config.divides_width and width % heads:
        raise TokkitError(
            f"{path}: hidden_size {width} cannot be divided among {heads} attention heads; {remedy}"
        )
    if config.num_hidden_layers > _MAX_LAYERS:  # those of an ALBERT are one
        raise TokkitError(
            f"{path}: {config.num_hidden_layers:,} layers; at most {_MAX_LAYERS:,} are supported; "
            f"{remedy}"
        )
    outer = choose_architecture(config).outer
    num_rows = config.vocab_size
    num_rows += config.max_position_embeddings if "embeddings.positions" in outer else 0
    num_rows += config.type_vocab_size if "embeddings.segments" in outer else 0
    num_parameters = config.word_size * num_rows + config.count_layer_weights()
    if num_parameters > num_bytes:
        raise TokkitError(
            f"{path}: describes a model of {num_parameters:,} parameters, but the weights have only "
            f"{num_bytes:,} bytes; download both again"
        )


def _is_transposed(name: str, tensor: Tensor, architecture: Architecture) -> bool:
    is_matrix = name.startswith("layers.") and tensor.dim() == 2
    return is_matrix and architecture.transposed
