"""The parts of a T5: its shape, the positions of attention, and the layers of both stacks; see ``t5``.

M are the targets of all sequences, which the decoder reads; its rows are those of the encoder.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.engine.json_files import Size
from tokkit.pretraining.families import T5_PRESETS
from tokkit.pretraining.models.attention import CrossAttention, attend_biased
from tokkit.pretraining.models.encoder_decoder import EncoderDecoderConfig
from tokkit.pretraining.models.transformer import Inputs, Positive


@dataclass(frozen=True, kw_only=True)
class T5Config(EncoderDecoderConfig):
    """The shape of a T5, with the fields of ``config.json`` that only it has."""

    layer_norm_eps: Positive = 1e-6
    d_kv: Size = 64
    relative_attention_num_buckets: Annotated[int, msgspec.Meta(ge=4)] = 32
    relative_attention_max_distance: Size = 128
    initializer_factor: Positive = 1.0

    def __post_init__(self) -> None:
        """Refuse buckets of which none is for a larger distance."""
        if self.relative_attention_max_distance <= self.relative_attention_num_buckets // 2:
            raise ValueError(
                "relative_attention_max_distance must be larger than half of the buckets"
            )

    @property
    def model_type(self) -> str:
        """The name of the architecture in ``config.json``."""
        return "t5"

    @property
    def inner_size(self) -> int:
        """The size of the queries of all heads together."""
        return self.num_attention_heads * self.d_kv

    @property
    def divides_width(self) -> bool:
        """Whether the hidden size is divided among the heads."""
        return False

    @property
    def num_feed_forward(self) -> int:
        """How many matrices a feed-forward network has."""
        return 3

    @classmethod
    def preset_fields(cls, preset: str, objective: str) -> dict[str, Any]:
        """Return the fields that a preset decides, as published."""
        del objective
        num_layers, hidden_size, num_heads, feed_forward = T5_PRESETS[preset]
        return {
            "num_hidden_layers": num_layers,
            "num_decoder_layers": num_layers,
            "hidden_size": hidden_size,
            "num_attention_heads": num_heads,
            "intermediate_size": feed_forward,
        }


class RelativePositions(nn.Module):
    """What is added to the scores of attention for the distance between two tokens.

    Args:
        config: of the model.
        is_causal: a decoder's, which sees no later tokens, and so needs no buckets for them.
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
        """Half of the buckets have a distance each; the others are equally wide in its logarithm."""
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

    def _drop(self, x_ND: Tensor) -> Tensor:
        return F.dropout(x_ND, self.dropout_prob, self.training)


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
        dropout_prob = self.attention_dropout_prob if self.training else 0.0
        x_NHK = attend_biased(
            q_NHK, k_NHK, v_NHK, inputs, inputs, bias_SHTT=bias_SHTT, dropout_prob=dropout_prob
        )
        return x_ND + self._drop(self.output(x_NHK.flatten(1)))


class NormedCrossAttention(CrossAttention):
    """Attention of each target to its inputs, with a norm before, and dropout and the residual after."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config, config.d_kv, bias=False, scale=1.0)
        self.norm = nn.RMSNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.hidden_dropout_prob = config.hidden_dropout_prob

    def forward(self, y_MD: Tensor, targets: Inputs, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return y_MD with what the targets attended to in x_ND."""
        mixed_MD = super().forward(self.norm(y_MD), targets, x_ND, inputs)
        return y_MD + F.dropout(mixed_MD, self.hidden_dropout_prob, self.training)


class GatedFeedForward(Sublayer):
    """A GeGLU."""

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_ND: Tensor) -> Tensor:
        """Pass x_ND through the network."""
        h_NF, gate_NF = self.up(self.norm(x_ND)).chunk(2, 1)
        h_NF = self._drop(F.gelu(h_NF, approximate="tanh") * gate_NF)
        return x_ND + self._drop(self.down(h_NF))


class EncoderLayer(nn.Module):
    """Attention and a feed-forward network."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention = BiasedSelfAttention(config)
        self.feed_forward = GatedFeedForward(config)

    def forward(self, x_ND: Tensor, inputs: Inputs, bias_SHTT: Tensor) -> Tensor:
        """Pass x_ND through the layer."""
        out_ND: Tensor = self.feed_forward(self.attention(x_ND, inputs, bias_SHTT))
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
        out_MD: Tensor = self.feed_forward(self.cross_attention(y_MD, targets, x_ND, inputs))
        return out_MD
