"""One process of a run, from the instances to the exported model.

The processes of a run do the same, each on its part of every batch. The first alone writes: it holds
the folder's lock, and the others wait for it where that matters.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict

import torch
from torch import Tensor

from tokkit.engine.accounts import Accounts
from tokkit.engine.files import FolderLock, write_json
from tokkit.engine.folder import refuse_foreign
from tokkit.engine.manifest import Manifest
from tokkit.engine.signals import interruptible
from tokkit.pretraining.device import choose_precision, describe_device, torch_settings
from tokkit.pretraining.distribute import full_tensors
from tokkit.pretraining.events import require_tensorboard
from tokkit.pretraining.export import write_export
from tokkit.pretraining.facts import RUN, describe_run
from tokkit.pretraining.flops import find_peak_flops
from tokkit.pretraining.loop import Trainer
from tokkit.pretraining.place import Place
from tokkit.pretraining.plan import EXPORT, KIND, Plan, prepare_folder
from tokkit.pretraining.reporting import Reporter, Scale
from tokkit.pretraining.setup import Setup, set_up
from tokkit.pretraining.state import State
from tokkit.pretraining.world import World, open_world


def train(plan: Plan, place: Place) -> Manifest:
    """Train this process's part of a run.

    Args:
        plan: of the run.
        place: of this process among all.

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
        if place.is_first:
            refuse_foreign(config.output)
            stack.enter_context(FolderLock(config.output))
        stack.enter_context(interruptible(config.output))
        if place.is_first:
            prepare_folder(plan)
        world = stack.enter_context(open_world(config, place))
        stack.enter_context(torch_settings(config, world.device))
        setup = stack.enter_context(set_up(config, world))
        trainer = Trainer(config, setup)
        if world.is_first:
            _write_run(plan, setup, world)
        with Reporter(config, setup, trainer.state, _measure(config, setup, world)) as reporter:
            state = trainer.run(reporter)
        weights = full_tensors(setup.model.state_dict())
        if world.is_first:
            _finish(plan, setup, state, weights)
        world.barrier()
        return Manifest.read(config.output, KIND)


def forecast_run(plan: Plan) -> Forecast:
    """Foretell a run: its steps are timed with the model and instances that it would have."""
    config = plan.config
    place = Place(size=1)
    with open_world(config, place) as world, torch_settings(config, world.device):
        sources = open_sources(config)
        loaders = open_loaders(config, sources, world)
        with ExitStack() as stack:
            timer = StepTimer(config, world, stack)
            return forecast(
                config,
                outline_model(describe_model_of(config, sources)),
                [sample_instances(l, config.batch_size, causal=sources.is_causal) for l in loaders],
                device=world.device,
                is_half=choose_precision(config.precision, world.device) == "bf16",
                num_processes=config.nproc_per_node or 1,
                time_step=timer.time_step,
            )


def _measure(config: PretrainConfig, setup: Setup, world: World) -> Scale:
    """By what the figures of a run are measured."""
    is_half = choose_precision(config.precision, world.device) == "bf16"
    peak = None
    if is_half and world.device.type == "cuda":
        peak = find_peak_flops(torch.cuda.get_device_name(world.device))
    shape, causal = setup.model.config, setup.sources.is_causal
    flops = []
    if peak is not None:
        samples = [sample_instances(loader, setup.stepper)]
    return Scale(...)
