"""RoBERTa (Liu et al. 2019, arXiv:1907.11692), a BERT for ``mlm`` alone, and XLM-R, its sibling.

It has one segment. In ``transformers`` the positions of its tokens begin after the id of padding:
with id 1, the first token has position 2, and the rows before it belong to no position. Ours has no
such rows. They are added when it is written, where the tokenizer of the run has its padding, and cut
off when it is read:

    ours      0 1 2 …        a position's row
    theirs    - - 0 1 2 …    with padding of id 1

XLM-R (Conneau et al. 2020, arXiv:1911.02116) computes the same, and is exported as a RoBERTa. Ours
computes what ``transformers.RobertaForMaskedLM`` computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Self

import msgspec

from tokkit.engine.json_files import Size
from tokkit.pretraining.models.bert import BERT, DEFAULTS, Bert
from tokkit.pretraining.models.transformer import Architecture, ModelConfig, Positive
from tokkit.tokenizer.tokenizer import Tokenizer


@dataclass(frozen=True, kw_only=True)
class RobertaConfig(ModelConfig):
    """The shape of a RoBERTa; its positions are those that tokens have.

    ``pad_token_id`` is that of the tokenizer, on which the positions depend in ``transformers``.
    """

    type_vocab_size: Size = 1
    layer_norm_eps: Positive = 1e-5
    pad_token_id: Annotated[int, msgspec.Meta(ge=0)] = 0

    @property
    def model_type(self) -> str:
        """The name of the architecture in ``config.json``."""
        return "roberta"

    @property
    def position_offset(self) -> int:
        """The number of unused rows at the start of the position embedding of ``transformers``."""
        return self.pad_token_id + 1

    @classmethod
    def preset_fields(cls, preset: str, objective: str) -> dict[str, Any]:
        """Return the fields that a preset decides, as published."""
        return {**super().preset_fields(preset, objective), "layer_norm_eps": 1e-5}

    def fit(self, tokenizer: Tokenizer) -> Self:
        """Return the shape of the same model with the vocabulary of a tokenizer."""
        return replace(super().fit(tokenizer), pad_token_id=tokenizer.special_ids["pad"])


def describe_roberta(config: RobertaConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what ``config.json`` says of a RoBERTa."""
    return {
        "architectures": ["RobertaForMaskedLM"],
        "hidden_act": "gelu",
        "max_position_embeddings": config.max_position_embeddings + config.position_offset,
        "bos_token_id": tokenizer.special_ids.get("cls"),
        "eos_token_id": tokenizer.special_ids.get("sep"),
    }


def read_roberta(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contents of ``config.json`` with the number of positions that tokens have."""
    positions, padding = data.get("max_position_embeddings"), data["pad_token_id"]
    if isinstance(positions, int) and isinstance(padding, int):
        return {**data, "max_position_embeddings": positions - padding - 1}
    return data


ROBERTA = Architecture(
    model_type="roberta",
    objectives=("mlm",),
    build=Bert,
    outer={
        "embeddings.words": "roberta.embeddings.word_embeddings",
        "embeddings.positions": "roberta.embeddings.position_embeddings",
        "embeddings.segments": "roberta.embeddings.token_type_embeddings",
        "embeddings.norm": "roberta.embeddings.LayerNorm",
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
