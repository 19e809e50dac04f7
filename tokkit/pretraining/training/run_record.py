"""What a run is, as told from its options and manifests, and what may be in its folder.

Whether there is anything to do is told from these alone, before torch is imported. What a run was
begun with stands in its journal, so that it is not taken up with other options.

``run.json``: what someone who finds a run folder wants to know of it.

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
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokkit import __version__
from tokkit.engine.files import read_json
from tokkit.engine.folder import refuse_inputs
from tokkit.engine.manifest import Manifest
from tokkit.engine.spec import StageSpec
from tokkit.errors import require
from tokkit.pretraining.models.initial_weights import fingerprint_initial
from tokkit.pretraining.pretrain_config import DEFAULT_PRESET, PretrainConfig, require_objective

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
        "command": _spell_command(sys.argv),
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


def _spell_command(arguments: Sequence[str]) -> str:
    """A command as one would type it."""
    name = Path(arguments[0]).name
    program = ["python", "-m", "tokkit"] if name == "__main__.py" else [name]
    return shlex.join([*program, *arguments[1:]])


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


KIND = "run"
EXPORT = "export"

# What the weights do not depend on, or only in their last bits and by what dropout draws; all else
# is part of the key.
FREE_OPTIONS = frozenset(
    {
        "instances",  # wherever they lie: their content is part of the key
        "init_from",  # likewise
        "output",
        "micro_batch_tokens",
        "checkpoint_every",
        "keep_checkpoints",
        "eval_every",
        "tensorboard",
        "device",
        "compile",
        "nproc_per_node",
        "fsdp",
        "threads",
        "overwrite",
        "progress",
    }
)


@dataclass(frozen=True)
class Plan:
    """A run as told from its options and the instances' manifest.

    Attributes:
        config: the options.
        sources: the manifests of the instances.
        initial: fingerprint of the model that the run starts from; None where weights are drawn.
    """

    config: PretrainConfig
    sources: tuple[Manifest, ...]
    initial: str | None

    @classmethod
    def of(cls, config: PretrainConfig) -> "Plan":
        """Look at what the options name.

        Raises:
            UsageError: where the run folder is what is read.
            TokkitError: where a folder is unfinished, or no model here learns from it.
        """
        models = [] if config.init_from is None else [config.init_from]
        refuse_inputs(config.output, [*config.instances, *models])
        sources = tuple(Manifest.read(folder, "instances") for folder in config.instances)
        for folder, source in zip(config.instances, sources, strict=True):
            require_objective(source.options, str(folder))
        require(
            not config.share_layers or sources[0].options["objective"] != "clm",
            "--share-layers has no effect on a GPT-2, which instances of clm train; leave it out",
        )
        initial = None if config.init_from is None else fingerprint_initial(config.init_from)
        return cls(config, sources, initial)

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The instances' shards, as the run's manifest names them."""
        return [
            {name: row[name] for name in ("name", "bytes", "sha256")}
            for source in self.sources
            for row in source.shards
        ]

    @property
    def outline(self) -> StageSpec:
        """What the weights depend on."""
        config = self.config
        options = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(config).items()
            if name not in FREE_OPTIONS | {"seed"}
        }
        # A default that is spelled out makes no other run.
        options["phases"] = [list(phase) for phase in config.phases]
        if config.init_from is None:
            options["preset"] = config.preset or DEFAULT_PRESET
        options["init_from"] = self.initial
        if config.max_time is None:
            options["max_steps"] = config.num_steps
        return StageSpec(
            kind=KIND,
            output=self.config.output,
            options=options,
            tokenizer_fingerprint=self.sources[0].tokenizer_fingerprint or "",
            seed=self.config.seed,
            inputs=self.inputs,
            fingerprints=frozenset({"init_from"}),
        )
