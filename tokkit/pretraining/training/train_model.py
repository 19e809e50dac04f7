"""One process of a run, from the instances to the exported model.

All processes of a run do the same, each on its part of every batch. Only the first writes: it holds
the lock of the run folder, and the others wait for it where that matters.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace

from torch import Tensor

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import write_json
from tokkit.engine.folder import interruptible
from tokkit.engine.manifest import Manifest
from tokkit.engine.spec import locked_folder, prepare_folder
from tokkit.pretraining.models.export import write_export
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.checkpoints import TrainingState
from tokkit.pretraining.training.device import (
    choose_precision,
    describe_device,
    find_peak_flops,
    torch_settings,
)
from tokkit.pretraining.training.distributed import (
    choose_rank_device,
    full_tensors,
    join_process_group,
)
from tokkit.pretraining.training.estimate import (
    count_flops_per_token,
    count_parameters,
    sample_instances,
)
from tokkit.pretraining.training.launch_info import LaunchInfo
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.reporting import MetricScale, Reporter, require_tensorboard
from tokkit.pretraining.training.run_record import (
    EXPORT,
    KIND,
    RUN,
    RunPlan,
    describe_run,
)
from tokkit.pretraining.training.setup import TrainingSetup, open_loaders, set_up


def train(plan: RunPlan, launch_info: LaunchInfo) -> Manifest:
    """Train this process's part of a run.

    Args:
        plan: what is trained.
        launch_info: which of the processes this one is.

    Returns:
        The manifest of the run folder.

    Raises:
        TokkitError: see ``pretrain``.
        Interrupted: see ``pretrain``.
    """
    if plan.config.tensorboard:
        require_tensorboard()
    device = choose_rank_device(plan.config.device, launch_info)
    plan = replace(plan, precision=choose_precision(plan.precision, device))
    config = replace(plan.config, precision=plan.precision)
    with ExitStack() as stack:
        if launch_info.is_first:
            stack.enter_context(locked_folder(plan.spec, overwrite=config.overwrite))
        else:
            stack.enter_context(interruptible(config.output))
        group = stack.enter_context(join_process_group(config, launch_info))
        stack.enter_context(torch_settings(config, group.device))
        setup = stack.enter_context(set_up(config, group))
        if group.is_first:
            # Only now, so that a mistake in the options deletes nothing.
            prepare_folder(plan.spec, overwrite=config.overwrite)
        trainer = Trainer(config, setup)
        trainer.resume()
        if group.is_first:
            _write_run_record(plan, setup)
        reporter = Reporter(
            config,
            setup.sources.objective,
            trainer.state,
            _find_scale(config, setup),
            enabled=group.is_first,
        )
        with reporter:
            state = trainer.run(reporter)
        weights = full_tensors(setup.model.state_dict())
        if group.is_first:
            _write_results(plan, setup, state, weights)
        group.barrier()
        return Manifest.read(config.output, KIND)


def _find_scale(config: PretrainConfig, setup: TrainingSetup) -> MetricScale:
    """Return what the metrics of a run are relative to."""
    group = setup.group
    num_instances = [loader.num_instances for loader in setup.loaders]
    peak = find_peak_flops(group.device)
    if peak is None or config.precision != "bf16":
        return MetricScale(num_instances)
    loaders = open_loaders(config, setup.sources, replace(group, rank=0, size=1))
    samples = [sample_instances(loader, config.batch_size) for loader in loaders]
    flops = [count_flops_per_token(setup.model, sample) for sample in samples]
    return MetricScale(num_instances, flops, peak * group.size)


def _write_run_record(plan: RunPlan, setup: TrainingSetup) -> None:
    write_json(
        plan.config.output / RUN,
        describe_run(
            plan.config,
            plan.sources,
            model=asdict(setup.model.config),
            num_parameters=count_parameters(setup.model)["total"],
            device=describe_device(setup.group.device),
            num_processes=setup.group.size,
            initial=plan.initial,
        ),
    )


def _write_results(
    plan: RunPlan, setup: TrainingSetup, state: TrainingState, weights: Mapping[str, Tensor]
) -> None:
    """Write the exported model, then the manifest."""
    config = plan.config
    files = write_export(
        config.output / EXPORT, weights, setup.model.config, setup.sources.tokenizer
    )
    accounts = Accounts()
    accounts.count("parameters", count_parameters(setup.model)["total"])
    accounts.count("steps", state.step)
    accounts.count("instances", state.step * config.batch_size)
    accounts.count("tokens", state.tokens)
    shards = [{**row, "name": f"{EXPORT}/{row['name']}"} for row in files]
    manifest = plan.spec.make_manifest(inputs=plan.inputs, shards=shards, accounts=accounts)
    manifest.write(config.output)
