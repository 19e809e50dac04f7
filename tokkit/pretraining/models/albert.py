"""ALBERT (Lan et al. 2019, arXiv:1909.11942): a BERT whose layers all have the same weights.

The token embedding may be smaller than the hidden size: a linear layer projects it up, and the head
for masked tokens projects back. The paper has embeddings of 128 in all sizes; with
``--share-layers`` both sizes are equal, and the linear layer starts as the identity. It computes
what ``transformers.AlbertForPreTraining`` computes, with either GELU.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from tokkit.engine.json_files import Size
from tokkit.pretraining.models.bert import (
    DEFAULTS,
    SUPPORTED,
    Bert,
    NormedEmbeddings,
    name_embeddings,
    name_head,
)
from tokkit.pretraining.models.transformer import Architecture, Inputs, ModelConfig
from tokkit.shards.objectives import MASKED
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class AlbertConfig(ModelConfig):
    """The shape of an ALBERT, with the fields of ``config.json`` that only it has."""

    model_type: ClassVar[str] = "albert"
    equal_fields: ClassVar[Mapping[str, str]] = {"embedding_size": "hidden_size"}

    embedding_size: Size
    hidden_act: str = "gelu"

    @property
    def word_size(self) -> int:
        """The size of the token embeddings."""
        return self.embedding_size

    @property
    def gelu(self) -> str:
        """Torch's name of the approximation of GELU."""
        return "none" if self.hidden_act in EXACT else "tanh"

    def count_layer_weights(self) -> int:
        """Return the number of weights in the matrices of the only layer."""
        return super().count_layer_weights() // self.num_hidden_layers


class FactorizedEmbeddings(NormedEmbeddings):
    """The embeddings of a BERT, projected to the hidden size of the encoder."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config)
        self.mapping = nn.Linear(config.embedding_size, config.hidden_size)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return x_ND."""
        x_ND: Tensor = self.mapping(super().forward(inputs))
        return x_ND


class Albert(Bert):
    """The encoder, which passes its only layer several times."""

    embeddings: FactorizedEmbeddings

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config, FactorizedEmbeddings(config), num_layers=1)

    def initialize(self) -> None:
        """Draw the weights as for a BERT, except a projection to the same size, which is the identity."""
        super().initialize()
        mapping = self.embeddings.mapping.weight
        if mapping.shape[0] == mapping.shape[1]:
            nn.init.eye_(mapping)

    def count_layer_parameters(self) -> int:
        """Return the number of layer parameters that each token passes through."""
        mapping = self.embeddings.mapping.parameters()
        return super().count_layer_parameters() + sum(part.numel() for part in mapping)


def describe_albert(config: AlbertConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``config.json`` of ALBERT."""
    return {
        "architectures": [f"Albert{name_head(config)}"],
        "num_hidden_groups": 1,
        "inner_group_num": 1,
        "classifier_dropout_prob": config.hidden_dropout_prob,  # BERT's default
        "bos_token_id": tokenizer.special_ids.get("cls"),
        "eos_token_id": tokenizer.special_ids.get("sep"),
    }


EXACT = ("gelu", "gelu_python")
ALBERT = Architecture(
    model_type="albert",
    objectives=MASKED,
    build=Albert,
    outer={
        **name_embeddings("albert"),
        "embeddings.mapping": "albert.encoder.embedding_hidden_mapping_in",
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
    describe=describe_albert,
    config_class=AlbertConfig,
    defaults={**DEFAULTS, "embedding_size": 128, "hidden_act": "gelu_new"},
    supported=SUPPORTED
    | {
        "hidden_act": (*EXACT, "gelu_new", "gelu_pytorch_tanh"),
        "num_hidden_groups": (1,),
        "inner_group_num": (1,),
    },
    redundant=("predictions.decoder.weight", "embeddings.position_ids"),
)
