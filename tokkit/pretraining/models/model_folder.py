"""A Hugging Face folder of a model (``--init-from``): its config and its weight files.

It is read without torch, so that an up-to-date run is detected quickly. Weights are in the first of
these that exists:

    model.safetensors    model.safetensors.index.json, which lists the files of the parts
    pytorch_model.bin    pytorch_model.bin.index.json
"""

import hashlib
from pathlib import Path
from typing import Any, TypedDict

from tokkit.engine.files import hash_file
from tokkit.engine.json_files import canonical_json, read_json
from tokkit.errors import TokkitError
from tokkit.pretraining.families import FAMILY_OF
from tokkit.tokenizer.tokenizer import load_tokenizer

CONFIG = "config.json"
DOWNLOAD = "download it again"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")

_LONGEST_SHOWN = 100


class _WeightIndex(TypedDict):
    weight_map: dict[str, str]


def fingerprint_folder(folder: Path) -> str:
    """Return the SHA-256, in hexadecimal, of the folder's config, weights and tokenizer.

    Raises:
        TokkitError: if one of them is missing.
    """
    data = {
        "config": hash_file(folder / CONFIG),
        "weights": [hash_file(path) for path in find_weights(folder)],
        "tokenizer": load_tokenizer(folder).fingerprint,
    }
    return hashlib.sha256(canonical_json(data)).hexdigest()


def read_model_type(folder: Path) -> str:
    """Return the ``model_type`` of a folder's model.

    Raises:
        TokkitError: if it cannot be trained here.
    """
    kind = read_json(folder / CONFIG, dict[str, Any], DOWNLOAD).get("model_type", "bert")
    if kind not in FAMILY_OF:
        raise TokkitError(
            f"{folder / CONFIG}: model_type is {str(kind)[:_LONGEST_SHOWN]}, but --init-from "
            f"requires {', '.join(FAMILY_OF)}; choose another model"
        )
    return str(kind)


def read_family(folder: Path) -> str:
    """Return the ``--architecture`` of a folder's model.

    Raises:
        TokkitError: if it cannot be trained here.
    """
    return FAMILY_OF[read_model_type(folder)]


def find_weights(folder: Path) -> tuple[Path, ...]:
    """Return the paths of the weight files.

    Raises:
        TokkitError: if there are none, or the index is damaged.
    """
    for name in WEIGHTS:
        if (folder / name).is_file():
            return (folder / name,)
        index = folder / f"{name}.index.json"
        if index.is_file():
            names = sorted({*read_json(index, _WeightIndex, DOWNLOAD)["weight_map"].values()})
            if not names or any(Path(part).name != part or "\0" in part for part in names):
                raise TokkitError(
                    f"{index}: lists no files, or files outside its folder; {DOWNLOAD}"
                )
            return tuple(folder / part for part in names)
    raise TokkitError(
        f"{folder}: contains neither {' nor '.join(WEIGHTS)}; name a Hugging Face folder of a model"
    )
