"""Safetensors files of fp32 tensors, written without a second copy and checked when read.

A file is 8 bytes of length, a JSON header, and the tensors' bytes:

    58 00 00 00 00 00 00 00
    {"__metadata__":{"format":"pt"},"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}
    00 00 80 3f 00 00 00 40                                                           1.0, 2.0

``safetensors.torch`` reads them, but cannot write them: it would make a second copy of all tensors in
memory or, given a path, report a full disk as an error that is not an ``OSError``.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, cast

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from tokkit.engine.files import HashedFile
from tokkit.errors import TokkitError, describe_os_error


class DamagedError(TokkitError):
    """A file is not as it was written: it is truncated, changed or missing."""


@contextmanager
def wrap_damage_errors(path: Path) -> Iterator[None]:
    """Turn errors caused by a damaged file into a ``DamagedError`` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: no such file") from error
    except OSError as error:
        raise TokkitError(f"{path}: {describe_os_error(error)}") from error
    except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DamagedError(f"{path}: damaged ({error})") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
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


def read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a file of tensors into main memory.

    Args:
        path: path of the file.
        expected: tensors with the names and shapes that the file must have.

    Raises:
        DamagedError: if the file is missing, or is not a complete safetensors file.
        TokkitError: if it cannot be read, or lacks an expected tensor.
    """
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
