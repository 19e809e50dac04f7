"""BERT (Devlin et al. 2018, arXiv:1810.04805) with its two pretraining heads.

A post-norm encoder: each sublayer's output passes dropout, is added to its input and then
normalized. It computes what ``transformers.BertForPreTraining`` computes, and differs in two ways
that cost nothing in exactness: queries, keys and values come from one projection, and the masked
language model's logits are made for the masked positions alone. With 20 predictions in 128
positions and 8,000 entries that leaves 640 rows of logits out of 4,096 in a batch of 32.

Names of tensors carry their shape:

    B  sequences in the batch      D  hidden size             V  entries of the vocabulary
    T  positions, padded           H  attention heads         M  masked positions of the whole batch
    F  feed-forward size           K  size of a head, D / H   C  classes of the pair's label, 2
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIZES = {  # layers, hidden size, heads: https://github.com/google-research/bert
    "tiny": (2, 128, 2),
    "mini": (4, 256, 4),
    "small": (4, 512, 8),
    "medium": (8, 512, 8),
    "base": (12, 768, 12),
    "large": (24, 1024, 16),
}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a model, under the names of a Hugging Face ``config.json``."""

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02

    @classmethod
    def from_preset(
        cls, preset: str, *, vocab_size: int, max_seq_length: int, dropout: float
    ) -> "ModelConfig":
        """The shape that google-research/bert gave the name, with room for longer sequences."""
        num_layers, hidden_size, num_heads = SIZES[preset]
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * hidden_size,
            max_position_embeddings=max(512, max_seq_length),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
        )


class Embeddings(nn.Module):
    """The sum of a word's, a position's and a segment's vector, normalized."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segments = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, input_ids_BT: Tensor, token_type_ids_BT: Tensor) -> Tensor:
        """Embed ids; x_BTD."""
        x_BTD = self.words(input_ids_BT) + self.segments(token_type_ids_BT)
        x_BTD = self.norm(x_BTD + self.positions.weight[: input_ids_BT.shape[1]])
        return F.dropout(x_BTD, self.dropout_prob, self.training)


class SelfAttention(nn.Module):
    """Multi-head attention of each position to all positions that are not padding."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor | None) -> Tensor:
        """Mix positions; ``mask_B11T`` is false at padding, None where there is none."""
        B, T, D = x_BTD.shape
        qkv_3BHTK = self.qkv(x_BTD).view(B, T, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q_BHTK, k_BHTK, v_BHTK = qkv_3BHTK.unbind(0)
        x_BHTK = F.scaled_dot_product_attention(
            q_BHTK,
            k_BHTK,
            v_BHTK,
            attn_mask=mask_B11T,
            dropout_p=self.dropout_prob if self.training else 0.0,
        )
        mixed_BTD: Tensor = self.output(x_BHTK.transpose(1, 2).reshape(B, T, D))
        return mixed_BTD


class Layer(nn.Module):
    """Attention, then a feed-forward network; each with dropout, the residual and a norm."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.attention_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.up = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, config.hidden_size)
        self.output_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, x_BTD: Tensor, mask_B11T: Tensor | None) -> Tensor:
        """Pass x_BTD through the layer."""
        x_BTD = self.attention_norm(x_BTD + self._drop(self.attention(x_BTD, mask_B11T)))
        h_BTF = F.gelu(self.up(x_BTD))
        out_BTD: Tensor = self.output_norm(x_BTD + self._drop(self.down(h_BTF)))
        return out_BTD

    def _drop(self, x_BTD: Tensor) -> Tensor:
        return F.dropout(x_BTD, self.dropout_prob, self.training)


class MaskedTokenHead(nn.Module):
    """Logits over the vocabulary; its decoder is the word embedding itself."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, x_MD: Tensor, words_VD: Tensor) -> Tensor:
        """Compute logits_MV from the encoder's output at the masked positions."""
        return F.linear(self.norm(F.gelu(self.transform(x_MD))), words_VD, self.bias)


class NextSentenceHead(nn.Module):
    """Logits of "B follows A" and "B is random", from the first position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, x_BD: Tensor) -> Tensor:
        """Compute logits_BC from the encoder's output at the first position."""
        logits_BC: Tensor = self.classifier(torch.tanh(self.pooler(x_BD)))
        return logits_BC


class Bert(nn.Module):
    """The encoder with the heads for masked tokens and for the next sentence."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.masked_token_head = MaskedTokenHead(config)
        self.next_sentence_head = NextSentenceHead(config)

    def forward(
        self,
        input_ids_BT: Tensor,
        token_type_ids_BT: Tensor,
        attention_mask_BT: Tensor | None,
        masked_positions_M: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Compute both heads' logits.

        Args:
            input_ids_BT: int64, below ``vocab_size``: it is not checked here.
            token_type_ids_BT: int64, 0 or 1.
            attention_mask_BT: bool, false at padding; None where nothing is padded.
            masked_positions_M: int64, positions in the flattened batch: ``b * T + t``.

        Returns:
            The masked positions' logits [M, V] and the pairs' logits [B, 2].
        """
        mask_B11T = None if attention_mask_BT is None else attention_mask_BT[:, None, None, :]
        x_BTD = self.embeddings(input_ids_BT, token_type_ids_BT)
        for layer in self.layers:
            x_BTD = layer(x_BTD, mask_B11T)
        x_MD = x_BTD.flatten(0, 1).index_select(0, masked_positions_M)
        logits_MV = self.masked_token_head(x_MD, self.embeddings.words.weight)
        logits_BC = self.next_sentence_head(x_BTD[:, 0])
        return logits_MV, logits_BC


def initialize(model: Bert) -> None:
    """Draw the weights as BERT does: normal, cut off at two deviations; biases 0, norms 1."""
    deviation = model.config.initializer_range
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
