"""The batch of any step, as pretraining saw it or will see it.

A batch is a function of the step and of the options in a run's ``run.json``, so it is found without
running anything. Epochs follow each other without a gap, so the first batch of an epoch may begin a
few instances into it: of 10 instances in batches of 4, step 0 of epoch 1 is step 3 of the run,
which begins at position 12, the third instance of that epoch.

Each phase of a run takes the folder that was built with the phase's length, and counts its own
steps and epochs. So does a run that goes on with another one; if it has the same instances, it goes on
in the middle of an epoch, and earlier epochs have no step of it.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from tokkit.engine.manifest import Manifest
from tokkit.engine.mirrors import pull
from tokkit.errors import TokkitError, UsageError, plural, require
from tokkit.inspection.row_text import show_instance, split_instances
from tokkit.options import find_local
from tokkit.pretraining.data.instance_sources import divide_phases, open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.loader_config import BatchSizes, LoaderConfig
from tokkit.pretraining.training.run_record import RUN, find_origin, read_run
from tokkit.pretraining.training.schedule import Schedule


def replay(
    path: Path,
    *,
    phase: int | None = None,
    epoch: int = 0,
    step: int = 0,
    rows: int | None = None,
    color: bool = False,
    **options: Any,
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Show a batch.

    Args:
        path: an instance folder, or a run folder.
        phase: number of the phase, from 0; None for a run without phases.
        epoch: number of the epoch over all folders' instances, from 0.
        step: number of the batch, from the first that begins in the epoch.
        rows: number of instances to show; None shows all.
        color: whether instances are for a terminal that shows colours.
        options: of ``LoaderConfig``, for an instance folder; a run has its own.

    Returns:
        The facts, and the instances as text.

    Raises:
        UsageError: if an option has no effect.
        TokkitError: if the folders are damaged, or have changed since the run started.
    """
    path = find_local(path)
    pull(path)
    if (path / RUN).is_file():
        if options:
            flags = (LoaderConfig.options[name].flag for name in options)
            raise UsageError(f"{path}: a run has its own options; leave out {', '.join(flags)}")
        config, sizes = choose_phase(path, phase)
    else:
        require(phase is None, f"{path}: --phase requires a run; leave it out")
        config, sizes = LoaderConfig(instances=(path,), **options), None
        config.require_effect(options)
    sources = open_sources(config)
    loader = Loader(sources, config, sizes, with_words=True)
    first = loader.sizes.find_step(epoch * loader.num_instances)
    instances = loader.training_instances(first + step)
    shown = [
        show_instance(row, sources.tokenizer, sources.objective, color=color)
        for row in split_instances(instances)[:rows]
    ]
    facts = {
        "instances": ", ".join(map(str, config.instances)),
        "batch_size": loader.sizes.at(first + step)[1],
        "seed": config.seed,
        "epoch": epoch,
        "step": first + step,
        "tokens": len(instances.input_ids),
        "masked" if instances.predictions.targets is None else "targets": len(
            instances.predictions.labels
        ),
    }
    return facts, tuple(shown)


def choose_phase(path: Path, phase: int | None = None) -> tuple[LoaderConfig, BatchSizes]:
    """Return the loader's options and batch sizes of a run, or of one of its phases.

    Raises:
        UsageError: if the run has phases and ``phase`` is none of them, or the other way round.
        TokkitError: if the instances have changed since the run started.
    """
    run, config = read_run(path)
    for folder, key in zip(config.folders, run["instances_keys"], strict=False):
        if Manifest.read(folder, "instances").key != key:
            raise TokkitError(
                f"{folder}: has changed since {path} was trained on it; build it again with the same options"
            )
    if not config.phases:
        require(phase is None, f"{path}: has no phases; leave out --phase")
    elif phase is None or phase not in range(len(config.phases)):
        raise UsageError(
            f"{path}: has {plural(len(config.phases), 'phase')}; choose one with --phase, from 0"
        )
    sizes = Schedule.from_config(config, find_origin(run)).batch_sizes(phase or 0)
    _, own = divide_phases(config, open_sources(config))[phase or 0]
    return replace(own, batch_size=sizes.sizes[-1]), sizes
