"""The export: a folder that ``transformers`` loads.

``config.json`` and ``model.safetensors`` under the names of ``BertForPreTraining``, and the
tokenizer's files. The decoder's weight is the word embedding, so it is not stored a second time;
``transformers`` ties it again. Our single projection of queries, keys and values is theirs stacked:

    layers.0.attention.qkv.weight [3 D, D]  =  bert.encoder.layer.0.attention.self.query.weight [D, D]
                                               …key.weight [D, D]
                                               …value.weight [D, D]
"""

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tokkit.engine.files import hash_file, read_json, write_json
from tokkit.errors import TokkitError
from tokkit.pretraining.checkpoint import (
    MODEL,
    read_tensors,
    write_folder_atomically,
    write_tensors,
)
from tokkit.pretraining.model import Bert, ModelConfig
from tokkit.vocab.tokenizer import Tokenizer

CONFIG = "config.json"

OUTER_NAMES = {
    "embeddings.words": "bert.embeddings.word_embeddings",
    "embeddings.positions": "bert.embeddings.position_embeddings",
    "embeddings.segments": "bert.embeddings.token_type_embeddings",
    "embeddings.norm": "bert.embeddings.LayerNorm",
    "masked_token_head": "cls.predictions",  # its bias
    "masked_token_head.transform": "cls.predictions.transform.dense",
    "masked_token_head.norm": "cls.predictions.transform.LayerNorm",
    "next_sentence_head.pooler": "bert.pooler.dense",
    "next_sentence_head.classifier": "cls.seq_relationship",
}
LAYER_NAMES = {
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "output_norm": "output.LayerNorm",
}
BY_ENTRY = ("embeddings.words.weight", "masked_token_head.bias")  # filled up, see model.py
STACKED = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))


def transformers_names(name: str) -> tuple[str, ...]:
    """What ``transformers`` calls one of our tensors; several names where theirs are stacked in it.

    >>> transformers_names("layers.3.up.bias")
    ('bert.encoder.layer.3.intermediate.dense.bias',)
    """
    module, kind = name.rsplit(".", 1)
    if not module.startswith("layers."):
        return (f"{OUTER_NAMES[module]}.{kind}",)
    _, number, part = module.split(".", 2)
    theirs = STACKED if part == "attention.qkv" else (LAYER_NAMES[part],)
    return tuple(f"bert.encoder.layer.{number}.{their}.{kind}" for their in theirs)


def to_transformers(tensors: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our tensors under the names of ``transformers``: weights, or their gradients."""
    return {
        their_name: part
        for name, tensor in tensors.items()
        for their_name, part in zip(
            transformers_names(name),
            (tensor[: config.vocab_size] if name in BY_ENTRY else tensor).chunk(
                len(transformers_names(name))
            ),
            strict=True,
        )
    }


def from_transformers(tensors: Mapping[str, Tensor], model: Bert) -> dict[str, Tensor]:
    """The tensors that ``model`` needs, found under the names of ``transformers``.

    Raises:
        KeyError: naming a tensor that is missing.
    """
    found = {
        name: torch.cat([tensors[their_name] for their_name in transformers_names(name)])
        for name in model.state_dict()
    }
    spare = model.config.num_entries - model.config.vocab_size
    for name in BY_ENTRY:
        found[name] = torch.cat([found[name], found[name].new_zeros(spare, *found[name].shape[1:])])
    return found


def write_export(folder: Path, model: Bert, tokenizer: Tokenizer) -> list[dict[str, Any]]:
    """Write the folder, whole or not at all.

    Returns:
        A row for each file in it: ``name``, ``bytes``, ``sha256``.
    """
    config = {
        "architectures": ["BertForPreTraining"],
        "model_type": "bert",
        "hidden_act": "gelu",
        "pad_token_id": tokenizer.special_ids["pad"],
        **asdict(model.config),
    }
    with write_folder_atomically(folder) as written:
        write_json(written / CONFIG, config)
        write_tensors(written / MODEL, to_transformers(model.state_dict(), model.config))
        tokenizer.save(written)
    return [
        {"name": path.name, "bytes": path.stat().st_size, "sha256": hash_file(path)}
        for path in sorted(folder.iterdir())
    ]


def read_export(folder: Path) -> Bert:
    """Load the model of an export.

    Raises:
        TokkitError: where a file is missing, or a tensor is not there or has another shape.
    """
    form = read_json(folder / CONFIG)
    if missing := [field.name for field in fields(ModelConfig) if field.name not in form]:
        raise TokkitError(f"{folder / CONFIG}: has no {missing[0]}; it is not that of a BERT")
    model = Bert(ModelConfig(**{field.name: form[field.name] for field in fields(ModelConfig)}))
    tensors = read_tensors(folder / MODEL, to_transformers(model.state_dict(), model.config))
    model.load_state_dict(from_transformers(tensors, model))
    return model.eval()
