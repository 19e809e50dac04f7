"""Safetensors files of fp32 tensors, written without a second copy and read with distrust.

A file is 8 bytes of length, a JSON header, and the tensors' bytes:

    58 00 00 00 00 00 00 00
    {"__metadata__":{"format":"pt"},"bias":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}
    00 00 80 3f 00 00 00 40                                                           1.0, 2.0

It is written here rather than by ``safetensors.torch``, which makes a second copy of all tensors
in memory or, given a path, reports a full disk as an error that is no ``OSError``.
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
    """A file does not hold what was written to it: it was cut short, changed, or is gone."""


@contextmanager
def damage_is_told(path: Path) -> Iterator[None]:
    """Turn what a damaged file leads to into a ``DamagedError`` that names it."""
    try:
        yield
    except FileNotFoundError as error:
        raise DamagedError(f"{path}: no such file; it must be made again") from error
    except OSError as error:
        raise TokkitError(f"{path}: {describe_os_error(error)}") from error
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{path}: damaged ({error}); it must be made again") from error


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write a file of tensors, one of them in memory at a time; it is not synced.

    Returns:
        Its ``name``, ``bytes`` and ``sha256``.

    Raises:
        OSError: where the operating system refuses, as on a full disk.
    """
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + 4 * tensor.numel()
        header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [start, end]}
    spelled = json.dumps(header, separators=(",", ":")).encode()
    spelled += b" " * (-len(spelled) % 8)  # the format aligns the data to 8 bytes
    with path.open("wb") as opened:
        file = HashedFile(cast("BinaryIO", opened))
        file.write(len(spelled).to_bytes(8, "little"))
        file.write(spelled)
        for tensor in tensors.values():
            file.write(tensor.detach().float().contiguous().cpu().numpy().reshape(-1))
    return {"name": path.name, "bytes": file.size, "sha256": file.sha256}


def read_tensors(path: Path, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read a file of tensors into main memory.

    Args:
        path: of the file.
        expected: tensors of the names and shapes that must be in it.

    Raises:
        DamagedError: where it is gone, or is no whole safetensors file.
        TokkitError: where it may not be read, or does not hold what is expected.
    """
    with damage_is_told(path):
        tensors: dict[str, Tensor] = load_file(path)
    for name, like in expected.items():
        found = tuple(tensors[name].shape) if name in tensors else "none"
        if found != tuple(like.shape):
            raise TokkitError(
                f"{path}: for {name} {tuple(like.shape)} is needed, the file has {found}; "
                f"it belongs to another model"
            )
    return tensors
