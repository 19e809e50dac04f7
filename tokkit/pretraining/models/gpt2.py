"""GPT-2 (Radford et al. 2019), which predicts each token from those before it; ``clm`` trains it.

It is a pre-norm decoder: the input of each sublayer is normalized, and its output passes dropout and
is added to the input before the norm; one more norm follows the last layer. The activation is the
``tanh`` approximation of GELU, and the head is the word embedding without a bias. It computes what
``transformers.GPT2LMHeadModel`` computes, on sequences without padding, with the interface and the
shape letters of ``tokkit.pretraining.models.bert``. There are no segments.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.pretraining.models.attention import Sequences
from tokkit.pretraining.models.bert import (
    Inputs,
    ModelConfig,
    SelfAttention,
    Sums,
    to_autocast_dtype,
)
from tokkit.pretraining.models.loss import TokenLoss

RESIDUAL = ("attention.output", "down")  # the projections whose outputs are added to the residual


class TokenEmbeddings(nn.Module):
    """The sum of the vectors of a token and its position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, inputs: Inputs) -> Tensor:
        """Return x_ND."""
        x_ND = self.words(inputs.input_ids_N) + self.positions(inputs.position_ids_N)
        return F.dropout(x_ND, self.dropout_prob, self.training)


class Block(nn.Module):
    """A norm and causal attention, then a norm and a feed-forward network."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.attention = SelfAttention(config, causal=True)
        self.up_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, x_ND: Tensor, sequences: Sequences) -> Tensor:
        """Pass x_ND through the block."""
        x_ND = x_ND + self._drop(self.attention(self.attention_norm(x_ND), sequences))
        h_NF = F.gelu(self.up(self.up_norm(x_ND)), approximate="tanh")
        return x_ND + self._drop(self.down(h_NF))

    def _drop(self, x_ND: Tensor) -> Tensor:
        return F.dropout(x_ND, self.dropout_prob, self.training)


class Gpt2(nn.Module):
    """The decoder with its head; token types and pairs in ``Inputs`` have no effect."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = TokenEmbeddings(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_hidden_layers))
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.token_loss = TokenLoss(config.vocab_size)

    def forward(self, inputs: Inputs) -> Sums:
        """Return the loss."""
        token_loss, token_correct = self.token_loss(
            self._predict(inputs),
            self.embeddings.words.weight,
            None,
            inputs.labels_M,
        )
        return Sums(token_loss, token_correct, torch.zeros_like(token_loss), token_correct * 0)

    def encode(self, inputs: Inputs) -> Tensor:
        """Return the output of the last norm, x_ND."""
        x_ND = self.embeddings(inputs)
        sequences = inputs.sequences
        for layer in self.layers:
            x_ND = layer(x_ND, sequences)
        normed_ND: Tensor = self.norm(x_ND)
        return normed_ND

    def logits(self, inputs: Inputs) -> tuple[Tensor, None]:
        """Return logits_MV; there are no pairs."""
        weight_VD = self.embeddings.words.weight[: self.config.vocab_size]
        return F.linear(self._predict(inputs), weight_VD), None

    def _predict(self, inputs: Inputs) -> Tensor:
        """Return the input of the head, x_MD."""
        x_MD = self.encode(inputs).index_select(0, inputs.predicted_positions_M)
        return to_autocast_dtype(x_MD)


def initialize(model: Gpt2) -> None:
    """Draw the weights as GPT-2 does: normal, smaller for residual projections; biases 0, norms 1.

    Two projections in each layer add to the residual, whose variance would otherwise grow with their
    number.
    """
    deviation = model.config.initializer_range
    smaller = deviation / math.sqrt(2 * model.config.num_hidden_layers)
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.normal_(module.weight, std=smaller if name.endswith(RESIDUAL) else deviation)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
