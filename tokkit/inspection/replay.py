"""The batch of any step, as pretraining saw it or will see it.

A batch is a function of the step and of the options that a run notes in its ``run.json``, so it is
found without running anything. Epochs follow each other without a gap, so the first batch of one
may begin a few instances after it: of 10 instances in batches of 4, step 0 of epoch 1 is step 3 of
the run, which begins at position 12, the third instance of that epoch.

A run of several phases takes the folder that was built with the phase's length, and steps and
epochs count from the phase's first.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

from tokkit.engine.files import read_json
from tokkit.engine.manifest import Manifest
from tokkit.errors import TokkitError, require
from tokkit.inspection.row_text import show_instance, split_instances
from tokkit.pretraining.data.instance_sources import open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.pretrain_config import LoaderConfig
from tokkit.pretraining.training.run_record import RUN
from tokkit.shards.reader import ShardFolder


def replay(
    path: Path,
    *,
    phase: int | None = None,
    epoch: int = 0,
    step: int = 0,
    rows: int | None = None,
    **options: Any,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Show a batch.

    Args:
        path: an instance folder, or a run folder, whose options are those of the run.
        phase: of a run that has phases, from 0; None of others.
        epoch: of all folders' instances together, from 0.
        step: from the first batch on that begins in the epoch.
        rows: how many instances to show; None shows all.
        options: those of ``LoaderConfig`` that are not the default; of an instance folder only.

    Returns:
        The facts, and the instances as text.

    Raises:
        TokkitError: where the folders are damaged, or are not those that the run was given.
    """
    if (path / RUN).is_file():
        if options:
            name = next(iter(options)).replace("_", "-")
            raise TokkitError(f"{path}: a run has its own options; leave --{name} out")
        config = read_run(path, phase)
    else:
        require(phase is None, f"{path}: --phase is of a run, and this is none")
        config = LoaderConfig(instances=(path,), **options)
    sources = open_sources(config)
    loader = Loader(sources, config, with_words=True)
    first = -(-epoch * loader.num_instances // config.batch_size)
    instances = loader.training_instances(first + step)
    shown = [
        show_instance(row, sources.tokenizer, sources.objective)
        for row in split_instances(instances)[:rows]
    ]
    facts = {
        "instances": ", ".join(map(str, config.instances)),
        "batch_size": config.batch_size,
        "seed": config.seed,
        "epoch": epoch,
        "step": first + step,
        "tokens": len(instances.input_ids),
        "masked": len(instances.masks.labels),
    }
    return facts, tuple(shown)


def read_run(path: Path, phase: int | None = None) -> LoaderConfig:
    """The loader's options of a run, or of one of its phases.

    Raises:
        UsageError: where the run has phases and none of them is named, or the other way round.
        TokkitError: where the instances are not those that it was begun with.
    """
    run = read_json(path / RUN)
    options = {entry.name: run["options"][entry.name] for entry in fields(LoaderConfig)}
    folders = tuple(map(Path, options["instances"]))
    for folder, key in zip(folders, run["instances_keys"], strict=True):
        if Manifest.read(folder, "instances").key != key:
            raise TokkitError(
                f"{folder}: was made anew since {path} was trained on it; build it as it was"
            )
    phases = run["options"]["phases"]
    if phases:
        require(
            phase is not None and 0 <= phase < len(phases),
            f"{path}: has {len(phases)} phases; say by --phase, from 0, which is meant",
        )
        folders = tuple(
            folder
            for folder in folders
            if ShardFolder.open(folder, "instances").header.max_seq_length == phases[phase][0]
        )
    else:
        require(phase is None, f"{path}: has no phases; leave --phase out")
    options |= {
        "instances": folders,
        "weights": tuple(options["weights"]),
        "mask_ratios": tuple(options["mask_ratios"]),
    }
    return LoaderConfig(**options)
