"""GPT-2 (Radford et al. 2019), which predicts each token from those before it; ``clm`` trains it.

It is a pre-norm decoder: the input of each sublayer is normalized, and its output passes dropout and
is added to the input before the norm; a last norm follows the layers. The activation is the ``tanh``
approximation of GELU, and the head is the word embedding without a bias. There are no segments. It
computes what ``transformers.GPT2LMHeadModel`` computes on sequences without padding.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.pretraining.models.attention import SelfAttention
from tokkit.pretraining.models.dropout import HIDDEN, OUTPUT
from tokkit.pretraining.models.transformer import (
    Architecture,
    Embeddings,
    Inputs,
    ModelConfig,
    Positive,
    Transformer,
)
from tokkit.tokenizer.tokenizer import Tokenizer

RESIDUAL = ("attention.output", "down")  # the projections whose outputs are added to the residual


@dataclass(frozen=True, kw_only=True)
class Gpt2Config(ModelConfig):
    """The shape of a GPT-2."""

    model_type: ClassVar[str] = "gpt2"

    layer_norm_eps: Positive = 1e-5


class TokenEmbeddings(Embeddings):
    """The sum of token and position embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return x_ND."""
        x_ND = self.words(inputs.input_ids_N) + self.positions(inputs.position_ids_N)
        return inputs.drop(x_ND, self.dropout_prob, HIDDEN)


class Block(nn.Module):
    """A norm and causal attention, then a norm and a feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config)
        self.up_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Pass x_ND through the block."""
        mixed_ND = self.attention(self.attention_norm(x_ND), inputs)
        x_ND = x_ND + inputs.drop(mixed_ND, self.dropout_prob, HIDDEN)
        h_NF = F.gelu(self.up(self.up_norm(x_ND)), approximate="tanh")
        return x_ND + inputs.drop(self.down(h_NF), self.dropout_prob, OUTPUT)


class Gpt2(Transformer):
    """The decoder; token types and pairs in ``Inputs`` have no effect."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            config,
            TokenEmbeddings(config),
            (Block(config) for _ in range(config.num_hidden_layers)),
        )
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def initialize(self) -> None:
        """Draw the weights: normal, smaller for residual projections; biases 0, norms 1."""
        self.draw_weights(RESIDUAL, truncated=False)


def describe_gpt2(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``config.json`` of GPT-2."""
    end = tokenizer.end_of_text_id()
    return {
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu_new",
        "embd_pdrop": config.hidden_dropout_prob,
        "bos_token_id": end,
        "eos_token_id": end,
    }


def read_gpt2(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contents of ``config.json`` with the feed-forward size, which may be missing."""
    width = data.get("n_embd")
    if data["n_inner"] is None and isinstance(width, int):
        return {**data, "n_inner": 4 * width}
    return data


GPT2 = Architecture(
    model_type="gpt2",
    objectives=("clm",),
    build=Gpt2,
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
    config_class=Gpt2Config,
    transposed=True,
    describe=describe_gpt2,
    defaults={"n_inner": None, "layer_norm_epsilon": 1e-5, "initializer_range": 0.02},
    supported={
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
        "tie_word_embeddings": (True,),
    },
    read=read_gpt2,
    redundant=("lm_head.weight", ".attn.bias", ".attn.masked_bias"),
)
