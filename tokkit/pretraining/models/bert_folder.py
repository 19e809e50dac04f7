"""A Hugging Face folder of a BERT (``--init-from``): its config and its weight files.

It is read without torch, so that whether a run is up to date is known quickly. Weights are in the
first of these that exists:

    model.safetensors    model.safetensors.index.json, which names the files of the parts
    pytorch_model.bin    pytorch_model.bin.index.json
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, TypedDict

import msgspec

from tokkit.engine.files import hash_file
from tokkit.engine.json_files import Size, canonical_json, read_json
from tokkit.errors import TokkitError
from tokkit.shards.objectives import MASKED
from tokkit.tokenizer.tokenizer import load_tokenizer

CONFIG = "config.json"
DOWNLOAD = "download it again"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

SIZES = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
)
_LONGEST_SHOWN = 100
# What transformers assumes where a config says nothing.
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
# The values that our BERT computes. transformers has several GELUs; only these two are exact.
SUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "model_type": ("bert",),  # or modernbert, see modernbert_folder.py
    "hidden_act": ("gelu", "gelu_python"),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "tie_word_embeddings": (True,),
}


_Positive = Annotated[float, msgspec.Meta(gt=0)]


class _BertSizes(TypedDict):
    vocab_size: Size
    hidden_size: Size
    num_hidden_layers: Size
    num_attention_heads: Size
    intermediate_size: Size
    max_position_embeddings: Size
    type_vocab_size: Size
    layer_norm_eps: _Positive
    initializer_range: _Positive


class _WeightIndex(TypedDict):
    weight_map: dict[str, str]


def fingerprint_folder(folder: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the folder's config, weights and tokenizer.

    Raises:
        TokkitError: where one of them is missing.
    """
    data = {
        "config": hash_file(folder / CONFIG),
        "weights": [hash_file(path) for path in find_weights(folder)],
        "tokenizer": load_tokenizer(folder).fingerprint,
    }
    return hashlib.sha256(canonical_json(data)).hexdigest()


def read_family(folder: Path) -> str:
    """Return the ``--architecture`` of a folder's model; ``bert`` where it is none that we know."""
    kind = read_json(folder / CONFIG, dict[str, Any], DOWNLOAD).get("model_type")
    return "modernbert" if kind in {"modernbert", "modernbert-decoder"} else "bert"


def find_weights(folder: Path) -> tuple[Path, ...]:
    """Return the files that hold the weights.

    Raises:
        TokkitError: where there are none, or the index is damaged.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = sorted({*read_json(index, _WeightIndex, DOWNLOAD)["weight_map"].values()})
            if not names or any(Path(part).name != part or "\0" in part for part in names):
                raise TokkitError(
                    f"{index}: names no files, or others than its folder's; {DOWNLOAD}"
                )
            return tuple(folder / part for part in names)
    raise TokkitError(
        f"{folder}: contains neither {' nor '.join(WEIGHTS)}; name a Hugging Face folder of a BERT"
    )


def read_bert_config(folder: Path, *, objective: str, max_seq_length: int) -> dict[str, Any]:
    """Return the contents of ``config.json``, completed by the defaults of transformers.

    Args:
        folder: of the model.
        objective: of the instances.
        max_seq_length: of the instances.

    Raises:
        TokkitError: where our BERT does not compute this model, or it does not fit the instances.
    """
    path = folder / CONFIG
    if objective not in MASKED:
        raise TokkitError(
            f"{folder}: instances of {objective} train a GPT-2, but --init-from takes a BERT; "
            f"leave it out, or build with one of {', '.join(MASKED)}"
        )
    data = {**DEFAULTS, **read_json(path, dict[str, Any], DOWNLOAD)}
    require_supported(path, data, SUPPORTED)
    try:
        msgspec.convert(data, _BertSizes)
    except msgspec.ValidationError as error:
        raise TokkitError(f"{path}: {error}; {DOWNLOAD}") from error
    if data["max_position_embeddings"] < max_seq_length:
        raise TokkitError(
            f"{path}: the model has {data['max_position_embeddings']} positions, but instances "
            f"have up to {max_seq_length} tokens; build them with a smaller --max-seq-length"
        )
    if data["type_vocab_size"] < 2:
        raise TokkitError(
            f"{path}: type_vocab_size is {data['type_vocab_size']}, but instances have two "
            f"segments; choose another model"
        )
    return data


def require_supported(
    path: Path, data: Mapping[str, Any], supported: Mapping[str, tuple[Any, ...]]
) -> None:
    """Refuse a ``config.json`` with other values than our model computes.

    Args:
        path: the file.
        data: its contents, completed by defaults.
        supported: values of each field.
    """
    for name, values in supported.items():
        if data[name] not in values:
            raise TokkitError(
                f"{path}: {name} is {str(data[name])[:_LONGEST_SHOWN]}, but --init-from requires "
                f"{' or '.join(map(str, values))}; choose another model"
            )


def require_possible(path: Path, data: Mapping[str, Any], num_bytes: int) -> None:
    """Refuse the sizes of a ``config.json`` if heads do not divide, or the weights are too few.

    For a model with more parameters than the weights have bytes, memory would be asked for.

    Args:
        path: the file.
        data: its sizes.
        num_bytes: bytes of the weights.
    """
    width, heads = data["hidden_size"], data["num_attention_heads"]
    if width % heads:
        raise TokkitError(
            f"{path}: hidden_size {width} cannot be divided among {heads} attention heads; {DOWNLOAD}"
        )
    rows = data["vocab_size"] + data["max_position_embeddings"] + data["type_vocab_size"]
    layer = 4 * width + 2 * data["intermediate_size"]
    num_parameters = width * (rows + data["num_hidden_layers"] * layer)
    if num_parameters > num_bytes:
        raise TokkitError(
            f"{path}: makes a model of {num_parameters:,} parameters, but the weights have "
            f"{num_bytes:,} bytes; download both again"
        )
