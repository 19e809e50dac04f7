"""The Transformer (Vaswani et al. 2017, arXiv:1706.03762), for ``translation``, and what T5 shares with it.

An encoder reads the inputs; a decoder reads the targets before each target and the encoder's output. It
begins with the id of padding. Two instances with targets of 2 and 1 tokens are M = 3 predictions:

    labels_M            7 8 9      target_cu_seqlens    0 2 3
    decoder's inputs    0 7 0      decoder's positions  0 1 0

Encoder and decoder are post-norm, like BERT. Word embeddings are multiplied by the root of their size;
position embeddings are sinusoids, not weights. The activation is ReLU. Both stacks and the head share
the word embedding.

It computes what ``transformers.MarianMTModel`` computes with ``scale_embedding``. There sines come
before cosines; in the paper they alternate, which is a permutation of dimensions. As in Marian, the
embedding of padding, with which the decoder begins, learns from the head alone. Weights are drawn as in
fairseq, since the paper does not say how.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import msgspec
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.engine.json_files import Size
from tokkit.pretraining.families import MARIAN_PRESETS, ModelSizes
from tokkit.pretraining.models.attention import CrossAttention, index_targets, sinusoids
from tokkit.pretraining.models.bert import Layer
from tokkit.pretraining.models.dropout import CROSS_HIDDEN, HIDDEN
from tokkit.pretraining.models.transformer import (
    Architecture,
    Embeddings,
    Inputs,
    ModelConfig,
    Positive,
    Transformer,
    to_autocast_dtype,
)
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig(ModelConfig):
    """The shape of both stacks. Positions are computed, so there is no largest one.

    Attributes:
        num_feed_forward: number of matrices in a feed-forward network.
    """

    equal_fields: ClassVar[Mapping[str, str]] = {"num_decoder_layers": "num_hidden_layers"}
    limits_length: ClassVar[bool] = False
    num_feed_forward: ClassVar[int] = 2

    num_decoder_layers: Size
    decoder_start_token_id: Annotated[int, msgspec.Meta(ge=0)] = 0

    @property
    def inner_size(self) -> int:
        """The size of the queries of all heads together."""
        return self.hidden_size

    def count_layer_weights(self) -> int:
        """Return the number of weights in the matrices of all layers."""
        feed_forward = self.num_feed_forward * self.intermediate_size
        encoder = self.num_hidden_layers * (4 * self.inner_size + feed_forward)
        decoder = self.num_decoder_layers * (8 * self.inner_size + feed_forward)
        return self.hidden_size * (encoder + decoder)

    def fit(self, tokenizer: Tokenizer) -> Self:
        """Return this shape with the vocabulary size of a tokenizer, and its id of padding."""
        return replace(super().fit(tokenizer), decoder_start_token_id=tokenizer.special_ids["pad"])


class EncoderDecoder(Transformer):
    """The encoder, ``layers``, and the decoder; both share the token embedding."""

    config: EncoderDecoderConfig

    def __init__(
        self,
        config: EncoderDecoderConfig,
        embeddings: Embeddings,
        layers: Iterable[nn.Module],
        decoder_layers: Iterable[nn.Module],
    ) -> None:
        super().__init__(config, embeddings, layers)
        self.decoder_layers = nn.ModuleList(decoder_layers)

    def predict(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the output of the decoder, y_MD, for the encoder's."""
        targets = index_targets(inputs)
        shifted_M = targets.input_ids_N.roll(1).clamp(min=0)  # padding has no label
        start = self.config.decoder_start_token_id
        shifted_M = shifted_M.masked_fill(targets.position_ids_N == 0, start)
        return self.transform(self.decode(targets._replace(input_ids_N=shifted_M), x_ND, inputs))

    def decode(self, targets: Inputs, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the output of the last layer, y_MD, for what the decoder reads."""
        raise NotImplementedError

    def list_layers(self) -> list[nn.Module]:
        """Return the layers of both stacks."""
        return [*self.layers, *self.decoder_layers]

    def count_attended(self, length: float, predicted_share: float = 0.0) -> float:
        """Return how many tokens an input token and its share of targets attend to."""
        config, num_targets = self.config, length * predicted_share
        own = config.num_hidden_layers * length
        of_targets = config.num_decoder_layers * (num_targets / 2 + length)
        return (own + predicted_share * of_targets) * config.inner_size / config.hidden_size

    def count_layer_parameters(self) -> int:
        """Return the number of layer parameters that each input token passes through."""
        return super().count_layer_parameters() + self._count_cross()

    def count_head_parameters(self) -> int:
        """Return the number of parameters that each target passes through."""
        decoder = sum(parameter.numel() for parameter in self.decoder_layers.parameters())
        return decoder - self._count_cross() + super().count_head_parameters()

    def _count_cross(self) -> int:
        """Return the number of the decoder's parameters that the encoder's output passes through."""
        config = self.config
        return config.num_decoder_layers * 2 * config.inner_size * config.hidden_size


@dataclass(frozen=True, kw_only=True)
class MarianConfig(EncoderDecoderConfig):
    """The shape of a Transformer."""

    model_type: ClassVar[str] = "marian"
    presets: ClassVar[Mapping[str, ModelSizes]] = MARIAN_PRESETS

    layer_norm_eps: Positive = 1e-5


class SinusoidalEmbeddings(Embeddings):
    """The sum of token embeddings and sinusoidal position embeddings."""

    def __init__(self, config: MarianConfig) -> None:
        super().__init__(config)
        self.pad_id = config.decoder_start_token_id

    def forward(self, inputs: Inputs) -> Tensor:
        """Return x_ND."""
        D = self.words.embedding_dim
        x_ND = F.embedding(inputs.input_ids_N, self.words.weight, self.pad_id) * math.sqrt(D)
        x_ND = to_autocast_dtype(x_ND + sinusoids(inputs.position_ids_N, D))
        return inputs.drop(x_ND, self.dropout_prob, HIDDEN)


class ReluLayer(Layer):
    """A layer of the encoder."""

    def activate(self, h_NF: Tensor) -> Tensor:
        """Apply the activation."""
        return F.relu(h_NF)


class DecoderReluLayer(ReluLayer):
    """A layer of the decoder, which sees no later tokens, with attention to the inputs in between."""

    def __init__(self, config: MarianConfig) -> None:
        super().__init__(config)
        self.attention.causal = True
        size = config.hidden_size // config.num_attention_heads
        self.cross_attention = CrossAttention(config, size, bias=True, scale=size**-0.5)
        self.cross_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(  # type: ignore[override]
        self, y_MD: Tensor, targets: Inputs, x_ND: Tensor, inputs: Inputs
    ) -> Tensor:
        """Pass y_MD through the layer."""
        mixed_MD = self.attention(y_MD, targets)
        y_MD = self.add(y_MD, mixed_MD, self.attention_norm, targets, HIDDEN)
        mixed_MD = self.cross_attention(y_MD, targets, x_ND, inputs)
        y_MD = self.add(y_MD, mixed_MD, self.cross_norm, targets, CROSS_HIDDEN)
        return self.feed_forward(y_MD, targets)


class Marian(EncoderDecoder):
    """The encoder and the decoder."""

    def __init__(self, config: MarianConfig) -> None:
        super().__init__(
            config,
            SinusoidalEmbeddings(config),
            (ReluLayer(config) for _ in range(config.num_hidden_layers)),
            (DecoderReluLayer(config) for _ in range(config.num_decoder_layers)),
        )

    def initialize(self) -> None:
        """Draw the weights: words normal, padding 0; others uniform by Glorot's rule, biases 0."""
        words = self.embeddings.words.weight
        nn.init.normal_(words, std=words.shape[1] ** -0.5)
        nn.init.zeros_(words[self.config.decoder_start_token_id])
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def decode(self, targets: Inputs, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the output of the last layer, y_MD, for what the decoder reads."""
        y_MD: Tensor = self.embeddings(targets)
        for number, layer in enumerate(self.decoder_layers, start=1):
            y_MD = layer(y_MD, targets.at_layer(number), x_ND, inputs)
        return y_MD


def describe_marian(config: MarianConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``config.json`` of a MarianMTModel."""
    end = tokenizer.end_of_text_id()
    return {
        "architectures": ["MarianMTModel"],
        "activation_function": "relu",
        "scale_embedding": True,
        "decoder_attention_heads": config.num_attention_heads,
        "decoder_ffn_dim": config.intermediate_size,
        "pad_token_id": config.decoder_start_token_id,
        "eos_token_id": end,
        "forced_eos_token_id": end,
    }


def read_marian(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contents of ``config.json``.

    Raises:
        ValueError: if the stacks differ in more than their layers, or the decoder does not begin with
            padding.
    """
    same = {
        "decoder_attention_heads": "encoder_attention_heads",
        "decoder_ffn_dim": "encoder_ffn_dim",
        "decoder_start_token_id": "pad_token_id",
    }
    for name, other in same.items():
        if data.get(name) != data.get(other):
            raise ValueError(f"{name} and {other} differ, which is not supported")
    return data


INNER = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.output": ("self_attn.out_proj",),
    "attention_norm": ("self_attn_layer_norm",),
    "up": ("fc1",),
    "down": ("fc2",),
    "output_norm": ("final_layer_norm",),
}
MARIAN = Architecture(
    model_type="marian",
    objectives=("translation",),
    build=Marian,
    outer={"embeddings.words": "model.shared"},
    layer="model.encoder.layers.{}",
    inner=INNER,
    decoder_layer="model.decoder.layers.{}",
    decoder_inner=INNER
    | {
        "cross_attention.query": ("encoder_attn.q_proj",),
        "cross_attention.kv": ("encoder_attn.k_proj", "encoder_attn.v_proj"),
        "cross_attention.output": ("encoder_attn.out_proj",),
        "cross_norm": ("encoder_attn_layer_norm",),
    },
    describe=describe_marian,
    config={
        "hidden_size": "d_model",
        "num_hidden_layers": "encoder_layers",
        "num_decoder_layers": "decoder_layers",
        "num_attention_heads": "encoder_attention_heads",
        "intermediate_size": "encoder_ffn_dim",
        "type_vocab_size": None,
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": None,
        "initializer_range": None,
    },
    config_class=MarianConfig,
    defaults={
        "max_position_embeddings": 1024,
        "activation_function": "gelu",
        "scale_embedding": False,
        "attention_dropout": 0.0,
    },
    supported={
        "activation_function": ("relu",),
        "scale_embedding": (True,),
        "share_encoder_decoder_embeddings": (True,),
        "tie_word_embeddings": (True,),
    },
    read=read_marian,
    redundant=("lm_head.weight", "embed_tokens.weight", "embed_positions.weight"),
    zero=("final_logits_bias",),
)
