"""What the architectures share: inputs, losses, the shape of a model, and what makes it a model.

An architecture is one file, such as ``bert.py``: a subclass of ``Transformer``, and an
``Architecture`` that says which model of ``transformers`` computes the same. To add one, write such
a file and add it to ``ARCHITECTURES`` in ``architectures.py``, and its name, objectives and sizes to
``tokkit/pretraining/families.py``. What trains, saves and exports a model knows nothing else of it.

There is no padding: sequences are concatenated from the embedding to the heads, and logits are
computed for the predicted positions only, a chunk at a time. The vocabulary is padded to a multiple
of 64, which is fast on matrix units; the padding is never predicted.

Names of tensors carry their shape:

    N  tokens of all sequences     D  hidden size             V  vocabulary size
    S  sequences                   H  attention heads         M  predicted positions of all sequences
    F  feed-forward size           K  head size, D / H        C  classes of the pair's label, 2
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, NamedTuple, Self

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.engine.json_files import Size
from tokkit.kernels.instances.flatten import NO_LABEL
from tokkit.pretraining.families import PRESETS, Sizes
from tokkit.pretraining.models.dropout import LAYER, NO_KEYS, drop, key_tokens, wrap
from tokkit.pretraining.models.loss import TokenLoss
from tokkit.shards.objectives import OBJECTIVES, Objective
from tokkit.tokenizer.tokenizer import Tokenizer

VOCAB_MULTIPLE = 64
SIZE_FIELDS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
NO_TARGETS = torch.empty(0, dtype=torch.int32)

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Inputs(NamedTuple):
    """A batch of sequences and what is predicted of them. All tensors but one are int64.

    Attributes:
        input_ids_N: below ``vocab_size``, which is not checked here.
        token_type_ids_N: the segment, 0 or 1.
        position_ids_N: position of a token in its sequence.
        row_ids_N: sequence of a token.
        cu_seqlens: int32 ``[S + 1]``, offsets of the sequences from 0 to N; they may be empty.
        predicted_positions_M: below N.
        labels_M: ids to predict there; ``NO_LABEL`` for none.
        pair_labels_S: label of a pair; ``NO_LABEL`` for none.
        max_seqlen: at least the length of the longest sequence.
        target_cu_seqlens: int32 ``[S + 1]``, offsets of the sequences' targets from 0 to M, where
            instances have targets; else empty.
        max_target_len: at least the length of the longest of them.
        dropout_keys: int32 ``[1 + S]``, of the step and of the sequences; empty to drop nothing.
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
    target_cu_seqlens: Tensor = NO_TARGETS
    max_target_len: int = 0
    dropout_keys: Tensor = NO_KEYS

    def at_layer(self, number: int) -> Self:
        """Return the inputs of a layer, from 1, which drops other elements than the others."""
        return self._replace(dropout_keys=self.dropout_keys + wrap(number * LAYER))

    def dropout(self, prob: float) -> float:
        """Return the probability of dropping, which is 0 without keys."""
        return prob if len(self.dropout_keys) else 0.0

    def key_tokens(self, place: int) -> Tensor:
        """Return the keys of all tokens for one dropout of a layer, int32 ``[N]``."""
        keys_N = self.dropout_keys.index_select(0, self.row_ids_N + 1)
        return key_tokens(keys_N, self.position_ids_N, place)

    def drop(self, x_ND: Tensor, prob: float, place: int) -> Tensor:
        """Apply one dropout of a layer to its tokens."""
        if not self.dropout(prob):
            return x_ND
        return drop(x_ND, self.key_tokens(place), prob)


class Sums(NamedTuple):
    """Losses and correct predictions of a batch: scalars on the model's device.

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

    Attributes:
        objective: of the instances; it decides which heads the model has.
        model_type: name of the architecture in ``config.json``.
        presets: sizes by name.
        equal_fields: fields of a subclass that have the value of another one in a preset.
        divides_width: whether the hidden size is divided among the heads.
        limits_length: whether the number of positions is limited.
    """

    model_type: ClassVar[str] = "bert"
    presets: ClassVar[Mapping[str, Sizes]] = PRESETS
    equal_fields: ClassVar[Mapping[str, str]] = {}
    divides_width: ClassVar[bool] = True
    limits_length: ClassVar[bool] = True

    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: Positive = 1e-12
    initializer_range: Positive = 0.02
    objective: str = "nsp"

    @property
    def padded_vocab_size(self) -> int:
        """The number of rows of the word embedding."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    @property
    def word_size(self) -> int:
        """The size of the token embeddings."""
        return self.hidden_size

    @property
    def gelu(self) -> str:
        """Torch's name of the approximation of GELU."""
        return "none"

    @property
    def position_offset(self) -> int:
        """The number of unused rows at the start of the position embedding of ``transformers``."""
        return 0

    @property
    def task(self) -> Objective:
        """What there is to predict."""
        return OBJECTIVES[self.objective]

    @classmethod
    def from_preset(
        cls,
        preset: str,
        *,
        vocab_size: int,
        max_seq_length: int,
        dropout: float,
        objective: str = "nsp",
    ) -> Self:
        """Return the shape of a preset, with more positions where sequences are longer."""
        sizes = dict(zip(SIZE_FIELDS, cls.presets[preset], strict=True))
        sizes |= {name: sizes[other] for name, other in cls.equal_fields.items()}
        return cls(
            vocab_size=vocab_size,
            max_position_embeddings=max(512, max_seq_length),
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            objective=objective,
            **sizes,
        )

    def count_layer_weights(self) -> int:
        """Return how many numbers the matrices of all layers have."""
        layer = self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)
        return self.num_hidden_layers * layer

    def fit(self, tokenizer: Tokenizer) -> Self:
        """Return the shape of the same model with the vocabulary of a tokenizer."""
        return replace(self, vocab_size=tokenizer.vocab_size)

    def stretch_positions(self, max_seq_length: int) -> Self:
        """Return the shape of the same model with more positions, which are closer together."""
        return replace(self, max_position_embeddings=max_seq_length)


class Embeddings(nn.Module):
    """The token embedding; what an architecture adds to it, and computes of it, is in its own subclass."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.padded_vocab_size, config.word_size)
        self.dropout_prob = config.hidden_dropout_prob


class Transformer(nn.Module):
    """A model that is pretrained: embeddings, layers, and a decoder that shares its weight with the token embedding.

    Args:
        config: its shape.
        embeddings: return x_ND for ``Inputs``.
        layers: pass x_ND on, given ``Inputs``; where there are fewer than the config has, in turn.

    Attributes:
        norm: of the encoder's output; None for a post-norm model.
        masked_token_head: transforms the decoder's input, and has its bias; None without either.
    """

    def __init__(
        self, config: ModelConfig, embeddings: Embeddings, layers: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.config = config
        self.embeddings = embeddings
        self.layers = nn.ModuleList(layers)
        self.norm: nn.Module | None = None
        self.masked_token_head: nn.Module | None = None
        self.token_loss = TokenLoss(config.vocab_size)

    def initialize(self) -> None:
        """Draw the weights from torch's generator, as published."""
        raise NotImplementedError

    def draw_weights(self, residual: tuple[str, ...] = (), *, truncated: bool = True) -> None:
        """Draw the weights of linear layers and embeddings: normal; biases 0.

        Two projections in each layer add to the residual, whose variance would otherwise grow with
        their number.

        Args:
            residual: ends of the names of such projections, whose weights are smaller.
            truncated: at two deviations.
        """
        smaller = self.config.initializer_range / math.sqrt(2 * self.config.num_hidden_layers)
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                std = smaller if name.endswith(residual) else self.config.initializer_range
                if truncated:
                    nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                else:
                    nn.init.normal_(module.weight, std=std)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def transform(self, x_MD: Tensor) -> Tensor:
        """Return the input of the decoder for the encoder's output at the predicted positions."""
        if self.masked_token_head is None:
            return to_autocast_dtype(x_MD)
        transformed_MD: Tensor = self.masked_token_head(x_MD)
        return transformed_MD

    def predict(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Return the input of the decoder, x_MD, for the encoder's output."""
        return self.transform(x_ND.index_select(0, inputs.predicted_positions_M))

    @property
    def decoder_weight(self) -> Tensor:
        """The weight of the decoder."""
        return self.embeddings.words.weight

    @property
    def decoder_bias(self) -> Tensor | None:
        """The bias of the decoder, if it has one."""
        bias: Tensor | None = getattr(self.masked_token_head, "bias", None)
        return bias

    def pair_logits(self, x_ND: Tensor, inputs: Inputs) -> Tensor | None:
        """Return logits_SC of the label of each pair; None for a model of single sequences."""
        del x_ND, inputs
        return None

    def list_layers(self) -> list[nn.Module]:
        """Return the layers, each of which is distributed by itself."""
        return list(self.layers)

    def count_attended(self, length: float, predicted_share: float = 0.0) -> float:
        """Return how many tokens a token attends to in all layers together.

        Args:
            length: to how many it attends where it sees its whole sequence.
            predicted_share: predictions per token.
        """
        del predicted_share
        return self.config.num_hidden_layers * length

    def count_layer_parameters(self) -> int:
        """Return how many parameters a token passes before the heads."""
        own = sum(parameter.numel() for parameter in self.layers.parameters())
        return own * self.config.num_hidden_layers // len(self.layers)

    def count_head_parameters(self) -> int:
        """Return how many parameters a predicted token passes after the encoder."""
        return self.config.vocab_size * self.config.word_size

    def forward(self, inputs: Inputs) -> Sums:
        """Return the losses of tokens and pairs."""
        x_ND = self.encode(inputs)
        x_MD = self.predict(x_ND, inputs)
        token_loss, token_correct = self.token_loss(
            x_MD, self.decoder_weight, self.decoder_bias, inputs.labels_M
        )
        logits_SC = self.pair_logits(x_ND, inputs)
        if logits_SC is None:
            return Sums(token_loss, token_correct, torch.zeros_like(token_loss), token_correct * 0)
        logits_SC, labels_S = logits_SC.float(), inputs.pair_labels_S
        pair_loss = F.cross_entropy(logits_SC, labels_S, ignore_index=NO_LABEL, reduction="sum")
        return Sums(token_loss, token_correct, pair_loss, (logits_SC.argmax(1) == labels_S).sum())

    def encode(self, inputs: Inputs) -> Tensor:
        """Return the encoder's output, x_ND."""
        x_ND: Tensor = self.embeddings(inputs)
        for number in range(self.config.num_hidden_layers):
            x_ND = self.layers[number % len(self.layers)](x_ND, inputs.at_layer(number + 1))
        return x_ND if self.norm is None else self.norm(x_ND)

    def logits(self, inputs: Inputs) -> tuple[Tensor, Tensor | None]:
        """Return logits_MV, and logits_SC where there are pairs."""
        x_ND, V = self.encode(inputs), self.config.vocab_size
        x_MD = self.predict(x_ND, inputs)
        bias = None if self.decoder_bias is None else self.decoder_bias[:V]
        logits_MV = F.linear(x_MD, self.decoder_weight[:V], bias)
        return logits_MV, self.pair_logits(x_ND, inputs)


def to_autocast_dtype(x: Tensor) -> Tensor:
    """Convert the output of a norm to the precision of matrix products under autocast.

    Autocast computes norms in fp32 and leaves their output in fp32. The computation is enough: a
    post-norm encoder normalizes each output again, so rounding errors do not accumulate over the
    layers, and in bf16 there is half as much to write, to keep for the backward pass, and to read.
    """
    kind = x.device.type
    return x.to(torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else x


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A model of ours, and the one of ``transformers`` that computes the same.

    Attributes:
        model_type: its name in ``config.json``.
        objectives: of the instances that it learns from.
        build: makes ours from its ``config_class``; its weights are not initialized.
        outer: our modules outside the layers, and theirs.
        layer: prefix of a layer there, with a place for its number.
        inner: our modules in a layer, and theirs; several where ours is theirs stacked.
        decoder_layer: the same of a decoder next to an encoder.
        decoder_inner: the same of its layers.
        describe: returns what ``config.json`` has besides the fields of ``ModelConfig``.
        config: our config fields that have another name there; None where they have none.
        config_class: of its shape.
        transposed: whether the matrices of layers are transposed there.
        defaults: what ``transformers`` assumes where ``config.json`` says nothing.
        supported: fields of ``config.json`` and those of their values that ours computes. Where
            nothing is said, not even by ``defaults``, it is the first.
        read: returns the contents of ``config.json`` with the fields that ``config`` names.
        redundant: ends of the names of tensors that are copies or constants there.
        zero: the same of tensors that ours lacks, which must be 0.
    """

    model_type: str
    objectives: tuple[str, ...]
    build: Callable[[Any], Transformer]
    outer: Mapping[str, str]
    layer: str
    inner: Mapping[str, tuple[str, ...]]
    describe: Callable[[Any, Tokenizer], dict[str, Any]]
    decoder_layer: str = ""
    decoder_inner: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    config: Mapping[str, str | None] = field(default_factory=dict)
    config_class: type[ModelConfig] = ModelConfig
    transposed: bool = False
    defaults: Mapping[str, Any] = field(default_factory=dict)
    supported: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] = lambda data: data
    redundant: tuple[str, ...] = ()
    zero: tuple[str, ...] = ()
