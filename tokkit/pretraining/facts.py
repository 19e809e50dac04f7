"""``run.json``: what someone who finds a run folder wants to know of it.

    {"begun": "2026-03-01T09:12:44+00:00", "continued": null, "command": "tokkit pretrain …",
     "options": {"preset": "base", "batch_size": 256, …}, "model": {"hidden_size": 768, …},
     "num_parameters": 109514298, "device": "cuda, NVIDIA H200", "num_processes": 8, "cores": 96,
     "instances_keys": ["9f…"], "tokenizer_fingerprint": "3c…", "init_from_fingerprint": null,
     "versions": {"tokkit": "0.1.0", "torch": "2.11.0", …}}

A run that goes on writes it anew, since it may go on elsewhere, and keeps only when it was begun.
``tokkit inspect`` shows it, and finds in it whatever batch the run has seen.
"""

import os
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokkit import __version__
from tokkit.engine.files import read_json
from tokkit.engine.manifest import Manifest
from tokkit.pretraining.config import PretrainConfig

RUN = "run.json"


def describe_run(
    config: PretrainConfig,
    manifests: Sequence[Manifest],
    *,
    model: Mapping[str, Any],
    num_parameters: int,
    device: str,
    num_processes: int = 1,
    initial: str | None = None,
) -> dict[str, Any]:
    """The content of a run's ``run.json``.

    Args:
        config: the options; in the output folder there may be the ``run.json`` of an earlier start.
        manifests: of the instance folders, in the order of the options.
        model: its shape, under the names of a Hugging Face ``config.json``.
        num_parameters: each that layers share counted once.
        device: in words.
        num_processes: that share each batch.
        initial: fingerprint of the model that the run starts from.
    """
    now = datetime.now(UTC).isoformat(timespec="seconds")
    earlier = config.output / RUN
    begun = read_json(earlier)["begun"] if earlier.is_file() else now
    return {
        "begun": begun,
        "continued": now if earlier.is_file() else None,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "options": spell_options(asdict(config)),
        "model": dict(model),
        "num_parameters": num_parameters,
        "device": device,
        "num_processes": num_processes,
        "cores": count_cores(),
        "instances_keys": [manifest.key for manifest in manifests],
        "tokenizer_fingerprint": manifests[0].tokenizer_fingerprint,
        "init_from_fingerprint": initial,
        "versions": find_versions(),
    }


def spell_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options as JSON has them: paths are text, tuples lists."""
    return {name: _spell(value) for name, value in options.items()}


def _spell(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_spell(part) for part in value]
    return value


def count_cores() -> int:
    """Cores that this process may use, where the system tells; else those that there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def find_versions() -> dict[str, str]:
    """Releases of all that weights or speed may depend on."""
    import torch

    versions = {
        "tokkit": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": version("numpy"),
        "numba": version("numba"),
    }
    if torch.version.cuda is not None:
        versions["cuda"] = torch.version.cuda
    return versions
