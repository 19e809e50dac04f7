"""``pretrain``: from instance folders to a run folder with a trained model.

run/run.json                     see tokkit.pretraining.training.run_record
    metrics.jsonl                see tokkit.pretraining.training.reporting
    tensorboard/                 see tokkit.pretraining.training.trackers
    checkpoints/step-00001000/   see tokkit.pretraining.training.checkpoints
    export/                      see tokkit.pretraining.models.export
    manifest.json                written last, when the run has finished
"""

import logging
import os
from dataclasses import replace
from typing import Any

from tokkit.engine.manifest import Manifest
from tokkit.engine.mirrors import pull
from tokkit.engine.spec import find_finished
from tokkit.errors import require, require_library
from tokkit.pretraining.models.model_files import read_family
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.hub_upload import (
    check_repository_name,
    create_repository,
    upload_export,
)
from tokkit.pretraining.training.launch import launch
from tokkit.pretraining.training.launch_info import LaunchInfo, detect_launcher, log_on_first_rank
from tokkit.pretraining.training.run_plan import RunPlan, require_model
from tokkit.pretraining.training.run_record import KIND, find_run
from tokkit.tokenizer.hub_names import WEIGHT_FILES, find_folder

log = logging.getLogger(__name__)


def pretrain(config: PretrainConfig) -> Manifest:
    """Train a model and export it, resuming from the newest checkpoint if there is one.

    Args:
        config: options of the run.

    Returns:
        The manifest of the run folder; its shards are the files of the export.

    Raises:
        UsageError: if the run folder is an input, or an option has no effect.
        TokkitError: if instances, options and run folder do not match, torch or the device is
            missing, or the loss is not finite.
        Interrupted: after SIGINT or SIGTERM, when the current step has been saved.
    """
    launch_info = detect_launcher(os.environ, config.nproc_per_node)
    with log_on_first_rank(launch_info):
        _check_extras(config)
        config = _find_initial_model(config)
        plan = RunPlan.from_config(config)
        _count_processes(config, launch_info)
        is_pushing = config.push_to_hub is not None and launch_info.is_first
        if is_pushing:
            create_repository(str(config.push_to_hub))
        manifest = _train(plan, launch_info)
        if is_pushing:
            upload_export(config.output, str(config.push_to_hub), config.model_license)
        return manifest


def _train(plan: RunPlan, launch_info: LaunchInfo) -> Manifest:
    """Train unless the run has finished; see ``pretrain``."""
    config = plan.config
    if not config.overwrite and (finished := find_finished(plan.spec)) is not None:
        log.info("%s: up to date", config.output)
        return finished
    _require_libraries()
    if (config.nproc_per_node or 1) > 1:
        launch(pretrain, replace(config, push_to_hub=None, model_license=None))
        return Manifest.read(config.output, KIND)
    from tokkit.pretraining.training.train_model import train

    return train(plan, launch_info)


def check_before_build(config: PretrainConfig, objective: str, max_seq_length: int) -> None:
    """Refuse faults of a run that can be detected before its first instance folder is built.

    Args:
        config: options of the run.
        objective: objective of these instances.
        max_seq_length: maximum length of these instances.

    Raises:
        UsageError: see ``pretrain``.
        TokkitError: if another folder, a model or a run that the options name cannot be used.
    """
    _check_extras(config)
    _require_libraries()
    require_model(config, objective, max_seq_length)
    for folder in config.folders[1:]:
        pull(folder)
        Manifest.read(folder, "instances")
    if config.init_from is not None:
        read_family(find_folder(config.init_from, WEIGHT_FILES))
    if config.origin_path is not None:
        find_run(config.origin_path)


def _check_extras(config: PretrainConfig) -> None:
    if config.tracker is not None:
        require_library(config.tracker, f"--tracker {config.tracker}", config.tracker)
    if config.push_to_hub is not None:
        require_library("huggingface_hub", "--push-to-hub", "hub")
        check_repository_name(config.push_to_hub)


def estimate_run(config: PretrainConfig) -> dict[str, Any]:
    """Return what a run needs and how long it takes, see ``measure_run``; nothing is written.

    Raises:
        UsageError: see ``pretrain``.
        TokkitError: see ``pretrain``.
    """
    launch_info = detect_launcher(os.environ, config.nproc_per_node)
    config = _find_initial_model(config)
    plan = RunPlan.from_config(config)
    num_processes = _count_processes(config, launch_info)
    _require_libraries()
    from tokkit.pretraining.training.estimate import measure_run

    return measure_run(plan, num_processes)


def _find_initial_model(config: PretrainConfig) -> PretrainConfig:
    """Return the config with the folder of ``init_from``, which may be a name on the Hub."""
    if config.init_from is None:
        return config
    return replace(config, init_from=find_folder(config.init_from, WEIGHT_FILES))


def _count_processes(config: PretrainConfig, launch_info: LaunchInfo) -> int:
    """Return the number of processes, and refuse options that do not fit it."""
    num_processes = config.nproc_per_node or launch_info.size
    require(
        not config.fsdp or num_processes > 1,
        "--fsdp has no effect on a single process, which keeps the whole model; leave it out, or "
        "start several with --nproc-per-node",
    )
    for size in config.all_batch_sizes:
        require(
            size % num_processes == 0,
            f"--batch-size {size} cannot be divided among {num_processes} processes; choose a "
            f"multiple of {num_processes}",
        )
    return num_processes


def _require_libraries() -> None:
    require_library("torch", "pretraining", "pretrain")
    require_library("safetensors", "pretraining", "pretrain")
