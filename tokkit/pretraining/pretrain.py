"""``pretrain``: from an instance folder to a run folder with a trained model.

run/run.json                     see tokkit.pretraining.training.run_record
    metrics.jsonl                see tokkit.pretraining.training.metrics
    tensorboard/                 see tokkit.pretraining.training.reporting
    checkpoints/step-00001000/   see tokkit.pretraining.training.checkpoints
    export/                      see tokkit.pretraining.models.export
    manifest.json                written last: the run is finished
"""

import importlib.util
import logging
import os
from typing import Any

from tokkit.engine.manifest import Manifest
from tokkit.engine.spec import find_finished
from tokkit.errors import TokkitError, require
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.launch import launch
from tokkit.pretraining.training.launch_info import LaunchInfo, detect_launcher, log_on_first_rank
from tokkit.pretraining.training.run_record import KIND, Plan

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
    launch_info = detect_launcher(os.environ, config.nproc_per_node)
    with log_on_first_rank(launch_info):
        plan = Plan.of(config)
        _require_equal_parts(config, launch_info)
        if not config.overwrite and (finished := find_finished(plan.outline)) is not None:
            log.info("%s: up to date", config.output)
            return finished
        _require_torch()
        if (config.nproc_per_node or 1) > 1:
            launch(pretrain, config)
            return Manifest.read(config.output, KIND)
        from tokkit.pretraining.training.run import train

        return train(plan, launch_info)


def estimate_run(config: PretrainConfig) -> dict[str, Any]:
    """Return what a run needs and how long it takes, see ``measure_run``; nothing is written.

    Raises:
        UsageError: as of ``pretrain``.
        TokkitError: likewise.
    """
    launch_info = detect_launcher(os.environ, config.nproc_per_node)
    Plan.of(config)
    num_processes = _require_equal_parts(config, launch_info)
    _require_torch()
    from tokkit.pretraining.training.estimate import measure_run

    return measure_run(config, num_processes)


def _require_equal_parts(config: PretrainConfig, launch_info: LaunchInfo) -> int:
    """Refuse a batch that cannot be shared out; returns among how many processes it is."""
    num_processes = config.nproc_per_node or launch_info.size
    require(
        config.batch_size % num_processes == 0,
        f"--batch-size {config.batch_size} cannot be divided among {num_processes} processes; "
        f"choose a multiple of {num_processes}",
    )
    return num_processes


def _require_torch() -> None:
    for name in ("torch", "safetensors"):
        if importlib.util.find_spec(name) is None:
            raise TokkitError(
                f"{name}: is not installed; pretraining needs it: pip install 'tokkit[pretrain]'"
            )
