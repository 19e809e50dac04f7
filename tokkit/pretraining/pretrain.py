"""``pretrain``: from an instance folder to a run folder with a trained model.

    run/run.json                     every option, versions, device, fingerprints
        metrics.jsonl                see tokkit.pretraining.metrics
        checkpoints/step-00001000/   see tokkit.pretraining.checkpoint
        export/                      see tokkit.pretraining.export
        manifest.json                written last: the run is finished

Whether there is anything to do is told from manifests alone, before torch is imported. What a run
was begun with stands in its journal, so that it is not taken up with other options.
"""

import importlib.util
import logging
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokkit import __version__
from tokkit.engine.accounts import Accounts
from tokkit.engine.files import FolderLock, write_json
from tokkit.engine.folder import (
    clear_folder,
    refuse_foreign,
    refuse_inputs,
    remove_leftovers,
)
from tokkit.engine.journal import Journal
from tokkit.engine.manifest import MANIFEST, Manifest
from tokkit.engine.signals import interruptible
from tokkit.engine.stage import Outline, describe_difference, find_finished
from tokkit.errors import TokkitError, os_errors_about
from tokkit.pretraining.config import PretrainConfig, require_objective

KIND = "run"
EXPORT = "export"
RUN = "run.json"

# What the weights do not depend on, or only in their last bits; all else is part of the key.
FREE_OPTIONS = frozenset(
    {
        "instances",  # wherever they lie: their content is part of the key
        "output",
        "checkpoint_every",
        "eval_every",
        "device",
        "threads",
        "overwrite",
        "progress",
    }
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A run as told from its options and the instances' manifest.

    Attributes:
        config: the options.
        sources: the manifests of the instances.
    """

    config: PretrainConfig
    sources: tuple[Manifest, ...]

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The instances' shards, as the run's manifest names them."""
        return [
            {name: row[name] for name in ("name", "bytes", "sha256")}
            for source in self.sources
            for row in source.shards
        ]

    @property
    def outline(self) -> Outline:
        """What the weights depend on."""
        options = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self.config).items()
            if name not in FREE_OPTIONS | {"seed"}
        }
        return Outline(
            kind=KIND,
            output=self.config.output,
            options=options,
            tokenizer_fingerprint=self.sources[0].tokenizer_fingerprint or "",
            seed=self.config.seed,
            inputs=self.inputs,
        )


def pretrain(config: PretrainConfig) -> Manifest:
    """Train a BERT and export it, going on from the newest checkpoint if there is one.

    Args:
        config: see ``PretrainConfig``.

    Returns:
        The run folder's manifest; its shards are the files of the export.

    Raises:
        UsageError: where the run folder is the instance folder.
        TokkitError: where instances, options and run folder do not go together, torch or the
            device is missing, or the loss stops being a number.
        Interrupted: after SIGINT or SIGTERM, when the step in hand is saved.
    """
    refuse_inputs(config.output, config.instances)
    sources = tuple(Manifest.read(folder, "instances") for folder in config.instances)
    for folder, source in zip(config.instances, sources, strict=True):
        require_objective(source.options, str(folder))
    plan = Plan(config, sources)
    if not config.overwrite and (finished := find_finished(plan.outline)) is not None:
        log.info("%s: up to date", config.output)
        return finished
    _require_torch()
    refuse_foreign(config.output)
    with FolderLock(config.output), interruptible(config.output):
        if config.overwrite:
            clear_folder(config.output)
        _take_up(plan)
        return _train(plan)


def _require_torch() -> None:
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name) is None:
            raise TokkitError(
                f"{name}: is not installed; pretraining needs it: pip install 'tokkit[pretrain]'"
            )


def _take_up(plan: Plan) -> None:
    """Begin a run, or make sure that the one in the folder was begun with the same options."""
    output, outline = plan.config.output, plan.outline
    journal = Journal.read(output)
    past: Mapping[str, Any] | None = journal.stage
    if (output / MANIFEST).is_file():
        past = asdict(Manifest.read(output))
    if past is None:
        journal.begin(outline.statement)
        return
    if (difference := describe_difference(past, outline.statement)) is not None:
        raise TokkitError(
            f"{output}: holds another run ({difference}); "
            f"choose another folder, or pass --overwrite to make it anew"
        )
    # A finished run gets here when a file of its export is gone.
    with os_errors_about(output):
        (output / MANIFEST).unlink(missing_ok=True)
    remove_leftovers(output)


def _train(plan: Plan) -> Manifest:
    """All that needs torch."""
    from tokkit.pretraining.batch import Batches
    from tokkit.pretraining.device import describe_device, seed_torch, torch_settings
    from tokkit.pretraining.export import write_export
    from tokkit.pretraining.loader import Loader
    from tokkit.pretraining.loop import Trainer
    from tokkit.pretraining.model import Bert, ModelConfig, initialize
    from tokkit.pretraining.sources import open_sources

    config = plan.config
    sources = open_sources(config)
    tokenizer = sources.tokenizer
    with torch_settings(config) as device:
        batches = Batches(Loader(sources, config), tokenizer.special_ids["pad"])
        model_config = ModelConfig.from_preset(
            config.preset,
            vocab_size=tokenizer.vocab_size,
            max_seq_length=sources.max_seq_length,
            dropout=config.dropout,
        )
        model = Bert(model_config)
        seed_torch(config.seed, "weights")
        initialize(model)
        model.to(device)
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        _write_run(plan, describe_device(device), num_parameters)
        state = Trainer(config, model, batches, device).run()
        files = write_export(config.output / EXPORT, model, tokenizer)
    accounts = Accounts()
    accounts.count("parameters", num_parameters)
    accounts.count("steps", state.step)
    accounts.count("instances", state.step * config.batch_size)
    accounts.count("tokens", state.tokens)
    manifest = Manifest(
        kind=KIND,
        key=plan.outline.key,
        options=dict(plan.outline.options),
        seed=config.seed,
        tokenizer_fingerprint=plan.sources[0].tokenizer_fingerprint,
        inputs=plan.inputs,
        shards=[{**row, "name": f"{EXPORT}/{row['name']}"} for row in files],
        accounts=accounts.as_dict(),
    )
    manifest.write(config.output)
    return manifest


def _write_run(plan: Plan, device: str, num_parameters: int) -> None:
    """Write what someone who finds the folder wants to know of it."""
    import numpy as np
    import torch

    config = plan.config
    options = {
        **asdict(config),
        "instances": [str(folder) for folder in config.instances],
        "output": str(config.output),
    }
    write_json(
        config.output / RUN,
        {
            "options": options,
            "num_parameters": num_parameters,
            "device": device,
            "instances_keys": [source.key for source in plan.sources],
            "tokenizer_fingerprint": plan.sources[0].tokenizer_fingerprint,
            "versions": {
                "tokkit": __version__,
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
            },
        },
    )
