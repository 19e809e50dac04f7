"""One process of a run, from the instances to the exported model.

The processes of a run do the same, each on its part of every batch. The first alone writes: it holds
the folder's lock, and the others wait for it where that matters.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace

from torch import Tensor

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import write_json
from tokkit.engine.folder import interruptible
from tokkit.engine.manifest import Manifest
from tokkit.engine.spec import begin, locked_folder
from tokkit.pretraining.models.build_model import Model
from tokkit.pretraining.models.export import write_export
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.checkpoints import State
from tokkit.pretraining.training.device import (
    choose_precision,
    describe_device,
    find_peak_flops,
    torch_settings,
)
from tokkit.pretraining.training.distributed import ProcessGroup, full_tensors, join_process_group
from tokkit.pretraining.training.estimate import count_flops_per_token, sample_instances
from tokkit.pretraining.training.launch_info import LaunchInfo
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.reporting import Reporter, Scale, require_tensorboard
from tokkit.pretraining.training.run_record import (
    EXPORT,
    KIND,
    RUN,
    Plan,
    describe_run,
)
from tokkit.pretraining.training.setup import Setup, open_loaders, set_up


def train(plan: Plan, launch_info: LaunchInfo) -> Manifest:
    """Train this process's part of a run.

    Args:
        plan: of the run.
        launch_info: which of the processes this one is.

    Returns:
        The run folder's manifest.

    Raises:
        TokkitError: see ``pretrain``.
        Interrupted: likewise.
    """
    config = plan.config
    if config.tensorboard:
        require_tensorboard()
    with ExitStack() as stack:
        if launch_info.is_first:
            stack.enter_context(locked_folder(plan.outline, overwrite=config.overwrite))
        stack.enter_context(interruptible(config.output))
        group = stack.enter_context(join_process_group(config, launch_info))
        stack.enter_context(torch_settings(config, group.device))
        setup = stack.enter_context(set_up(config, group))
        if group.is_first:
            begin(
                plan.outline, overwrite=config.overwrite
            )  # not before: a mistake in the options clears nothing
        trainer = Trainer(config, setup)
        if group.is_first:
            _write_run(plan, setup, group)
        reporter = Reporter(
            config,
            setup.sources.objective,
            trainer.state,
            _find_scale(config, setup, group),
            enabled=group.is_first,
        )
        with reporter:
            state = trainer.run(reporter)
        weights = full_tensors(setup.model.state_dict())
        if group.is_first:
            _finish(plan, setup, state, weights)
        group.barrier()
        return Manifest.read(config.output, KIND)


def _find_scale(config: PretrainConfig, setup: Setup, group: ProcessGroup) -> Scale:
    """Return what the figures of a run are measured by."""
    num_instances = [loader.num_instances for loader in setup.loaders]
    peak = find_peak_flops(group.device)
    if peak is None or choose_precision(config.precision, group.device) != "bf16":
        return Scale(num_instances)
    causal = setup.sources.is_causal
    loaders = open_loaders(config, setup.sources, replace(group, rank=0, size=1))
    samples = [sample_instances(loader, config.batch_size, causal=causal) for loader in loaders]
    flops = [count_flops_per_token(setup.model.config, sample) for sample in samples]
    return Scale(num_instances, flops, peak * group.size)


def _write_run(plan: Plan, setup: Setup, group: ProcessGroup) -> None:
    write_json(
        plan.config.output / RUN,
        describe_run(
            plan.config,
            plan.sources,
            model=asdict(setup.model.config),
            num_parameters=_count_parameters(setup.model),
            device=describe_device(group.device),
            num_processes=group.size,
            initial=plan.initial,
        ),
    )


def _finish(plan: Plan, setup: Setup, state: State, weights: Mapping[str, Tensor]) -> None:
    """Export the model and say that the run is done."""
    config = plan.config
    files = write_export(
        config.output / EXPORT, weights, setup.model.config, setup.sources.tokenizer
    )
    accounts = Accounts()
    accounts.count("parameters", _count_parameters(setup.model))
    accounts.count("steps", state.step)
    accounts.count("instances", state.step * config.batch_size)
    accounts.count("tokens", state.tokens)
    Manifest(
        kind=KIND,
        key=plan.outline.key,
        options=dict(plan.outline.options),
        seed=config.seed,
        tokenizer_fingerprint=plan.sources[0].tokenizer_fingerprint,
        inputs=plan.inputs,
        shards=[{**row, "name": f"{EXPORT}/{row['name']}"} for row in files],
        accounts=accounts.as_dict(),
    ).write(config.output)


def _count_parameters(model: Model) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
