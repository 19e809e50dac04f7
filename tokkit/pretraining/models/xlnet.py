"""XLNet (Yang et al. 2019, arXiv:1906.08237), for ``plm``.

It predicts some tokens of a sequence in a random order, each from the tokens that are not predicted
and those before it in the order. Two streams pass through the same layers: the content of each token,
which sees itself, and a query for each target, which knows its position but not the token there. With
tokens a b C d E, of which E is predicted first, then C:

    order of content       a 0  b 0  C 2  d 0  E 1      a token sees those of no higher order
    order of queries       E 1  C 2                     a query sees those of a lower order

The score of query i and key j of a head is that of Transformer-XL (Dai et al. 2019, arXiv:1901.02860)
with a term for segments:

    (q_i + r_w_bias) k_j  +  (q_i + r_r_bias) r_(i - j)  +  (q_i + r_s_bias) seg_embed_(same or not)

r is a projection of the sinusoids of distances. It computes what ``transformers.XLNetLMHeadModel``
computes, with the same names and shapes of parameters. There is no memory of previous sequences.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.models.attention import attend_biased, index_targets, pad_rows, sinusoids
from tokkit.pretraining.models.dropout import HIDDEN, OUTPUT, UP, drop, key_tokens
from tokkit.pretraining.models.transformer import (
    Architecture,
    Embeddings,
    Inputs,
    ModelConfig,
    Transformer,
    to_autocast_dtype,
)
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class XlnetConfig(ModelConfig):
    """The shape of an XLNet, whose positions are relative."""

    model_type: ClassVar[str] = "xlnet"
    limits_length: ClassVar[bool] = False


class Stream(NamedTuple):
    """Queries of all sequences, at most Q in each, and their relations to the T keys.

    Attributes:
        queries: sequences of the queries.
        distances_SQT: row of r for the distance between query and key.
        differ_SQT: whether query and key are in different segments.
        hidden_SQT: added to the scores; a large negative number for keys that are not seen.
    """

    queries: Inputs
    distances_SQT: Tensor
    differ_SQT: Tensor
    hidden_SQT: Tensor


def relate(inputs: Inputs) -> tuple[Stream, Stream]:
    """Return the streams of content and of queries."""
    targets, chosen_M = index_targets(inputs), inputs.predicted_positions_M
    ranks_M = (targets.position_ids_N + 1) * (inputs.labels_M != NO_LABEL)  # 0 for padding
    order_N = torch.zeros_like(inputs.input_ids_N).index_add(0, chosen_M, ranks_M)
    of_content = inputs.position_ids_N, inputs.token_type_ids_N, order_N
    _, types_ST, order_ST = (pad_rows(values, inputs)[0] for values in of_content)
    places_T = torch.arange(inputs.max_seqlen, device=order_N.device)
    streams = []
    for queries, own in (
        (inputs, of_content),
        (targets, [values.index_select(0, chosen_M) for values in of_content]),
    ):
        places_SQ1, types_SQ1, order_SQ1 = (pad_rows(v, queries)[0][..., None] for v in own)
        is_query = queries is targets
        is_hidden_SQT = order_ST[:, None] > order_SQ1 - int(is_query)
        streams.append(
            Stream(
                queries,
                places_T + (inputs.max_seqlen - 1) - places_SQ1,
                types_ST[:, None] != types_SQ1,
                torch.where(is_hidden_SQT, torch.finfo(torch.float32).min / 4, 0.0),
            )
        )
    return streams[0], streams[1]


class RelativeAttention(nn.Module):
    """Attention of a stream to the content, followed by the residual and a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        D, H = config.hidden_size, config.num_attention_heads
        K = D // H
        self.q, self.k, self.v, self.o, self.r = (
            nn.Parameter(torch.empty(D, H, K)) for _ in range(5)
        )
        self.r_r_bias, self.r_s_bias, self.r_w_bias = (
            nn.Parameter(torch.empty(H, K)) for _ in range(3)
        )
        self.seg_embed = nn.Parameter(torch.empty(2, H, K))
        self.norm = nn.LayerNorm(D, eps=config.layer_norm_eps)
        self.dropout_prob = config.attention_probs_dropout_prob
        self.hidden_dropout_prob = config.hidden_dropout_prob

    def project(self, x_ND: Tensor, weight_DHK: Tensor) -> Tensor:
        """Return x_NHK."""
        return (x_ND @ weight_DHK.flatten(1)).view(len(x_ND), *weight_DHK.shape[1:])

    def forward(
        self, x_MD: Tensor, stream: Stream, keys: tuple[Tensor, Tensor, Tensor], inputs: Inputs
    ) -> Tensor:
        """Return x_MD with what the stream's queries attended to.

        Args:
            x_MD: states of the stream.
            stream: the stream, which may be the content.
            keys: k_NHK and v_NHK of the content, and r_PHK of distances.
            inputs: sequences of the content.
        """
        k_NHK, v_NHK, r_PHK = keys
        q_MHK = self.project(x_MD, self.q)
        bias_SHQT = self._bias(q_MHK, r_PHK, stream)
        mixed_MHK = attend_biased(
            q_MHK + self.r_w_bias.to(q_MHK.dtype),
            k_NHK,
            v_NHK,
            stream.queries,
            inputs,
            bias_SHTT=bias_SHQT,
            dropout_prob=self.dropout_prob,
            scale=q_MHK.shape[-1] ** -0.5,
        )
        mixed_MD = mixed_MHK.flatten(1) @ self.o.flatten(1).T
        mixed_MD = stream.queries.drop(mixed_MD, self.hidden_dropout_prob, HIDDEN)
        return to_autocast_dtype(self.norm(x_MD + mixed_MD))

    def _bias(self, q_MHK: Tensor, r_PHK: Tensor, stream: Stream) -> Tensor:
        """Return the terms of distances, segments and hidden keys."""
        of_distances_MHP = torch.einsum("mhk,phk->mhp", q_MHK + self.r_r_bias, r_PHK)
        of_segments_MH2 = torch.einsum("mhk,shk->mhs", q_MHK + self.r_s_bias, self.seg_embed)
        terms_MHP = torch.cat((of_distances_MHP, of_segments_MH2), -1) * q_MHK.shape[-1] ** -0.5
        terms_SHQP = pad_rows(terms_MHP, stream.queries)[0].transpose(1, 2)
        shape = (-1, terms_SHQP.shape[1], -1, -1)
        of_distances_SHQT = terms_SHQP.gather(3, stream.distances_SQT[:, None].expand(shape))
        of_segments_SHQT = torch.where(
            stream.differ_SQT[:, None], terms_SHQP[..., -1:], terms_SHQP[..., -2:-1]
        )
        bias_SHQT: Tensor = of_distances_SHQT + of_segments_SHQT + stream.hidden_SQT[:, None]
        return bias_SHQT


class TwoStreamLayer(nn.Module):
    """Attention and a feed-forward network for both streams."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = RelativeAttention(config)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(
        self,
        content_ND: Tensor,
        queries_MD: Tensor,
        r_PD: Tensor,
        streams: tuple[Stream, Stream],
        inputs: Inputs,
    ) -> tuple[Tensor, Tensor]:
        """Pass both streams through the layer."""
        attention = self.attention
        projected = ((content_ND, attention.k), (content_ND, attention.v), (r_PD, attention.r))
        k_NHK, v_NHK, r_PHK = (attention.project(x, weight) for x, weight in projected)
        content_ND, queries_MD = (
            self._feed_forward(attention(x, stream, (k_NHK, v_NHK, r_PHK), inputs), stream.queries)
            for x, stream in zip((content_ND, queries_MD), streams, strict=True)
        )
        return content_ND, queries_MD

    def _feed_forward(self, x_MD: Tensor, queries: Inputs) -> Tensor:
        h_MF = queries.drop(F.gelu(self.up(x_MD)), self.dropout_prob, UP)
        out_MD = queries.drop(self.down(h_MF), self.dropout_prob, OUTPUT)
        return to_autocast_dtype(self.norm(x_MD + out_MD))


class MaskedEmbeddings(Embeddings):
    """Token embeddings, and the vector that all queries begin with."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.mask_emb = nn.Parameter(torch.empty(1, 1, config.hidden_size))

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return the content, x_ND, and the queries of its targets, x_MD."""
        queries_MD = self.mask_emb[0].expand(len(inputs.labels_M), -1)
        x_ND, x_MD = (to_autocast_dtype(x) for x in (self.words(inputs.input_ids_N), queries_MD))
        x_ND = inputs.drop(x_ND, self.dropout_prob, HIDDEN)
        return x_ND, index_targets(inputs).drop(x_MD, self.dropout_prob, HIDDEN)


class Xlnet(Transformer):
    """Both streams; the encoder's output is that of the queries, x_MD."""

    embeddings: MaskedEmbeddings

    def __init__(self, config: XlnetConfig) -> None:
        layers = (TwoStreamLayer(config) for _ in range(config.num_hidden_layers))
        super().__init__(config, MaskedEmbeddings(config), layers)
        self.masked_token_head = nn.ParameterDict({"bias": torch.zeros(config.padded_vocab_size)})

    def initialize(self) -> None:
        """Draw the weights: normal; biases of linear layers 0, norms 1."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=self.config.initializer_range)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def encode(self, inputs: Inputs) -> Tensor:
        """Return the last state of the queries, x_MD."""
        streams, last = relate(inputs), inputs.max_seqlen - 1
        content_ND, queries_MD = self.embeddings(inputs)
        distances_P = torch.arange(last, -last - 1, -1, device=content_ND.device)
        r_PD, prob = (
            sinusoids(distances_P, self.config.hidden_size),
            self.config.hidden_dropout_prob,
        )
        if inputs.dropout(prob):
            r_PD = drop(r_PD, key_tokens(inputs.dropout_keys[:1], distances_P, HIDDEN), prob)
        for number, layer in enumerate(self.layers, start=1):
            own = tuple(s._replace(queries=s.queries.at_layer(number)) for s in streams)
            content_ND, queries_MD = layer(content_ND, queries_MD, r_PD, own, inputs)
        return streams[1].queries.drop(queries_MD, prob, OUTPUT)

    def predict(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the states of the queries, one for each target."""
        del inputs
        return to_autocast_dtype(x_ND)

    def count_attended(self, length: float, predicted_share: float = 0.0) -> float:
        """Return the attended tokens of a token and its share of queries, by content and distance."""
        return 1.5 * (1 + predicted_share) * super().count_attended(length)

    def count_head_parameters(self) -> int:
        """Return the parameters that a target passes through, in layers too, but without k, v and r."""
        config = self.config
        unused = 3 * config.num_hidden_layers * config.hidden_size**2
        return super().count_layer_parameters() - unused + super().count_head_parameters()


def describe_xlnet(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``config.json`` of XLNet."""
    del config
    return {
        "architectures": ["XLNetLMHeadModel"],
        "bos_token_id": tokenizer.special_ids["cls"],
        "eos_token_id": tokenizer.end_of_text_id(),
        "ff_activation": "gelu",
        "mem_len": None,
    }


XLNET = Architecture(
    model_type="xlnet",
    objectives=("plm",),
    build=Xlnet,
    outer={
        "embeddings": "transformer",  # has mask_emb
        "embeddings.words": "transformer.word_embedding",
        "masked_token_head": "lm_loss",
    },
    layer="transformer.layer.{}",
    inner={
        "attention": ("rel_attn",),
        "attention.norm": ("rel_attn.layer_norm",),
        "up": ("ff.layer_1",),
        "down": ("ff.layer_2",),
        "norm": ("ff.layer_norm",),
    },
    describe=describe_xlnet,
    config={
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "intermediate_size": "d_inner",
        "max_position_embeddings": None,
        "type_vocab_size": None,
        "hidden_dropout_prob": "dropout",
        "attention_probs_dropout_prob": "dropout",
    },
    config_class=XlnetConfig,
    defaults={"initializer_range": 0.02, "layer_norm_eps": 1e-12},
    supported={
        "ff_activation": ("gelu",),
        "attn_type": ("bi",),
        "bi_data": (False,),
        "clamp_len": (-1,),
        "same_length": (False,),
        "untie_r": (True,),
        "tie_word_embeddings": (True,),
    },
    redundant=("lm_loss.weight",),
)
