"""``pretrain``: from instance folders to a run folder with a trained model.

run/run.json                     see tokkit.pretraining.training.run_record
    metrics.jsonl                see tokkit.pretraining.training.metrics
    tensorboard/                 see tokkit.pretraining.training.trackers
    checkpoints/step-00001000/   see tokkit.pretraining.training.checkpoints
    export/                      see tokkit.pretraining.models.export
    manifest.json                written last, when the run has finished

With ``--push-to-hub``, the export goes to the Hugging Face Hub, with a model card. The repository is made when the run starts, so that a name that is taken, a missing token or a Hub that
does not answer costs no training; it is private until its owner makes it public. Token and endpoint
are those of huggingface_hub. The card is Markdown, of what the run folder says; paths of this machine
are left out of it.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tokkit import __version__
from tokkit.engine.json_files import read_json
from tokkit.engine.manifest import Manifest
from tokkit.engine.mirrors import pull
from tokkit.engine.spec import find_finished
from tokkit.errors import TokkitError, UsageError, plural, require, require_library
from tokkit.pretraining.models.model_folder import CONFIG, read_family
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.launch import launch
from tokkit.pretraining.training.launch_info import LaunchInfo, detect_launcher, log_on_first_rank
from tokkit.pretraining.training.run_plan import RunPlan, require_model
from tokkit.pretraining.training.run_record import (
    EXPORT,
    KIND,
    METRICS,
    find_run,
    read_metrics,
    read_run,
)
from tokkit.tokenizer.hub_names import WEIGHT_FILES, find_folder

MAX_ROWS = 20  # of the curves


def check_repository_name(name: str) -> None:
    """Refuse a name that no repository can have.

    Raises:
        UsageError: with what huggingface_hub finds wrong.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(
            f"--push-to-hub {name}: is no name on the Hugging Face Hub, such as owner/name: {error}"
        ) from error


def create_repository(name: str) -> None:
    """Make a private repository for models, unless it is there.

    Raises:
        TokkitError: if the Hub refuses it, or does not answer.
    """
    from huggingface_hub import HfApi

    _call(name, lambda: HfApi().create_repo(name, private=True, exist_ok=True), "")


def upload_export(folder: Path, name: str, license_id: str | None) -> None:
    """Upload the export of a finished run, and its card, as one commit.

    Args:
        folder: run folder.
        name: of the repository.
        license_id: of the model, as the Hub writes it; None if it is not known.

    Raises:
        TokkitError: if the Hub refuses it, or does not answer.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    card = "\n".join(describe_model_card(folder, name, license_id)) + "\n"
    files = {path.name: path for path in sorted((folder / EXPORT).iterdir())}
    operations = [
        CommitOperationAdd(path_in_repo=file, path_or_fileobj=content)
        for file, content in {**files, "README.md": card.encode()}.items()
    ]
    _call(
        name,
        lambda: HfApi().create_commit(name, operations, commit_message=f"tokkit {__version__}"),
        "the run is finished; run the same command again to upload it",
    )


def _call(name: str, work: Callable[[], object], remedy: str) -> None:
    try:
        work()
    except Exception as error:
        lines = str(error).strip().splitlines() or [""]
        remedy = remedy or "log in with: hf auth login, or leave --push-to-hub out"
        raise TokkitError(
            f"--push-to-hub {name}: {type(error).__name__}: {lines[0]}; {remedy}"
        ) from error


def describe_model_card(folder: Path, name: str, license_id: str | None) -> Iterator[str]:
    """Yield the lines of a finished run's model card; see ``upload_export``."""
    record, config = read_run(folder)
    manifest = Manifest.read(folder)
    model: dict[str, Any] = read_json(folder / EXPORT / CONFIG, dict[str, Any])
    license_id = license_id or "unknown"
    steps, tokens = (manifest.accounts["figures"][name] for name in ("steps", "tokens"))
    yield from (
        "---",
        f"license: {license_id}",
        "library_name: transformers",
        "tags: [tokkit]",
        "---",
    )
    yield f"# {name}\n"
    yield f"{model['architectures'][0]} with {record['num_parameters']:,} parameters, pretrained with"
    yield f"tokkit {__version__} for {plural(steps, 'step')} on {tokens:,} tokens.\n\n## Architecture\n"
    yield from _table(("field", "value"), sorted(record["model"].items()))
    yield "\n## Data\n"
    rows = [
        (path.name, key) for path, key in zip(config.folders, record["instances_keys"], strict=True)
    ]
    yield from _table(("instances", "content key"), rows)
    yield f"\nTokenizer: SHA-256 {record['tokenizer_fingerprint']}\n\n## Options\n"
    options = {**manifest.options, "seed": manifest.seed}
    given = [
        (name, value)
        for name, value in options.items()
        if value not in (None, []) and value is not False
    ]
    yield from _table(("option", "value"), given)
    lines = [line for line in read_metrics(folder / METRICS) if line["kind"] == "eval"]
    yield "\n## Held-out metrics\n"
    if lines:
        kept = {round(n * (len(lines) - 1) / (MAX_ROWS - 1)) for n in range(MAX_ROWS)}
        names = [name for name in lines[-1] if name != "kind"]
        yield from _table(names, [[lines[n][name] for name in names] for n in sorted(kept)])
    else:
        yield "No instances were held out."
    yield f"\n## Licence\n\n{license_id}"


def _table(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(names)} |"
    yield "|---" * len(names) + "|"
    for row in rows:
        cells = (f"{cell:.4g}" if isinstance(cell, float) else f"{cell}" for cell in row)
        yield f"| {' | '.join(cells)} |"


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
            missing, or the loss is no longer finite.
        Interrupted: after SIGINT or SIGTERM, when the current step is saved.
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
    """Refuse what is known to be wrong with a run before its first instance folder is built.

    Args:
        config: options of the run.
        objective: of the instances that are still to be built.
        max_seq_length: the same.

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
    """Return the number of processes; refuse options that do not fit it."""
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
