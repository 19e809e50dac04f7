"""BERT (Devlin et al. 2018, arXiv:1810.04805) with its two pretraining heads.

It is a post-norm encoder: the output of each sublayer passes dropout, is added to the sublayer's
input, and is normalized. It computes what ``transformers.BertForPreTraining`` computes, with three
differences that do not change the result: there is no padding, sequences are concatenated from the
embedding to the heads; queries, keys and values come from one projection; and logits are computed for
the masked positions only, a chunk at a time. The vocabulary is padded to a multiple of 64, which is
fast on matrix units; the padding is never predicted.

Names of tensors carry their shape:

    N  tokens of all sequences     D  hidden size             V  vocabulary size
    S  sequences                   H  attention heads         M  predicted positions of all sequences
    F  feed-forward size           K  head size, D / H        C  classes of the pair's label, 2
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.errors import require
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.models.attention import Sequences, attend
from tokkit.pretraining.models.loss import TokenLoss
from tokkit.pretraining.pretrain_config import PRESETS
from tokkit.shards.objectives import OBJECTIVES

VOCAB_MULTIPLE = 64


class Inputs(NamedTuple):
    """A batch of sequences and what is predicted of them. All tensors but one are int64.

    Attributes:
        input_ids_N: below ``vocab_size``, which is not checked here.
        token_type_ids_N: the segment, 0 or 1.
        position_ids_N: position of a token in its sequence.
        row_ids_N: sequence of a token.
        cu_seqlens: int32 ``[S + 1]``, offsets of the sequences.
        predicted_positions_M: below N.
        labels_M: ids to predict there; ``NO_LABEL`` for none.
        pair_labels_S: label of a pair; ``NO_LABEL`` for none.
        max_seqlen: at least the length of the longest sequence.
    """

    input_ids_N: Tensor
    token_type_ids_N: Tensor
    position_ids_N: Tensor
    row_ids_N: Tensor
    cu_seqlens: Tensor
    predicted_positions_M: Tensor
    labels_M: Tensor
    pair_labels_S: Tensor
    max_seqlen: int

    @property
    def sequences(self) -> Sequences:
        """The layout of the sequences, for attention."""
        return Sequences(self.cu_seqlens, self.row_ids_N, self.position_ids_N, self.max_seqlen)


class Sums(NamedTuple):
    """Losses and hits of a batch: scalars on the model's device.

    Attributes:
        token_loss: sum of the cross-entropy of predicted tokens, differentiable.
        token_correct: int64, predicted tokens that got the highest logit.
        pair_loss: sum of the cross-entropy of pairs, differentiable; 0 without a head for them.
        pair_correct: int64, pairs whose label got the higher logit.
    """

    token_loss: Tensor
    token_correct: Tensor
    pair_loss: Tensor
    pair_correct: Tensor


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a model, with the field names of a Hugging Face ``config.json``.

    ``objective`` decides which heads it has; with ``share_layers`` all layers have the same weights.
    """

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
    objective: str = "nsp"
    share_layers: bool = False

    def __post_init__(self) -> None:
        """Refuse a GPT-2 with shared layers: no library could load it."""
        require(
            not self.is_causal or not self.share_layers,
            "--share-layers has no effect on a GPT-2, which instances of clm train; leave it out",
        )

    @property
    def padded_vocab_size(self) -> int:
        """The number of rows of the word embedding."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def has_pairs(self) -> bool:
        """Whether there is a head for the pair's label."""
        return OBJECTIVES[self.objective].has_pairs

    @property
    def is_causal(self) -> bool:
        """Whether the model is a GPT-2 and not a BERT."""
        return OBJECTIVES[self.objective].is_causal

    @classmethod
    def from_preset(
        cls,
        preset: str,
        *,
        vocab_size: int,
        max_seq_length: int,
        dropout: float,
        objective: str = "nsp",
        share_layers: bool = False,
    ) -> "ModelConfig":
        """Return the shape of a preset, with more positions where sequences are longer."""
        num_layers, hidden_size, num_heads = PRESETS[preset]
        return cls(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=num_layers,
            num_attention_heads=num_heads,
            intermediate_size=4 * hidden_size,
            max_position_embeddings=max(512, max_seq_length),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            layer_norm_eps=1e-5 if OBJECTIVES[objective].is_causal else 1e-12,  # as published
            objective=objective,
            share_layers=share_layers,
        )


class Embeddings(nn.Module):
    """The normalized sum of the vectors of a token, its position and its segment."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.padded_vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.segments = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout_prob = config.hidden_dropout_prob

    def forward(self, inputs: Inputs) -> Tensor:
        """Return x_ND."""
        x_ND = self.words(inputs.input_ids_N) + self._embed_segments(inputs.token_type_ids_N)
        x_ND = to_autocast_dtype(self.norm(x_ND + self.positions(inputs.position_ids_N)))
        return F.dropout(x_ND, self.dropout_prob, self.training)

    def _embed_segments(self, token_type_ids_N: Tensor) -> Tensor:
        """Return the vector of each token's segment, without an embedding lookup.

        The gradient of ``where`` is a sum; that of a lookup is scattered, and all tokens of a batch
        would contend for two rows of memory. (From reading the code; not measured.)
        """
        vectors = self.segments.weight
        x_ND = vectors[0]
        for number in range(1, len(vectors)):
            x_ND = torch.where(token_type_ids_N[:, None] == number, vectors[number], x_ND)
        return x_ND


class SelfAttention(nn.Module):
    """Multi-head attention of each token to the tokens of its sequence."""

    def __init__(self, config: ModelConfig, *, causal: bool = False) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.dropout_prob = config.attention_probs_dropout_prob
        self.causal = causal
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.output = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x_ND: Tensor, sequences: Sequences) -> Tensor:
        """Return the attention's output, of the shape of x_ND."""
        N, D = x_ND.shape
        qkv_N3HK = self.qkv(x_ND).view(N, 3, self.num_heads, D // self.num_heads)
        dropout_prob = self.dropout_prob if self.training else 0.0
        x_NHK = attend(qkv_N3HK, sequences, dropout_prob, causal=self.causal)
        mixed_ND: Tensor = self.output(x_NHK.flatten(1))
        return mixed_ND


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

    def forward(self, x_ND: Tensor, sequences: Sequences) -> Tensor:
        """Pass x_ND through the layer."""
        x_ND = self.attention_norm(x_ND + self._drop(self.attention(x_ND, sequences)))
        x_ND = to_autocast_dtype(x_ND)
        h_NF = F.gelu(self.up(x_ND))
        out_ND = self.output_norm(x_ND + self._drop(self.down(h_NF)))
        return to_autocast_dtype(out_ND)

    def _drop(self, x_ND: Tensor) -> Tensor:
        return F.dropout(x_ND, self.dropout_prob, self.training)


class MaskedTokenHead(nn.Module):
    """The transform before the decoder, whose weight is the word embedding itself."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.padded_vocab_size))

    def forward(self, x_MD: Tensor) -> Tensor:
        """Transform the encoder's output at the predicted positions."""
        return to_autocast_dtype(self.norm(F.gelu(self.transform(x_MD))))


class NextSentenceHead(nn.Module):
    """Logits of the two labels of a pair, from the first position."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, x_SD: Tensor) -> Tensor:
        """Return logits_SC for the encoder's output at the first position."""
        logits_SC: Tensor = self.classifier(torch.tanh(self.pooler(x_SD)))
        return logits_SC


class Bert(nn.Module):
    """The encoder with a head for masked tokens and, where there are pairs, one for their label."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        num_layers = 1 if config.share_layers else config.num_hidden_layers
        self.layers = nn.ModuleList(Layer(config) for _ in range(num_layers))
        self.masked_token_head = MaskedTokenHead(config)
        self.token_loss = TokenLoss(config.vocab_size)
        self.next_sentence_head = NextSentenceHead(config) if config.has_pairs else None

    def forward(self, inputs: Inputs) -> Sums:
        """Return the losses of both heads."""
        x_ND = self.encode(inputs)
        token_loss, token_correct = self.token_loss(
            self.masked_token_head(x_ND.index_select(0, inputs.predicted_positions_M)),
            self.embeddings.words.weight,
            self.masked_token_head.bias,
            inputs.labels_M,
        )
        if self.next_sentence_head is None:
            return Sums(token_loss, token_correct, torch.zeros_like(token_loss), token_correct * 0)
        logits_SC = self.next_sentence_head(_first_tokens(x_ND, inputs)).float()
        labels_S = inputs.pair_labels_S
        pair_loss = F.cross_entropy(logits_SC, labels_S, ignore_index=NO_LABEL, reduction="sum")
        return Sums(token_loss, token_correct, pair_loss, (logits_SC.argmax(1) == labels_S).sum())

    def encode(self, inputs: Inputs) -> Tensor:
        """Return the encoder's output, x_ND."""
        x_ND: Tensor = self.embeddings(inputs)
        sequences = inputs.sequences
        for number in range(self.config.num_hidden_layers):
            x_ND = self.layers[number % len(self.layers)](x_ND, sequences)
        return x_ND

    def logits(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Return logits_MV, and logits_SC where there are pairs."""
        x_ND = self.encode(inputs)
        x_MD = self.masked_token_head(x_ND.index_select(0, inputs.predicted_positions_M))
        head, V = self.masked_token_head, self.config.vocab_size
        logits_MV = F.linear(x_MD, self.embeddings.words.weight[:V], head.bias[:V])
        pairs = self.next_sentence_head
        return logits_MV, None if pairs is None else pairs(_first_tokens(x_ND, inputs))


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Convert the output of a norm to the precision of matrix products under autocast.

    Autocast computes norms in fp32 and leaves their output in fp32. The computation is enough: a
    post-norm encoder normalizes each output again, so rounding errors do not accumulate over the
    layers, and in bf16 there is half as much to write, to keep for the backward pass, and to read.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


def _first_tokens(x_ND: Tensor, inputs: Inputs) -> Tensor:
    """Return the vector of each sequence's first token, and any vector for an empty sequence."""
    return x_ND.index_select(0, inputs.cu_seqlens[:-1].clamp(max=len(x_ND) - 1))


def initialize(model: Bert) -> None:
    """Draw the weights as BERT does: normal, truncated at two deviations; biases 0, norms 1."""
    deviation = model.config.initializer_range
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Embedding):
            nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
