"""What the architectures share: inputs, losses, the shape of a model, and what makes it a model.

An architecture is one file, such as ``bert.py``: a subclass of ``Transformer``, and an
``Architecture`` that says which model of ``transformers`` computes the same. To add one, write such
a file, add it to ``ARCHITECTURES`` in ``architectures.py``, and add its name, objectives and sizes to
``tokkit/pretraining/families.py``. Training, checkpoints and export need nothing else.

There is no padding: sequences are concatenated from the embedding to the heads, and logits are
computed for the predicted positions only, one chunk at a time. The vocabulary is padded to a multiple
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
from tokkit.pretraining.families import PRESETS, ModelSizes
from tokkit.pretraining.models.dropout import LAYER, NO_KEYS, drop, key_tokens, wrap
from tokkit.pretraining.models.loss import TokenLoss
from tokkit.shards.objectives import OBJECTIVES, Objective
from tokkit.tokenizer.tokenizer import Tokenizer

VOCAB_MULTIPLE = 64
SIZE_FIELDS = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
NO_TARGETS = torch.empty(0, dtype=torch.int32)

Positive = Annotated[float, msgspec.Meta(gt=0)]


class Inputs(NamedTuple):
    """A batch of sequences and what to predict in them. Tensors are int64 unless stated otherwise.

    Attributes:
        input_ids_N: below ``vocab_size``, which is not checked here.
        token_type_ids_N: segment of each token, 0 or 1.
        position_ids_N: position of each token in its sequence.
        row_ids_N: number of the sequence that each token belongs to.
        cu_seqlens: int32 ``[S + 1]``, offsets of the sequences, from 0 to N; sequences may be empty.
        predicted_positions_M: below N.
        labels_M: ids to predict there; ``NO_LABEL`` for none.
        pair_labels_S: label of a pair; ``NO_LABEL`` for none.
        max_seqlen: at least the length of the longest sequence.
        target_cu_seqlens: int32 ``[S + 1]``, offsets of the sequences' targets, from 0 to M; empty
            for instances without targets.
        max_target_len: at least the largest number of targets of a sequence.
        dropout_keys: int32 ``[1 + S]``, keys of the step and of each sequence; empty disables dropout.
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
        """Return the inputs of layer ``number``, counted from 1, with dropout keys of its own."""
        return self._replace(dropout_keys=self.dropout_keys + wrap(number * LAYER))

    def dropout(self, prob: float) -> float:
        """Return ``prob``, or 0 if dropout is disabled."""
        return prob if len(self.dropout_keys) else 0.0

    def key_tokens(self, place: int) -> Tensor:
        """Return the keys of all tokens for one of a layer's dropouts, int32 ``[N]``."""
        keys_N = self.dropout_keys.index_select(0, self.row_ids_N + 1)
        return key_tokens(keys_N, self.position_ids_N, place)

    def drop(self, x_ND: Tensor, prob: float, place: int) -> Tensor:
        """Apply one of a layer's dropouts."""
        if not self.dropout(prob):
            return x_ND
        return drop(x_ND, self.key_tokens(place), prob)


class Sums(NamedTuple):
    """Losses and correct predictions of a batch: scalars on the model's device.

    Attributes:
        token_loss: sum of the cross-entropy of predicted tokens, differentiable.
        token_correct: int64, number of predictions whose label has the highest logit.
        pair_loss: sum of the cross-entropy of pairs, differentiable; 0 without a head for them.
        pair_correct: int64, number of pairs whose label has the higher logit.
    """

    token_loss: Tensor
    token_correct: Tensor
    pair_loss: Tensor
    pair_correct: Tensor


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The shape of a model, with the field names of a Hugging Face ``config.json``.

    Attributes:
        objective: objective of the instances, which decides which heads the model has.
        model_type: name of the architecture in ``config.json``.
        presets: sizes by name.
        equal_fields: fields of a subclass that a preset sets to the value of another field.
        divides_width: whether the hidden size is divided among the heads.
        limits_length: whether the model has a largest position.
    """

    model_type: ClassVar[str] = "bert"
    presets: ClassVar[Mapping[str, ModelSizes]] = PRESETS
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
        """Return the number of weights in the matrices of all layers."""
        layer = self.hidden_size * (4 * self.hidden_size + 2 * self.intermediate_size)
        return self.num_hidden_layers * layer

    def fit(self, tokenizer: Tokenizer) -> Self:
        """Return this shape with the vocabulary size of a tokenizer."""
        return replace(self, vocab_size=tokenizer.vocab_size)

    def stretch_positions(self, max_seq_length: int) -> Self:
        """Return this shape with more positions, closer together."""
        return replace(self, max_position_embeddings=max_seq_length)


class Embeddings(nn.Module):
    """The token embedding; subclasses add positions, segments, norms and dropout."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.words = nn.Embedding(config.padded_vocab_size, config.word_size)
        self.dropout_prob = config.hidden_dropout_prob


class Transformer(nn.Module):
    """A model: embeddings, layers, and a decoder that shares its weight with the token embedding.

    Args:
        config: shape of the model.
        embeddings: module that maps ``Inputs`` to x_ND.
        layers: modules that map x_ND and ``Inputs`` to x_ND; if there are fewer than
            ``num_hidden_layers``, they are reused in turn.

    Attributes:
        norm: norm of the encoder's output; None for a post-norm model.
        masked_token_head: transform of the decoder's input, with the decoder's bias; None without.
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
        """Draw the weights of linear layers and embeddings from a normal distribution; biases are 0.

        Args:
            residual: suffixes of the names of projections whose output is added to the residual.
                Their weights are smaller, so that its variance does not grow with depth.
            truncated: whether the distribution is truncated at two standard deviations.
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
        """Return the layers, each of which is sharded on its own under FSDP."""
        return list(self.layers)

    def count_attended(self, length: float, predicted_share: float = 0.0) -> float:
        """Return how many tokens a token attends to, summed over layers.

        Args:
            length: number of tokens that it attends to in a layer that sees whole sequences.
            predicted_share: predictions per token.
        """
        del predicted_share
        return self.config.num_hidden_layers * length

    def count_layer_parameters(self) -> int:
        """Return the number of layer parameters that each token passes through."""
        own = sum(parameter.numel() for parameter in self.layers.parameters())
        return own * self.config.num_hidden_layers // len(self.layers)

    def count_head_parameters(self) -> int:
        """Return the number of parameters that each prediction passes through after the encoder."""
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
    """A model, and the model of ``transformers`` that computes the same.

    "Ours" and "theirs" are the names in our model and in that of ``transformers``.

    Attributes:
        model_type: name of the architecture in ``config.json``.
        objectives: objectives of the instances that it learns from.
        build: returns our model for a ``config_class``, with uninitialized weights.
        outer: names of the modules outside the layers, ours to theirs.
        layer: prefix of their layers, with ``{}`` for the number.
        inner: names of the modules in a layer, ours to theirs; several if ours stacks theirs.
        describe: returns what ``config.json`` has besides the fields of ``ModelConfig``.
        decoder_layer: same as ``layer``, for the decoder of an encoder-decoder.
        decoder_inner: same as ``inner``, for its layers.
        config: their names of our config fields, where they differ; None for fields they lack.
        config_class: class of the model's shape.
        transposed: whether their layers store matrices transposed.
        defaults: what ``transformers`` assumes for fields missing from ``config.json``.
        supported: fields of ``config.json``, each with the values that our model computes. The
            first is assumed for a field that is missing and has no default.
        read: returns the contents of ``config.json`` with the fields that ``config`` names.
        redundant: suffixes of the names of their tensors that are copies or constants.
        zero: suffixes of the names of their tensors that our model lacks, and that must be 0.
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
