"""The files of a model: those of a Hugging Face folder (``--init-from``), and safetensors files.

Weights of a Hugging Face folder are in the first of these that exists:

    model.safetensors    model.safetensors.index.json, which lists the files of the parts
    pytorch_model.bin    pytorch_model.bin.index.json

A safetensors file is 8 bytes of length, a JSON header, and the tensors' bytes:

    58 00 00 00 00 00 00 00
    {"__metadata__":{"format":"pt"},"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}
    00 00 80 3f 00 00 00 40                                                           1.0, 2.0

Ours have fp32 tensors. ``safetensors.torch`` reads them, but cannot write them: it would make a second
copy of all tensors in memory or, given a path, report a full disk as an error that is not an
``OSError``.

Only what reads tensors imports torch, so that an up-to-date run is detected quickly.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, cast

from tokkit.engine.files import HashedFile, hash_file
from tokkit.engine.json_files import canonical_json, read_json
from tokkit.errors import TokkitError, describe_os_error, wrap_os_errors
from tokkit.pretraining.families import FAMILY_OF
from tokkit.tokenizer.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from torch import Tensor

CONFIG = "config.json"
DOWNLOAD = "download it again"
MODEL = "model.safetensors"
WEIGHTS = (MODEL, "pytorch_model.bin")

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


def read_weights(folder: Path) -> dict[str, "Tensor"]:
    """Return the tensors of a folder's weights by their names there.

    Raises:
        TokkitError: if a file is missing, damaged or holds anything else.
    """
    import torch

    tensors: dict[str, torch.Tensor] = {}
    for path in find_weights(folder):
        try:
            with wrap_os_errors(path):
                loaded = _read_file(path)
        except (TokkitError, MemoryError):
            raise
        except Exception as error:  # unpickling may raise anything
            reason = str(error).splitlines()[0][:300] if str(error) else "unexpected end of file"
            raise TokkitError(
                f"{path}: damaged, or not a file of tensors alone ({reason}); {DOWNLOAD}"
            ) from error
        if not isinstance(loaded, dict) or any(
            not isinstance(name, str) or not isinstance(tensor, torch.Tensor)
            for name, tensor in loaded.items()
        ):
            raise TokkitError(f"{path}: contains objects other than named tensors; {DOWNLOAD}")
        tensors |= loaded
    return tensors


def _read_file(path: Path) -> Any:
    """Return the content of a file of weights, refusing one that unpacks to much more."""
    import torch
    from safetensors.torch import load_file

    if path.suffix == ".safetensors":
        return load_file(path)
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            packed = sum(entry.file_size for entry in archive.infolist())
        if packed > 2 * path.stat().st_size:  # torch never compresses
            raise ValueError(f"it unpacks to {packed:,} bytes")
    return torch.load(path, map_location="cpu", weights_only=True)


class DamagedError(TokkitError):
    """A file is not as it was written: it is truncated, changed or missing."""


@contextmanager
def wrap_damage_errors(path: Path) -> Iterator[None]:
    """Turn errors caused by a damaged file into a ``DamagedError`` that names it."""
    from safetensors import SafetensorError

    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: no such file") from error
    except OSError as error:
        raise TokkitError(f"{path}: {describe_os_error(error)}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged ({error})") from error


def write_tensors(path: Path, tensors: Mapping[str, "Tensor"]) -> dict[str, Any]:
    """Write a file of tensors, converting one of them at a time; it is not synced.

    Returns:
        Its ``name``, ``bytes`` and ``sha256``.

    Raises:
        OSError: if writing fails, as on a full disk.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)  # the format aligns the data to 8 bytes
    with path.open("wb") as opened:
        file = HashedFile(cast("BinaryIO", opened))
        file.write(len(encoded).to_bytes(8, "little"))
        file.write(encoded)
        for tensor in tensors.values():
            file.write(tensor.detach().float().contiguous().cpu().numpy().reshape(-1))
    return {"name": path.name, "bytes": file.size, "sha256": file.sha256}


def read_tensors(path: Path, expected: Mapping[str, "Tensor"]) -> dict[str, "Tensor"]:
    """Read a file of tensors into main memory.

    Args:
        path: path of the file.
        expected: tensors with the names and shapes that the file must have.

    Raises:
        DamagedError: if the file is missing, or is not a complete safetensors file.
        TokkitError: if it cannot be read, or lacks an expected tensor.
    """
    from safetensors.torch import load_file

    with wrap_damage_errors(path):
        tensors: dict[str, Tensor] = load_file(path)
    for name, tensor in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else "none"
        if found != tuple(tensor.shape):
            raise TokkitError(
                f"{path}: {name} should have the shape {tuple(tensor.shape)}, and has {found}; "
                f"it belongs to another model"
            )
    return tensors
