"""Names in ``transformers``: those of our tensors and config fields, for each of its models.

    objective              layers        model_type
    nsp, sop, mlm          separate      bert
    nsp, sop, mlm          shared        albert
    clm                    separate      gpt2

Our single projection of queries, keys and values is theirs stacked. GPT-2 stacks them in the same
order, and stores the matrices of its layers transposed:

    layers.0.attention.qkv.weight [3 D, D]  =  bert.encoder.layer.0.attention.self.query.weight [D, D]
                                               …key.weight [D, D]
                                               …value.weight [D, D]
                                            =  transformer.h.0.attn.c_attn.weight [D, 3 D], transposed

The padding of the vocabulary (see ``tokkit.pretraining.models.bert``) does not exist there: it is cut
off when writing, and zero after reading. The decoder's weight is the word embedding, which is stored
once; ``transformers`` ties it again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

from tokkit.pretraining.models.bert import ModelConfig

VOCAB_TENSORS = ("embeddings.words.weight", "masked_token_head.bias")  # with a row for each token


@dataclass(frozen=True)
class Names:
    """The names of one of their models.

    Attributes:
        outer: our modules outside the layers, and theirs.
        layer: prefix of a layer, with a place for its number.
        inner: our modules in a layer, and theirs; several where ours is theirs stacked.
        config: our config fields that have another name there; None where they have none.
        transposed: whether the matrices of layers are transposed there.
    """

    outer: Mapping[str, str]
    layer: str
    inner: Mapping[str, tuple[str, ...]]
    config: Mapping[str, str | None] = field(default_factory=dict)
    transposed: bool = False


BERT = Names(
    outer={
        "embeddings.words": "bert.embeddings.word_embeddings",
        "embeddings.positions": "bert.embeddings.position_embeddings",
        "embeddings.segments": "bert.embeddings.token_type_embeddings",
        "embeddings.norm": "bert.embeddings.LayerNorm",
        "masked_token_head": "cls.predictions",  # has the bias
        "masked_token_head.transform": "cls.predictions.transform.dense",
        "masked_token_head.norm": "cls.predictions.transform.LayerNorm",
        "next_sentence_head.pooler": "bert.pooler.dense",
        "next_sentence_head.classifier": "cls.seq_relationship",
    },
    layer="bert.encoder.layer.{}",
    inner={
        "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output": ("attention.output.dense",),
        "attention_norm": ("attention.output.LayerNorm",),
        "up": ("intermediate.dense",),
        "down": ("output.dense",),
        "output_norm": ("output.LayerNorm",),
    },
)
ALBERT = Names(
    outer={
        "embeddings.words": "albert.embeddings.word_embeddings",
        "embeddings.positions": "albert.embeddings.position_embeddings",
        "embeddings.segments": "albert.embeddings.token_type_embeddings",
        "embeddings.norm": "albert.embeddings.LayerNorm",
        "masked_token_head": "predictions",
        "masked_token_head.transform": "predictions.dense",
        "masked_token_head.norm": "predictions.LayerNorm",
        "next_sentence_head.pooler": "albert.pooler",
        "next_sentence_head.classifier": "sop_classifier.classifier",
    },
    layer="albert.encoder.albert_layer_groups.{}.albert_layers.0",
    inner={
        "attention.qkv": ("attention.query", "attention.key", "attention.value"),
        "attention.output": ("attention.dense",),
        "attention_norm": ("attention.LayerNorm",),
        "up": ("ffn",),
        "down": ("ffn_output",),
        "output_norm": ("full_layer_layer_norm",),
    },
)
GPT2 = Names(
    outer={
        "embeddings.words": "transformer.wte",
        "embeddings.positions": "transformer.wpe",
        "norm": "transformer.ln_f",
    },
    layer="transformer.h.{}",
    inner={
        "attention_norm": ("ln_1",),
        "attention.qkv": ("attn.c_attn",),
        "attention.output": ("attn.c_proj",),
        "up_norm": ("ln_2",),
        "up": ("mlp.c_fc",),
        "down": ("mlp.c_proj",),
    },
    config={
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "n_inner",
        "max_position_embeddings": "n_positions",
        "type_vocab_size": None,
        "hidden_dropout_prob": "resid_pdrop",
        "attention_probs_dropout_prob": "attn_pdrop",
        "layer_norm_eps": "layer_norm_epsilon",
    },
    transposed=True,
)
BY_MODEL_TYPE = {"bert": BERT, "albert": ALBERT, "gpt2": GPT2}


def model_type(config: ModelConfig) -> str:
    """Return which of their models ours is."""
    if config.is_causal:
        return "gpt2"
    return "albert" if config.share_layers else "bert"


def config_names(kind: str) -> dict[str, str]:
    """Return the fields of our config that exist in theirs, and their names there."""
    theirs = {"share_layers": None, **BY_MODEL_TYPE[kind].config}
    named = {ours.name: theirs.get(ours.name, ours.name) for ours in fields(ModelConfig)}
    return {name: their_name for name, their_name in named.items() if their_name is not None}


def transformers_names(name: str, kind: str) -> tuple[str, ...]:
    """Return their name of one of our tensors; several names where theirs are stacked in it.

    >>> transformers_names("layers.3.up.bias", "bert")
    ('bert.encoder.layer.3.intermediate.dense.bias',)
    """
    names = BY_MODEL_TYPE[kind]
    module, parameter = name.rsplit(".", 1)
    if not module.startswith("layers."):
        return (f"{names.outer[module]}.{parameter}",)
    _, number, part = module.split(".", 2)
    layer = names.layer.format(number)
    return tuple(f"{layer}.{their}.{parameter}" for their in names.inner[part])


def to_transformers(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Return our tensors, weights or gradients, under their names."""
    kind, named = model_type(config), {}
    for name, tensor in tensors.items():
        rows = tensor[: config.vocab_size] if name in VOCAB_TENSORS else tensor
        their_names = transformers_names(name, kind)
        for their_name, part in zip(their_names, rows.chunk(len(their_names)), strict=True):
            named[their_name] = part.T if _is_transposed(name, part, kind) else part
    return named


def from_transformers(
    tensors: Mapping[str, Tensor], config: ModelConfig, names: Iterable[str]
) -> dict[str, Tensor]:
    """Return the tensors of our model that have these names of ours.

    Raises:
        KeyError: naming a tensor that is missing.
    """
    kind, found = model_type(config), {}
    for name in names:
        tensor = torch.cat([tensors[their_name] for their_name in transformers_names(name, kind)])
        if name in VOCAB_TENSORS:
            padding = config.padded_vocab_size - config.vocab_size
            tensor = torch.cat([tensor, tensor.new_zeros(padding, *tensor.shape[1:])])
        found[name] = tensor.T.contiguous() if _is_transposed(name, tensor, kind) else tensor
    return found


def _is_transposed(name: str, tensor: Tensor, kind: str) -> bool:
    is_matrix = name.startswith("layers.") and tensor.dim() == 2
    return is_matrix and BY_MODEL_TYPE[kind].transposed
