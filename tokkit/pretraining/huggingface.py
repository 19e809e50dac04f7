"""A Hugging Face folder of a BERT: what its config says, and where its weights lie.

Looked at without torch, so that whether a run is up to date is told quickly. Weights are in one of
these, the first that is there:

    model.safetensors    model.safetensors.index.json, which names the files of parts
    pytorch_model.bin    pytorch_model.bin.index.json
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokkit.engine.files import canonical_json, hash_file, read_json
from tokkit.errors import TokkitError
from tokkit.pretraining.config import MASKED_OBJECTIVES
from tokkit.vocab.tokenizer import load_tokenizer

CONFIG = "config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

SIZES = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
# What transformers takes where a config says nothing.
DEFAULTS = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "initializer_range": 0.02,
    "position_embedding_type": "absolute",
    "is_decoder": False,
    "tie_word_embeddings": True,
}
# Beside it, what is computed here; of GELU there are several, and only these two are the exact one.
COMPUTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("bert",),
    "hidden_act": ("gelu", "gelu_python"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "tie_word_embeddings": (True,),
}


def fingerprint_initial(folder: Path) -> str:
    """What a run that begins with this folder depends on: 64 hexadecimal digits.

    The SHA-256 of its config, its weights and its tokenizer.

    Raises:
        TokkitError: where one of them is not there.
    """
    form = {
        "config": hash_file(folder / CONFIG),
        "weights": [hash_file(path) for path in find_weights(folder)],
        "tokenizer": load_tokenizer(folder).fingerprint,
    }
    return hashlib.sha256(canonical_json(form)).hexdigest()


def find_weights(folder: Path) -> tuple[Path, ...]:
    """The files that hold the weights.

    Raises:
        TokkitError: where there are none, or the index is not one.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            form = read_json(index)
            parts = form.get("weight_map") if isinstance(form, dict) else None
            if not isinstance(parts, dict) or not parts:
                raise TokkitError(f"{index}: names no files; copy it anew")
            return tuple(folder / part for part in sorted(set(map(str, parts.values()))))
    raise TokkitError(
        f"{folder}: holds neither {' nor '.join(WEIGHTS)}; name a Hugging Face folder of a BERT"
    )


def read_bert_config(folder: Path, *, objective: str, max_seq_length: int) -> dict[str, Any]:
    """Read ``config.json``, with what it leaves out filled in.

    Args:
        folder: of the model.
        objective: that is to be learned.
        max_seq_length: of the instances.

    Raises:
        TokkitError: where it is not the config of a BERT that is computed here, or not of one for
            such instances.
    """
    path = folder / CONFIG
    if objective not in MASKED_OBJECTIVES:
        raise TokkitError(
            f"{folder}: instances of {objective} train a GPT-2, but --init-from takes a BERT; "
            f"leave it out, or build with --objective nsp, sop or mlm"
        )
    form = read_json(path)
    if not isinstance(form, dict):
        raise TokkitError(f"{path}: is no JSON object; copy it anew")
    form = {**DEFAULTS, **form}
    for name, computed in COMPUTED.items():
        if form[name] not in computed:
            known = " or ".join(map(str, computed))
            raise TokkitError(
                f"{path}: {name} is {form[name]}, but --init-from takes a BERT where it is {known}; "
                f"choose another model"
            )
    for name in SIZES:
        if not isinstance(form.get(name), int):
            raise TokkitError(f"{path}: {name} is {form.get(name)}, not a number; copy it anew")
    if form["max_position_embeddings"] < max_seq_length:
        raise TokkitError(
            f"{path}: the model has {form['max_position_embeddings']} positions, but instances "
            f"have up to {max_seq_length} tokens; build them with a smaller --max-seq-length"
        )
    if form["type_vocab_size"] < 2:
        raise TokkitError(
            f"{path}: type_vocab_size is {form['type_vocab_size']}, but two segments are told "
            f"apart here; choose another model"
        )
    return form
