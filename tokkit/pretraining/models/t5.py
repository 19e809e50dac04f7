"""T5 (Raffel et al. 2020, arXiv:1910.10683) in version 1.1, for ``span-corruption``.

An encoder reads the inputs, in which sentinels stand for the spans that are missing; a decoder
predicts the targets, each token from those before it and from the encoder's output. Both are pre-norm,
without biases; norms only scale. A learned bias for each head and distance is added to the scores of
attention. Distances are in buckets, which widen with the distance, and all layers of a stack share the
biases. Scores are not divided by a root, which the initial weights make up for. The feed-forward
network is a GeGLU, and the head does not share the word embedding.

It computes what ``transformers.T5ForConditionalGeneration`` computes.

In the shapes of tensors, M is the number of targets of all sequences, which the decoder reads.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.engine.json_files import Size
from tokkit.pretraining.families import T5_PRESETS, ModelSizes
from tokkit.pretraining.models.attention import CrossAttention, attend_biased
from tokkit.pretraining.models.dropout import CROSS_HIDDEN, HIDDEN, OUTPUT, UP
from tokkit.pretraining.models.marian import EncoderDecoder, EncoderDecoderConfig
from tokkit.pretraining.models.transformer import Architecture, Embeddings, Inputs, Positive
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class T5Config(EncoderDecoderConfig):
    """The shape of a T5, with the fields of ``config.json`` that only it has."""

    model_type: ClassVar[str] = "t5"
    presets: ClassVar[Mapping[str, ModelSizes]] = T5_PRESETS
    divides_width: ClassVar[bool] = False
    num_feed_forward: ClassVar[int] = 3

    layer_norm_eps: Positive = 1e-6
    d_kv: Size = 64
    relative_attention_num_buckets: Annotated[int, msgspec.Meta(ge=4)] = 32
    relative_attention_max_distance: Size = 128
    initializer_factor: Positive = 1.0

    def __post_init__(self) -> None:
        """Refuse a maximum distance that leaves no buckets for large distances."""
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ValueError(
                "relative_attention_max_distance must be larger than half of the buckets"
            )

    @property
    def inner_size(self) -> int:
        """The size of the queries of all heads together."""
        return self.num_attention_heads * self.d_kv


class RelativePositions(nn.Module):
    """The biases of attention scores for the distance between two tokens.

    Args:
        config: shape of the model.
        is_causal: whether it is for a decoder, which has no buckets for later tokens.
    """

    def __init__(self, config: T5Config, *, is_causal: bool) -> None:
        super().__init__()
        self.buckets = nn.Embedding(
            config.relative_attention_num_buckets, config.num_attention_heads
        )
        self.max_distance = config.relative_attention_max_distance
        self.is_causal = is_causal

    def forward(self, length: int) -> Tensor:
        """Return bias_SHTT, S = 1, for the queries and keys of sequences of a length."""
        weight = self.buckets.weight
        places_T = torch.arange(length, device=weight.device)
        after_TT = places_T - places_T[:, None]  # by how much a key comes after a query
        bias_SHTT: Tensor = self.buckets(self._find_buckets(after_TT)).permute(2, 0, 1)[None]
        if self.is_causal:
            bias_SHTT = bias_SHTT.masked_fill(after_TT > 0, torch.finfo(bias_SHTT.dtype).min / 2)
        return bias_SHTT

    def _find_buckets(self, after_TT: Tensor) -> Tensor:
        """Half of the buckets are for one distance each; the others are equally wide on a log scale."""
        number = len(self.buckets.weight)
        if self.is_causal:
            first_TT, distances_TT = torch.zeros_like(after_TT), (-after_TT).clamp(min=0)
        else:
            number //= 2
            first_TT, distances_TT = number * (after_TT > 0), after_TT.abs()
        exact = number // 2
        width = math.log(self.max_distance / exact) / (number - exact)
        wide_TT = exact + ((distances_TT.clamp(min=1) / exact).log() / width).long()
        small = distances_TT < exact
        return first_TT + torch.where(small, distances_TT, wide_TT.clamp(max=number - 1))


class Sublayer(nn.Module):
    """A norm before, and dropout and the residual after."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob


class BiasedSelfAttention(Sublayer):
    """Multi-head attention of each token to its sequence."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.shape = (3, config.num_attention_heads, config.d_kv)
        self.attention_dropout_prob = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.inner_size, bias=False)
        self.output = nn.Linear(config.inner_size, config.hidden_size, bias=False)

    def forward(self, x_ND: Tensor, inputs: Inputs, bias_SHTT: Tensor) -> Tensor:
        """Return x_ND with what the tokens attended to."""
        q_NHK, k_NHK, v_NHK = self.qkv(self.norm(x_ND)).unflatten(1, self.shape).unbind(1)
        x_NHK = attend_biased(
            q_NHK,
            k_NHK,
            v_NHK,
            inputs,
            inputs,
            bias_SHTT=bias_SHTT,
            dropout_prob=self.attention_dropout_prob,
        )
        return x_ND + inputs.drop(self.output(x_NHK.flatten(1)), self.dropout_prob, HIDDEN)


class NormedCrossAttention(CrossAttention):
    """Attention of each target to its inputs, with a norm before, and dropout and the residual after."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config, config.d_kv, bias=False, scale=1.0)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.hidden_dropout_prob = config.hidden_dropout_prob

    def forward(self, y_MD: Tensor, targets: Inputs, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return y_MD with what the targets attended to in x_ND."""
        mixed_MD = super().forward(self.norm(y_MD), targets, x_ND, inputs)
        return y_MD + targets.drop(mixed_MD, self.hidden_dropout_prob, CROSS_HIDDEN)


class GatedFeedForward(Sublayer):
    """A GeGLU."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Pass x_ND through the network."""
        h_NF, gate_NF = self.up(self.norm(x_ND)).chunk(2, 1)
        h_NF = F.gelu(h_NF, approximate="tanh") * gate_NF
        h_NF = inputs.drop(h_NF, self.dropout_prob, UP)
        return x_ND + inputs.drop(self.down(h_NF), self.dropout_prob, OUTPUT)


class EncoderLayer(nn.Module):
    """Attention and a feed-forward network."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention = BiasedSelfAttention(config)
        self.feed_forward = GatedFeedForward(config)

    def forward(self, x_ND: Tensor, inputs: Inputs, bias_SHTT: Tensor) -> Tensor:
        """Pass x_ND through the layer."""
        out_ND: Tensor = self.feed_forward(self.attention(x_ND, inputs, bias_SHTT), inputs)
        return out_ND


class DecoderLayer(EncoderLayer):
    """The same, with attention to the inputs in between."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.cross_attention = NormedCrossAttention(config)

    def forward(  # type: ignore[override]
        self, y_MD: Tensor, targets: Inputs, bias_SHTT: Tensor, x_ND: Tensor, inputs: Inputs
    ) -> Tensor:
        """Pass y_MD through the layer."""
        y_MD = self.attention(y_MD, targets, bias_SHTT)
        y_MD = self.cross_attention(y_MD, targets, x_ND, inputs)
        out_MD: Tensor = self.feed_forward(y_MD, targets)
        return out_MD


class T5(EncoderDecoder):
    """The encoder, ``layers``, and the decoder, each with positions and a last norm."""

    config: T5Config
    norm: nn.RMSNorm

    def __init__(self, config: T5Config) -> None:
        super().__init__(
            config,
            Embeddings(config),
            (EncoderLayer(config) for _ in range(config.num_hidden_layers)),
            (DecoderLayer(config) for _ in range(config.num_decoder_layers)),
        )
        self.positions = RelativePositions(config, is_causal=False)
        self.decoder_positions = RelativePositions(config, is_causal=True)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder_norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.lm_head = nn.Linear(config.hidden_size, config.padded_vocab_size, bias=False)

    def initialize(self) -> None:
        """Draw the weights as published: words with a standard deviation of 1, others for outputs of 1.

        That includes the head; ``transformers`` draws it with 1, so that losses start in the hundreds.
        """
        config = self.config
        D, HK = config.hidden_size, config.inner_size
        sizes = {"words": 1, "output": HK, "down": config.intermediate_size}
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                size = sizes.get(name.rsplit(".", 1)[-1], D)
                nn.init.normal_(module.weight, std=config.initializer_factor * size**-0.5)
            if name.endswith(".qkv"):  # queries make up for scores that are not divided by a root
                module.weight.data[:HK] *= config.d_kv**-0.5
            elif name.endswith(".query"):
                module.weight.data *= config.d_kv**-0.5

    @property
    def decoder_weight(self) -> Tensor:
        """The weight of the head."""
        return self.lm_head.weight

    def encode(self, inputs: Inputs) -> Tensor:
        """Return the encoder's output, x_ND."""
        x_ND, bias_SHTT = self._look_up(inputs), self.positions(inputs.max_seqlen)
        for number, layer in enumerate(self.layers, start=1):
            x_ND = layer(x_ND, inputs.at_layer(number), bias_SHTT)
        return inputs.drop(self.norm(x_ND), self.config.hidden_dropout_prob, OUTPUT)

    def decode(self, targets: Inputs, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the output of the last norm, y_MD, for what the decoder reads."""
        y_MD, bias_SHTT = self._look_up(targets), self.decoder_positions(targets.max_seqlen)
        for number, layer in enumerate(self.decoder_layers, start=1):
            y_MD = layer(y_MD, targets.at_layer(number), bias_SHTT, x_ND, inputs)
        return targets.drop(self.decoder_norm(y_MD), self.config.hidden_dropout_prob, OUTPUT)

    def _look_up(self, inputs: Inputs) -> Tensor:
        x_ND: Tensor = self.embeddings.words(inputs.input_ids_N)
        return inputs.drop(x_ND, self.config.hidden_dropout_prob, HIDDEN)


def describe_t5(config: T5Config, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``config.json`` of T5."""
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": True,
        "pad_token_id": config.decoder_start_token_id,
        "eos_token_id": tokenizer.end_of_text_id(),
        "tie_word_embeddings": False,
    }


def read_t5(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contents of ``config.json``.

    transformers 5 also writes ``tie_word_embeddings: true`` for version 1.1, and tells the versions apart
    by ``scale_decoder_outputs``.

    Raises:
        ValueError: if it is version 1.0, whose head is the word embedding.
    """
    if data["tie_word_embeddings"] and data["scale_decoder_outputs"]:
        raise ValueError("tie_word_embeddings is true, as in T5 1.0, which is not supported")
    return data


ATTENTION = "layer.0.SelfAttention"
ATTENTION_NAMES = {
    "attention.norm": ("layer.0.layer_norm",),
    "attention.qkv": tuple(f"{ATTENTION}.{part}" for part in "qkv"),
    "attention.output": (f"{ATTENTION}.o",),
}


def name_feed_forward(sublayer: str) -> dict[str, tuple[str, ...]]:
    """Return the names of a feed-forward network, for its prefix in a layer."""
    return {
        "feed_forward.norm": (f"{sublayer}.layer_norm",),
        "feed_forward.up": (f"{sublayer}.DenseReluDense.wi_0", f"{sublayer}.DenseReluDense.wi_1"),
        "feed_forward.down": (f"{sublayer}.DenseReluDense.wo",),
    }


T5_ARCHITECTURE = Architecture(
    model_type="t5",
    objectives=("span-corruption", "translation"),
    build=T5,
    outer={
        "embeddings.words": "shared",
        "positions.buckets": f"encoder.block.0.{ATTENTION}.relative_attention_bias",
        "decoder_positions.buckets": f"decoder.block.0.{ATTENTION}.relative_attention_bias",
        "norm": "encoder.final_layer_norm",
        "decoder_norm": "decoder.final_layer_norm",
        "lm_head": "lm_head",
    },
    layer="encoder.block.{}",
    inner=ATTENTION_NAMES | name_feed_forward("layer.1"),
    decoder_layer="decoder.block.{}",
    decoder_inner=ATTENTION_NAMES
    | {
        "cross_attention.norm": ("layer.1.layer_norm",),
        "cross_attention.query": ("layer.1.EncDecAttention.q",),
        "cross_attention.kv": ("layer.1.EncDecAttention.k", "layer.1.EncDecAttention.v"),
        "cross_attention.output": ("layer.1.EncDecAttention.o",),
    }
    | name_feed_forward("layer.2"),
    describe=describe_t5,
    config={
        "hidden_size": "d_model",
        "num_hidden_layers": "num_layers",
        "num_attention_heads": "num_heads",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "n_positions",
        "type_vocab_size": None,
        "hidden_dropout_prob": "dropout_rate",
        "attention_probs_dropout_prob": "dropout_rate",
        "layer_norm_eps": "layer_norm_epsilon",
        "initializer_range": None,
    },
    config_class=T5Config,
    defaults={
        "d_kv": 64,
        "n_positions": 512,
        "layer_norm_epsilon": 1e-6,
        "initializer_factor": 1.0,
        "relative_attention_num_buckets": 32,
        "relative_attention_max_distance": 128,
        "decoder_start_token_id": 0,
        "feed_forward_proj": "relu",
        "tie_word_embeddings": True,
        "scale_decoder_outputs": True,
    },
    supported={"feed_forward_proj": ("gated-gelu",)},
    read=read_t5,
    redundant=("coder.embed_tokens.weight", "EncDecAttention.relative_attention_bias.weight"),
)
