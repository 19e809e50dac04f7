"""The ``config.json`` of a ModernBERT in a Hugging Face folder, in either dialect.

transformers 5 names the kind of each layer, and the base of the rotary positions of each kind; before
it, every how many layers one is global, and two bases:

    layer_types: [full_attention, sliding_attention, …]       global_attn_every_n_layers: 3
    rope_parameters: {full_attention: {rope_theta: 160000},   global_rope_theta: 160000
                      sliding_attention: {…: 10000}}          local_rope_theta: 10000
"""

from collections.abc import Mapping
from typing import Any, TypedDict

import msgspec

from tokkit.engine.json_files import Size
from tokkit.pretraining.models.transformer import Positive

GLOBAL, LOCAL = "full_attention", "sliding_attention"
# What transformers assumes where a config says nothing.
DEFAULTS: Mapping[str, Any] = {
    "hidden_activation": "gelu",
    "classifier_activation": "gelu",
    "rope_scaling": None,
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
    "layer_types": None,
    "rope_parameters": None,
}
# The values that our ModernBERT computes.
SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "hidden_activation": ("gelu", "gelu_python"),
    "classifier_activation": ("gelu", "gelu_python"),
    "rope_scaling": (None,),
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


class _Dialects(TypedDict):
    global_attn_every_n_layers: Size
    global_rope_theta: Positive
    local_rope_theta: Positive | None
    layer_types: list[str] | None
    rope_parameters: dict[str, _Rope | None] | None


def read_modernbert(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the contents of ``config.json``, completed by defaults, in the words of 4.48.

    Raises:
        ValueError: where our ModernBERT does not compute this model.
    """
    fields = msgspec.convert(data, _Dialects)
    older = fields["global_rope_theta"]
    thetas = {GLOBAL: older, LOCAL: fields["local_rope_theta"] or older}
    for kind in (GLOBAL, LOCAL):
        rope = (fields["rope_parameters"] or {}).get(kind) or {}
        thetas[kind] = rope.get("rope_theta", thetas[kind])
        if rope.get("rope_type", "default") != "default":
            raise ValueError(f"rope_parameters: only the default rope_type is supported for {kind}")
    types, every = fields["layer_types"], fields["global_attn_every_n_layers"]
    if types is not None:
        if types != name_layers(len(types), every):  # else any number of layers may have been meant
            rest = types[1:]
            every = rest.index(GLOBAL) + 1 if GLOBAL in rest else max(1, len(types))
        if len(types) != data.get("num_hidden_layers") or types != name_layers(len(types), every):
            raise ValueError(
                "layer_types must name a global layer first and then every so many layers"
            )
    return {
        **data,
        "global_attn_every_n_layers": every,
        "global_rope_theta": thetas[GLOBAL],
        "local_rope_theta": thetas[LOCAL],
    }


def name_layers(num_layers: int, every: int) -> list[str]:
    """Return whether each layer is global, as one of ``every`` is, or local."""
    return [LOCAL if number % every else GLOBAL for number in range(num_layers)]
