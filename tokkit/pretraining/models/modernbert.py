"""ModernBERT (Warner et al. 2024, arXiv:2412.13663), for ``mlm``, and as a decoder for ``clm``.

It is a pre-norm encoder without biases. The embedding is normalized, so the first layer has no norm
before its attention; one more norm follows the last layer. Positions are rotary. Every third layer,
from the first, attends to the whole sequence; the others to a window of 128 tokens, 64 on each side,
with another base of the rotary positions. The feed-forward network is a GeGLU (Shazeer 2020,
arXiv:2002.05202). The head is BERT's without biases, but for that of the decoder.

It computes what ``transformers.ModernBertForMaskedLM`` computes, and for ``clm``
``ModernBertDecoderForCausalLM``, whose window is a token and the 63 before it. Dropout is where
``transformers`` has it. The presets are the sizes of Ettin (Weller et al. 2025, arXiv:2507.11412),
an encoder and a decoder each, of which ``base`` and ``large`` are those of ModernBERT.

Its ``config.json`` has two dialects. transformers 5 names the kind of each layer, and the base of the
rotary positions of each kind; earlier versions say how often a layer is global, and have two bases:

    layer_types: [full_attention, sliding_attention, …]       global_attn_every_n_layers: 3
    rope_parameters: {full_attention: {rope_theta: 160000},   global_rope_theta: 160000
                      sliding_attention: {…: 10000}}          local_rope_theta: 10000
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, ClassVar, Self, TypedDict

import msgspec
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.engine.json_files import Size
from tokkit.pretraining.families import MODERNBERT_PRESETS, MODERNBERT_WINDOW, ModelSizes
from tokkit.pretraining.models.attention import SelfAttention, Window
from tokkit.pretraining.models.bert import MaskedTokenHead
from tokkit.pretraining.models.dropout import HIDDEN, UP
from tokkit.pretraining.models.transformer import (
    Architecture,
    Embeddings,
    Inputs,
    ModelConfig,
    Positive,
    Transformer,
)
from tokkit.tokenizer.tokenizer import Tokenizer

GLOBAL, LOCAL = "full_attention", "sliding_attention"
# The projections whose outputs are added to the residual, and that of the head.
RESIDUAL = ("attention.output", "down", "masked_token_head.transform")
# What transformers assumes for fields missing from a config.
DEFAULTS: Mapping[str, Any] = {
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "initializer_range": 0.02,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
    "layer_types": None,
    "rope_parameters": None,
}
# The values that our ModernBERT computes.
SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu", "gelu_python"),
    "classifier_activation": ("gelu", "gelu_python"),
    "rope_scaling": (None,),
    **dict.fromkeys(("norm_bias", "attention_bias", "mlp_bias", "classifier_bias"), (False,)),
    "decoder_bias": (True,),
    "tie_word_embeddings": (True,),
}


class _Rope(TypedDict, total=False):
    rope_type: str
    rope_theta: Positive


class _Dialects(TypedDict):
    global_attn_every_n_layers: Size
    global_rope_theta: Positive
    local_rope_theta: Positive | None
    layer_types: list[str] | None
    rope_parameters: dict[str, _Rope | None] | None


def read_modernbert(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contents of ``config.json``, completed by defaults, in the dialect of 4.48.

    Raises:
        ValueError: if our ModernBERT does not compute this model.
    """
    fields = msgspec.convert(data, _Dialects)
    older = fields["global_rope_theta"]
    thetas = {GLOBAL: older, LOCAL: fields["local_rope_theta"] or older}
    for kind in (GLOBAL, LOCAL):
        rope = (fields["rope_parameters"] or {}).get(kind) or {}
        thetas[kind] = rope.get("rope_theta", thetas[kind])
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters: only the default rope_type is supported for {kind}")
    types, every = fields["layer_types"], fields["global_attn_every_n_layers"]
    if types is not None:
        if types != name_layers(len(types), every):  # else any number of layers may have been meant
            rest = types[1:]
            every = rest.index(GLOBAL) + 1 if GLOBAL in rest else max(1, len(types))
        if len(types) != data.get("num_hidden_layers") or types != name_layers(len(types), every):
            raise ValueError(
                "layer_types must name a global layer first and then every so many layers"
            )
    return {
        **data,
        "global_attn_every_n_layers": every,
        "global_rope_theta": thetas[GLOBAL],
        "local_rope_theta": thetas[LOCAL],
    }


def name_layers(num_layers: int, every: int) -> list[str]:
    """Return whether each layer is global, as one of ``every`` is, or local."""
    return [LOCAL if number % every else GLOBAL for number in range(num_layers)]


@dataclass(frozen=True, kw_only=True)
class ModernBertConfig(ModelConfig):
    """The shape of a ModernBERT, with the fields of ``config.json`` that only it has.

    The bases of the rotary positions are those of the paper's last phase; pretraining at 1,024
    tokens had 10,000 in all layers, and Ettin has 160,000 in all.
    """

    presets: ClassVar[Mapping[str, ModelSizes]] = MODERNBERT_PRESETS

    layer_norm_eps: Positive = 1e-5
    local_attention: Annotated[int, msgspec.Meta(ge=2)] = MODERNBERT_WINDOW
    global_attn_every_n_layers: Size = 3
    global_rope_theta: Positive = 160_000.0
    local_rope_theta: Positive = 10_000.0

    def __post_init__(self) -> None:
        """Refuse heads of an odd size, whose dimensions cannot be rotated in pairs."""
        if self.hidden_size % (2 * self.num_attention_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} cannot be divided among "
                f"{self.num_attention_heads} attention heads of an even size"
            )

    @property
    def model_type(self) -> str:  # type: ignore[override]
        """The name of the architecture in ``config.json``."""
        return "modernbert-decoder" if self.task.is_causal else "modernbert"

    @property
    def window(self) -> Window:
        """Window of tokens that a token attends to in a local layer."""
        half = self.local_attention // 2
        return (half - 1, 0) if self.task.is_causal else (half, half)

    @property
    def layer_types(self) -> list[str]:
        """The kind of each layer, as in ``config.json``."""
        return name_layers(self.num_hidden_layers, self.global_attn_every_n_layers)

    def stretch_positions(self, max_seq_length: int) -> Self:
        """Return this shape with a larger base of the rotary positions.

        The slowest dimension rotates as far over the new length as it did over the old one, and the
        fastest is unchanged ("NTK-aware"; Peng et al. 2023, arXiv:2309.00071, section 3.1). Local
        layers keep their base, because their windows do not grow.
        """
        size = self.hidden_size // self.num_attention_heads
        factor = max_seq_length / self.max_position_embeddings
        theta = self.global_rope_theta * factor ** (size / max(1, size - 2))
        return replace(super().stretch_positions(max_seq_length), global_rope_theta=theta)


class WordEmbeddings(Embeddings):
    """Normalized token embeddings, without position embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.norm = make_norm(config)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return x_ND."""
        x_ND = self.norm(self.words(inputs.input_ids_N))
        return inputs.drop(x_ND, self.dropout_prob, HIDDEN)


class ModernBertLayer(nn.Module):
    """A norm and attention, global or local, then a norm and a gated feed-forward network."""

    def __init__(self, config: ModernBertConfig, number: int) -> None:
        super().__init__()
        is_global = config.layer_types[number] == GLOBAL
        self.attention_norm = make_norm(config) if number else nn.Identity()
        self.attention = SelfAttention(
            config,
            bias=False,
            window=None if is_global else config.window,
            rope_theta=config.global_rope_theta if is_global else config.local_rope_theta,
        )
        self.up_norm = make_norm(config)
        self.up = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.attention_dropout_prob = config.attention_probs_dropout_prob
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Pass x_ND through the layer."""
        mixed_ND = self.attention(self.attention_norm(x_ND), inputs)
        x_ND = x_ND + inputs.drop(mixed_ND, self.attention_dropout_prob, HIDDEN)
        h_NF, gate_NF = self.up(self.up_norm(x_ND)).chunk(2, 1)
        h_NF = inputs.drop(F.gelu(h_NF) * gate_NF, self.dropout_prob, UP)
        out_ND: Tensor = x_ND + self.down(h_NF)
        return out_ND


class ModernBert(Transformer):
    """The model; token types and pairs in ``Inputs`` have no effect."""

    config: ModernBertConfig
    masked_token_head: MaskedTokenHead

    def __init__(self, config: ModernBertConfig) -> None:
        layers = (ModernBertLayer(config, number) for number in range(config.num_hidden_layers))
        super().__init__(config, WordEmbeddings(config), layers)
        self.norm = make_norm(config)
        self.masked_token_head = MaskedTokenHead(config, bias=False)

    def initialize(self) -> None:
        """Draw the weights: normal, truncated at two standard deviations; norms 1, bias 0."""
        self.draw_weights(RESIDUAL)

    def count_attended(self, length: float, predicted_share: float = 0.0) -> float:
        """Return how many tokens a token attends to in all layers together."""
        del predicted_share
        seen = min(length, 1 + sum(self.config.window))
        return sum(length if kind == GLOBAL else seen for kind in self.config.layer_types)

    def count_head_parameters(self) -> int:
        """Return the number of parameters of a prediction, without the decoder's bias."""
        head = self.masked_token_head
        own = head.transform.weight.numel() + head.norm.weight.numel()
        return own + super().count_head_parameters()


def make_norm(config: ModelConfig) -> nn.LayerNorm:
    """Return a norm without bias."""
    return nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps, bias=False)


def describe_modernbert(
    config: ModernBertConfig, tokenizer: Tokenizer, *, architecture: str
) -> dict[str, Any]:
    """Return ``config.json`` in the dialect of transformers 5; that of 4.48 consists of fields."""
    first, last = tokenizer.special_ids.get("cls"), tokenizer.special_ids.get("sep")
    described: dict[str, Any] = {}
    if config.task.is_causal:  # for which transformers requires an id of padding
        first = last = tokenizer.end_of_text_id()
        described["pad_token_id"] = tokenizer.special_ids.get("pad", last)
    return described | {
        "architectures": [architecture],
        "bos_token_id": first,
        "cls_token_id": first,
        "eos_token_id": last,
        "sep_token_id": last,
        "embedding_dropout": config.hidden_dropout_prob,
        "layer_types": config.layer_types,
        "rope_parameters": {
            GLOBAL: {"rope_type": "default", "rope_theta": config.global_rope_theta},
            LOCAL: {"rope_type": "default", "rope_theta": config.local_rope_theta},
        },
        "tie_word_embeddings": True,
    }


OUTER = {
    "embeddings.words": "model.embeddings.tok_embeddings",
    "embeddings.norm": "model.embeddings.norm",
    "norm": "model.final_norm",
    "masked_token_head": "decoder",  # has the bias
    "masked_token_head.transform": "head.dense",
    "masked_token_head.norm": "head.norm",
}
MODERNBERT = Architecture(
    model_type="modernbert",
    objectives=("mlm",),
    build=ModernBert,
    outer=OUTER,
    layer="model.layers.{}",
    inner={
        "attention_norm": ("attn_norm",),
        "attention.qkv": ("attn.Wqkv",),
        "attention.output": ("attn.Wo",),
        "up_norm": ("mlp_norm",),
        "up": ("mlp.Wi",),
        "down": ("mlp.Wo",),
    },
    describe=partial(describe_modernbert, architecture="ModernBertForMaskedLM"),
    config={
        "type_vocab_size": None,
        "hidden_dropout_prob": "mlp_dropout",
        "attention_probs_dropout_prob": "attention_dropout",
        "layer_norm_eps": "norm_eps",
    },
    config_class=ModernBertConfig,
    defaults=DEFAULTS,
    supported=SUPPORTED,
    read=read_modernbert,
    redundant=("decoder.weight",),
)
MODERNBERT_DECODER = replace(
    MODERNBERT,
    model_type="modernbert-decoder",
    objectives=("clm",),
    outer={name: theirs.replace("head.", "lm_head.") for name, theirs in OUTER.items()},
    inner={**MODERNBERT.inner, "attention.qkv": ("attn.q_proj", "attn.k_proj", "attn.v_proj")},
    describe=partial(describe_modernbert, architecture="ModernBertDecoderForCausalLM"),
)
