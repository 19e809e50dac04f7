"""The ``config.json`` of a ModernBERT in a Hugging Face folder (``--init-from``), in either dialect.

transformers 5 names the kind of each layer, and the base of the rotary positions of each kind; before
it, every how many layers one is global, and two bases:

    layer_types: [full_attention, sliding_attention, …]       global_attn_every_n_layers: 3
    rope_parameters: {full_attention: {rope_theta: 160000},   global_rope_theta: 160000
                      sliding_attention: {…: 10000}}          local_rope_theta: 10000
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import msgspec

from tokkit.engine.json_files import Size, read_json
from tokkit.errors import TokkitError
from tokkit.pretraining.models.bert_folder import CONFIG, DOWNLOAD, require_supported
from tokkit.pretraining.models.modernbert import (
    GLOBAL,
    LOCAL,
    LocalAttention,
    ModernBertConfig,
    Positive,
)

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "local_attention",
)
OBJECTIVES_OF = {"modernbert": "mlm", "modernbert-decoder": "clm"}
# What transformers assumes where a config says nothing.
DEFAULTS: Mapping[str, Any] = {
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "norm_bias": False,
    "attention_bias": False,
    "mlp_bias": False,
    "classifier_bias": False,
    "decoder_bias": True,
    "tie_word_embeddings": True,
    "max_position_embeddings": 8192,
    "norm_eps": 1e-5,
    "initializer_range": 0.02,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160_000.0,
    "local_rope_theta": 10_000.0,
}
# The values that our ModernBERT computes.
SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu", "gelu_python"),
    "classifier_activation": ("gelu", "gelu_python"),
    "norm_bias": (False,),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "classifier_bias": (False,),
    "decoder_bias": (True,),
    "tie_word_embeddings": (True,),
}


class _Rope(TypedDict, total=False):
    rope_type: str
    rope_theta: Positive


class _Fields(TypedDict):
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    norm_eps: Positive
    initializer_range: Positive
    local_attention: LocalAttention
    global_attn_every_n_layers: Size
    global_rope_theta: Positive
    local_rope_theta: Positive | None
    layer_types: list[str] | None
    rope_parameters: dict[str, _Rope | None] | None


def read_modernbert_config(
    folder: Path, *, objective: str, max_seq_length: int
) -> ModernBertConfig:
    """Return the shape of a folder's ModernBERT, with as many positions as the instances have.

    Rotary positions have no weights, so there may be more of them than the folder's model had.

    Args:
        folder: of the model.
        objective: of the instances.
        max_seq_length: of the instances.

    Raises:
        TokkitError: where our ModernBERT does not compute this model, or it does not fit the
            instances.
    """
    path = folder / CONFIG
    data = {"layer_types": None, "rope_parameters": None, **DEFAULTS}
    data |= read_json(path, dict[str, Any], DOWNLOAD)
    learns = OBJECTIVES_OF[data["model_type"]]
    if objective != learns:
        raise TokkitError(
            f"{folder}: a {data['model_type']} learns from instances of {learns}, not {objective}; "
            f"choose another model, or build again"
        )
    require_supported(path, data, SUPPORTED)
    try:
        return _make_config(msgspec.convert(data, _Fields), objective, max_seq_length)
    except ValueError as error:  # among them msgspec's
        raise TokkitError(f"{path}: {error}; choose another model") from error


def _make_config(data: _Fields, objective: str, max_seq_length: int) -> ModernBertConfig:
    ropes = data["rope_parameters"] or {}
    older = data["global_rope_theta"]
    thetas = {GLOBAL: older, LOCAL: data["local_rope_theta"] or older}
    for kind in (GLOBAL, LOCAL):
        rope = ropes.get(kind) or {}
        thetas[kind] = rope.get("rope_theta", thetas[kind])
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters: only the default rope_type is supported for {kind}")
    layer_types = data["layer_types"]
    every = data["global_attn_every_n_layers"]
    if layer_types is not None:
        rest = layer_types[1:]
        every = rest.index(GLOBAL) + 1 if GLOBAL in rest else max(1, len(layer_types))
    sizes: dict[str, Any] = {name: value for name, value in data.items() if name in SIZES}
    config = ModernBertConfig(
        **sizes,
        max_position_embeddings=max(data["max_position_embeddings"], max_seq_length),
        layer_norm_eps=data["norm_eps"],
        initializer_range=data["initializer_range"],
        global_attn_every_n_layers=every,
        global_rope_theta=thetas[GLOBAL],
        local_rope_theta=thetas[LOCAL],
        objective=objective,
    )
    if layer_types is None:
        return config
    if len(layer_types) != config.num_hidden_layers or layer_types != config.layer_types:
        raise ValueError("layer_types must name a global layer first and then every so many layers")
    return config
