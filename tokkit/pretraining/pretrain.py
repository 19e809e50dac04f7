"""``pretrain``: from an instance folder to a run folder with a trained model.

run/run.json                     see tokkit.pretraining.facts
    metrics.jsonl                see tokkit.pretraining.metrics
    tensorboard/                 see tokkit.pretraining.events
    checkpoints/step-00001000/   see tokkit.pretraining.checkpoint
    export/                      see tokkit.pretraining.export
    manifest.json                written last: the run is finished
"""

import importlib.util
import logging
import os
from typing import TYPE_CHECKING

from tokkit.engine.manifest import Manifest
from tokkit.engine.stage import find_finished
from tokkit.errors import TokkitError
from tokkit.pretraining.config import PretrainConfig
from tokkit.pretraining.launch import launch
from tokkit.pretraining.place import find_place, only_first_speaks
from tokkit.pretraining.plan import KIND, Plan

if TYPE_CHECKING:
    from tokkit.pretraining.forecast import Forecast

log = logging.getLogger(__name__)


def pretrain(config: PretrainConfig) -> Manifest:
    """Train a model and export it, going on from the newest checkpoint if there is one.

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
    place = find_place(os.environ, config.nproc_per_node)
    with only_first_speaks(place):
        plan = Plan.of(config)
        if not config.overwrite and (finished := find_finished(plan.outline)) is not None:
            log.info("%s: up to date", config.output)
            return finished
        _require_torch()
        if (config.nproc_per_node or 1) > 1:
            launch(pretrain, config)
            return Manifest.read(config.output, KIND)
        from tokkit.pretraining.training import train

        return train(plan, place)


def foretell(config: PretrainConfig) -> "Forecast":
    """Say what a run would need, and how long it would take; nothing is written.

    Raises:
        UsageError: as of ``pretrain``.
        TokkitError: likewise.
    """
    plan = Plan.of(config)
    _require_torch()
    from tokkit.pretraining.training import forecast_run

    return forecast_run(plan)


def _require_torch() -> None:
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name) is None:
            raise TokkitError(
                f"{name}: is not installed; pretraining needs it: pip install 'tokkit[pretrain]'"
            )
