"""BERT (Devlin et al. 2018, arXiv:1810.04805) with its two pretraining heads.

It is a post-norm encoder: the output of each sublayer passes dropout, is added to the sublayer's
input, and is normalized. It computes what ``transformers.BertForPreTraining`` computes; queries,
keys and values come from one projection.

RoBERTa (Liu et al. 2019, arXiv:1907.11692) is a BERT for ``mlm`` alone, with one segment. In
``transformers`` its positions begin after the id of padding: with id 1, the first token has position
2, and the rows before that are unused. Ours has no such rows. They are added when it is written,
according to the tokenizer of the run, and cut off when it is read:

    ours      0 1 2 …        row of each position
    theirs    - - 0 1 2 …    with padding of id 1

XLM-R (Conneau et al. 2020, arXiv:1911.02116) computes the same, and is exported as a RoBERTa. Ours
computes what ``transformers.RobertaForMaskedLM`` computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

import msgspec
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tokkit.engine.json_files import Size
from tokkit.pretraining.models.attention import SelfAttention
from tokkit.pretraining.models.dropout import HIDDEN, OUTPUT
from tokkit.pretraining.models.transformer import (
    Architecture,
    Embeddings,
    Inputs,
    ModelConfig,
    Positive,
    Transformer,
    to_autocast_dtype,
)
from tokkit.shards.objectives import MASKED
from tokkit.tokenizer.tokenizer import Tokenizer


class NormedEmbeddings(Embeddings):
    """The normalized sum of token, position and segment embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.positions = nn.Embedding(config.max_position_embeddings, config.word_size)
        self.segments = nn.Embedding(config.type_vocab_size, config.word_size)
        self.norm = nn.LayerNorm(config.word_size, eps=config.layer_norm_eps)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return x_ND."""
        x_ND = self.words(inputs.input_ids_N) + self._embed_segments(inputs.token_type_ids_N)
        x_ND = to_autocast_dtype(self.norm(x_ND + self.positions(inputs.position_ids_N)))
        return inputs.drop(x_ND, self.dropout_prob, HIDDEN)

    def _embed_segments(self, token_type_ids_N: Tensor) -> Tensor:
        """Return each token's segment embedding, without a lookup.

        The gradient of ``where`` is a sum; that of a lookup is a scatter, in which all tokens of a
        batch would contend for two rows of memory (from reading the code; not measured).
        """
        vectors = self.segments.weight
        x_ND = vectors[0]
        for number in range(1, len(vectors)):
            x_ND = torch.where(token_type_ids_N[:, None] == number, vectors[number], x_ND)
        return x_ND


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
        self.gelu = config.gelu

    def forward(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Pass x_ND through the layer."""
        mixed_ND = self.attention(x_ND, inputs)
        x_ND = self.add(x_ND, mixed_ND, self.attention_norm, inputs, HIDDEN)
        return self.feed_forward(x_ND, inputs)

    def feed_forward(self, x_ND: Tensor, inputs: Inputs) -> Tensor:
        """Pass x_ND through the feed-forward network."""
        out_ND = self.down(self.activate(self.up(x_ND)))
        return self.add(x_ND, out_ND, self.output_norm, inputs, OUTPUT)

    def add(
        self, x_ND: Tensor, out_ND: Tensor, norm: nn.Module, inputs: Inputs, place: int
    ) -> Tensor:
        """Add the output of a sublayer to its input, with dropout before and a norm after."""
        return to_autocast_dtype(norm(x_ND + inputs.drop(out_ND, self.dropout_prob, place)))

    def activate(self, h_NF: Tensor) -> Tensor:
        """Apply the activation."""
        return F.gelu(h_NF, approximate=self.gelu)


class MaskedTokenHead(nn.Module):
    """The transform before the decoder, and the decoder's bias; its weight is the word embedding.

    Args:
        config: shape of the model.
        bias: whether the transform and its norm have a bias.
    """

    def __init__(self, config: ModelConfig, *, bias: bool = True) -> None:
        super().__init__()
        self.transform = nn.Linear(config.hidden_size, config.word_size, bias=bias)
        self.norm = nn.LayerNorm(config.word_size, eps=config.layer_norm_eps, bias=bias)
        self.bias = nn.Parameter(torch.zeros(config.padded_vocab_size))
        self.gelu = config.gelu

    def forward(self, x_MD: Tensor) -> Tensor:
        """Transform the encoder's output at the predicted positions."""
        transformed_MD = F.gelu(self.transform(x_MD), approximate=self.gelu)
        return to_autocast_dtype(self.norm(transformed_MD))


class NextSentenceHead(nn.Module):
    """Logits of the two labels of a pair, from its first token."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size)
        self.classifier = nn.Linear(config.hidden_size, 2)

    def forward(self, x_SD: Tensor) -> Tensor:
        """Return logits_SC for the encoder's output at the first tokens."""
        logits_SC: Tensor = self.classifier(torch.tanh(self.pooler(x_SD)))
        return logits_SC


class Bert(Transformer):
    """The encoder with a head for masked tokens and, where there are pairs, one for their label.

    Args:
        config: shape of the model.
        embeddings: embeddings; None for those of a BERT.
        num_layers: number of layers with weights of their own; None for all.
    """

    masked_token_head: MaskedTokenHead

    def __init__(
        self,
        config: ModelConfig,
        embeddings: Embeddings | None = None,
        num_layers: int | None = None,
    ) -> None:
        layers = (Layer(config) for _ in range(num_layers or config.num_hidden_layers))
        super().__init__(config, embeddings or NormedEmbeddings(config), layers)
        self.masked_token_head = MaskedTokenHead(config)
        self.next_sentence_head = NextSentenceHead(config) if config.task.has_pairs else None

    def initialize(self) -> None:
        """Draw the weights: normal, truncated at two standard deviations; biases 0, norms 1."""
        self.draw_weights()

    def pair_logits(self, x_ND: Tensor, inputs: Inputs) -> Tensor | None:
        """Return logits_SC from the first token of each sequence; any token if it is empty."""
        if self.next_sentence_head is None:
            return None
        firsts = inputs.cu_seqlens[:-1].clamp(max=len(x_ND) - 1)
        logits_SC: Tensor = self.next_sentence_head(x_ND.index_select(0, firsts))
        return logits_SC

    def count_head_parameters(self) -> int:
        """Return the number of parameters of a prediction, without the bias of padding."""
        padding = self.config.padded_vocab_size - self.config.vocab_size
        own = sum(parameter.numel() for parameter in self.masked_token_head.parameters())
        return own - padding + super().count_head_parameters()


def describe_bert(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``config.json`` of BERT."""
    del tokenizer
    return {"architectures": [f"Bert{name_head(config)}"], "hidden_act": "gelu"}


def name_head(config: ModelConfig) -> str:
    """Return the suffix of the class in ``transformers`` that has the heads of a model."""
    return "ForPreTraining" if config.task.has_pairs else "ForMaskedLM"


def name_embeddings(base: str) -> dict[str, str]:
    """Return the names of the embeddings in ``transformers``, for the prefix of a bare model."""
    theirs = {
        "words": "word_embeddings",
        "positions": "position_embeddings",
        "segments": "token_type_embeddings",
        "norm": "LayerNorm",
    }
    return {f"embeddings.{name}": f"{base}.embeddings.{other}" for name, other in theirs.items()}


# What transformers assumes for fields missing from the config of BERT and its relatives.
DEFAULTS: Mapping[str, Any] = {
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
}
# transformers has several GELUs; only two are exact.
SUPPORTED: dict[str, tuple[Any, ...]] = {
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "tie_word_embeddings": (True,),
}
BERT = Architecture(
    model_type="bert",
    objectives=MASKED,
    build=Bert,
    outer={
        **name_embeddings("bert"),
        "masked_token_head": "cls.predictions",  # has the bias
        "masked_token_head.transform": "cls.predictions.transform.dense",
        "masked_token_head.norm": "cls.predictions.transform.LayerNorm",
        "next_sentence_head.pooler": "bert.pooler.dense",
        "next_sentence_head.classifier": "cls.seq_relationship",
    },
    layer="bert.encoder.layer.{}",
    inner={
        "attention.qkv": ("attention.self.query", "attention.self.key", "attention.self.value"),
        "attention.output": ("attention.output.dense",),
        "attention_norm": ("attention.output.LayerNorm",),
        "up": ("intermediate.dense",),
        "down": ("output.dense",),
        "output_norm": ("output.LayerNorm",),
    },
    describe=describe_bert,
    defaults=DEFAULTS,
    supported=SUPPORTED | {"hidden_act": ("gelu", "gelu_python")},
    redundant=("cls.predictions.decoder.weight", "embeddings.position_ids"),
)


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(ModelConfig):
    """The shape of a RoBERTa; unused positions do not count.

    ``pad_token_id`` is that of the tokenizer, which the positions depend on in ``transformers``.
    """

    model_type: ClassVar[str] = "roberta"

    type_vocab_size: Size = 1
    layer_norm_eps: Positive = 1e-5
    pad_token_id: Annotated[int, msgspec.Meta(ge=0)] = 0

    @property
    def position_offset(self) -> int:
        """The number of unused rows at the start of the position embedding of ``transformers``."""
        return self.pad_token_id + 1

    def fit(self, tokenizer: Tokenizer) -> Self:
        """Return the shape of the same model with the vocabulary of a tokenizer."""
        return replace(super().fit(tokenizer), pad_token_id=tokenizer.special_ids["pad"])


def describe_roberta(config: RobertaConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the ``config.json`` of RoBERTa."""
    return {
        "architectures": ["RobertaForMaskedLM"],
        "hidden_act": "gelu",
        "max_position_embeddings": config.max_position_embeddings + config.position_offset,
        "bos_token_id": tokenizer.special_ids.get("cls"),
        "eos_token_id": tokenizer.special_ids.get("sep"),
    }


def read_roberta(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contents of ``config.json`` without the unused positions."""
    positions, padding = data.get("max_position_embeddings"), data["pad_token_id"]
    if isinstance(positions, int) and isinstance(padding, int):
        return {**data, "max_position_embeddings": positions - padding - 1}
    return data


ROBERTA = Architecture(
    model_type="roberta",
    objectives=("mlm",),
    build=Bert,
    outer={
        **name_embeddings("roberta"),
        "masked_token_head": "lm_head",
        "masked_token_head.transform": "lm_head.dense",
        "masked_token_head.norm": "lm_head.layer_norm",
    },
    layer="roberta.encoder.layer.{}",
    inner=BERT.inner,
    describe=describe_roberta,
    config_class=RobertaConfig,
    defaults={**DEFAULTS, "pad_token_id": 1},
    supported=BERT.supported,
    read=read_roberta,
    redundant=("lm_head.decoder.weight", "embeddings.position_ids"),
)
