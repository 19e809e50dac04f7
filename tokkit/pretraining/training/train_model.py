"""One process of a run, from the instances to the exported model.

All processes execute the same code, each on its part of every batch. Only the first writes: it holds
the lock of the run folder, and the others wait for it where that matters.
"""

import math
import operator
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from tokkit.engine.accounts import Accounts
from tokkit.engine.folder import interruptible
from tokkit.engine.json_files import FileRow, write_json
from tokkit.engine.manifest import Manifest
from tokkit.engine.mirrors import push_folder
from tokkit.engine.spec import locked_folder, prepare_folder
from tokkit.errors import Interrupted, TokkitError, require
from tokkit.pretraining.data.instance_sources import Sources, divide_phases, open_sources
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.prefetcher import Prefetcher
from tokkit.pretraining.models.architectures import ARCHITECTURES, build_model, read_shape
from tokkit.pretraining.models.export import write_export
from tokkit.pretraining.models.initial_weights import InitialWeights, read_initial_weights
from tokkit.pretraining.models.model_files import read_family
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.pretraining.training.device import (
    choose_precision,
    describe_device,
    find_available_memory,
    is_compiled,
    require_triton,
    seed_torch,
    torch_settings,
)
from tokkit.pretraining.training.distributed import (
    ProcessGroup,
    choose_rank_device,
    compile_model,
    distribute,
    gather_tensors,
    join_process_group,
)
from tokkit.pretraining.training.launch_info import LaunchInfo
from tokkit.pretraining.training.loop import Trainer
from tokkit.pretraining.training.metrics import count_parameters
from tokkit.pretraining.training.optimizers import build_optimizer
from tokkit.pretraining.training.run_plan import RunPlan, describe_run, family_of
from tokkit.pretraining.training.run_record import EXPORT, KIND, RUN
from tokkit.pretraining.training.schedule import Origin, Schedule

MICRO_BATCH_TOKENS = 16_384  # on a CPU
MAX_TOKENS = 1 << 17  # on a GPU, unless an option says more


def train(plan: RunPlan, launch_info: LaunchInfo) -> Manifest:
    """Train this process's part of a run.

    Args:
        plan: the run.
        launch_info: which of the processes this one is.

    Returns:
        The manifest of the run folder.

    Raises:
        TokkitError: see ``pretrain``.
        Interrupted: see ``pretrain``.
    """
    device = choose_rank_device(plan.config.device, launch_info)
    precision = choose_precision(plan.precision, device)
    if precision == "fp16" and plan.config.fsdp:  # only auto chooses this
        precision = "fp32"
    require(
        precision != "fp16" or device.type != "mps",
        "--precision fp16 is for CUDA devices and CPUs; use --precision fp32",
    )
    plan = replace(plan, precision=precision)
    config = replace(plan.config, precision=plan.precision)
    with ExitStack() as stack:
        if launch_info.is_first:
            lock = stack.enter_context(locked_folder(plan.spec, overwrite=config.overwrite))
        else:
            stack.enter_context(interruptible(config.output))
        group = stack.enter_context(join_process_group(config, launch_info))
        stack.enter_context(torch_settings(config, group.device))
        sources = open_sources(config)
        use = "the model alone; choose a smaller one, or split it among GPUs with --fsdp"
        try:
            trainer = stack.enter_context(
                open_trainer(config, sources, group, plan.origin, plan.model)
            )
            if group.is_first:
                # Not before, so that a mistake in the options deletes nothing.
                prepare_folder(plan.spec, lock, overwrite=config.overwrite)
            trainer.resume()
            if group.is_first:
                _write_run_record(plan, trainer)
            tokens = trainer.prefetcher.micro_batch_tokens
            use = f"{tokens:,} tokens at once; pass a smaller --micro-batch-tokens"
            trainer.run()
        except torch.OutOfMemoryError as error:
            place = f"{config.output}: {describe_device(group.device)}"
            raise TokkitError(f"{place}: out of memory with {use}") from error
        except Exception as error:
            # torch's compiler wraps the exceptions that end it, a second Ctrl-C among them.
            if isinstance(inner := getattr(error, "inner_exception", None), Interrupted):
                raise inner from error
            raise
        weights = gather_tensors(trainer.model.state_dict())
        if group.is_first:
            _write_results(plan, sources, trainer, weights)
        group.barrier()
        return Manifest.read(config.output, KIND)


@contextmanager
def open_trainer(
    config: PretrainConfig,
    sources: Sources,
    group: ProcessGroup,
    origin: Origin | None = None,
    model_shape: Mapping[str, Any] | None = None,
) -> Iterator[Trainer]:
    """Open batches, model and optimizer in their initial state.

    Args:
        config: options of the run.
        sources: instances of the run.
        group: processes of the run.
        origin: where the run begins; by default as a new run.
        model_shape: see ``choose_model``.

    Raises:
        UsageError: if options contradict each other or the instances.
        TokkitError: if instance folders are damaged or do not match.
    """
    schedule = make_schedule(config, sources, origin)
    loaders = open_loaders(config, sources, group, schedule)
    model_config, initial = choose_model(config, sources, model_shape)
    seed_torch(config.seed, "weights")
    model = build_model(model_config)
    if initial is not None:
        initial.load_into(model)
    model.to(group.device)
    compiled = is_compiled(config.compile, group.device)
    if config.kernels == "triton":
        require_triton(group.device, compiled=compiled)
        from tokkit.pretraining.models.fused import fuse_layers

        fuse_layers(model)
    if compiled:
        compile_model(model)
    # All processes must have the same number of micro-batches.
    tokens = config.micro_batch_tokens or group.broadcast(
        choose_micro_batch_tokens(model, find_available_memory(group.device), group.device)
    )
    wrapped_model = distribute(model, group, fsdp=config.fsdp)
    with Prefetcher(
        loaders, micro_batch_tokens=tokens, static=compiled, pin=group.device.type == "cuda"
    ) as prefetcher:
        yield Trainer(
            config=config,
            schedule=schedule,
            group=group,
            loaders=loaders,
            prefetcher=prefetcher,
            model=model,
            wrapped_model=wrapped_model,
            optimizer=build_optimizer(model, config),
        )


def choose_micro_batch_tokens(
    model: Transformer, available: int | None, device: torch.device
) -> int:
    """Return the default of ``--micro-batch-tokens``.

    A layer keeps 34 bytes per token and hidden unit in bf16 (Korthikanti et al. 2022,
    arXiv:2205.05198, section 4.1; flash attention keeps no scores), and twice that in fp32. Of the
    memory that weights, gradients and moments leave free, 30% is reserved for logits and temporaries.

    Args:
        model: model on its device.
        available: free bytes of the device; None if unknown.
        device: device of the model.
    """
    if device.type != "cuda" or available is None:
        return MICRO_BATCH_TOKENS
    size = 34 if choose_precision("auto", device) != "fp32" else 68
    layers = max(model.config.num_hidden_layers, len(model.list_layers()))
    rest = available - 3 * 4 * count_parameters(model)["total"]
    room = max(0.7 * rest / (size * layers * model.config.hidden_size), MAX_TOKENS / 64)
    return int(min(1 << int(math.log2(room)), MAX_TOKENS))


def make_schedule(
    config: PretrainConfig, sources: Sources, origin: Origin | None = None
) -> Schedule:
    """Return the schedule of a run; a warm-up in tokens uses the mean length of the instances."""
    schedule = Schedule.from_config(config, origin)
    if config.warmup_tokens is None:
        return schedule
    means = [
        sum(map(operator.mul, own.weights or (1.0,), part.mean_tokens))
        for part, own in divide_phases(config, sources)
    ]
    return schedule.with_warmup_tokens(config.warmup_tokens, means)


def open_loaders(
    config: PretrainConfig, sources: Sources, group: ProcessGroup, schedule: Schedule
) -> tuple[Loader, ...]:
    """Return the loader of each phase; a run without phases has one."""
    return tuple(
        Loader(part, own, schedule.batch_sizes(phase), rank=group.rank, world_size=group.size)
        for phase, (part, own) in enumerate(divide_phases(config, sources))
    )


def choose_model(
    config: PretrainConfig, sources: Sources, shape: Mapping[str, Any] | None = None
) -> tuple[ModelConfig, InitialWeights | None]:
    """Return the shape of the model, and the weights of ``init_from`` if it is given.

    Args:
        config: options of the run.
        sources: instances of the run.
        shape: shape of the model of the run that this one continues, if any.
    """
    if shape is not None:
        model_config = read_shape(shape, config.origin_path or config.output)
        dropout = config.choose_dropout(family_of(shape))
        length = max(model_config.max_position_embeddings, sources.max_seq_length)
        return replace(
            model_config,
            hidden_dropout_prob=dropout,
            attention_probs_dropout_prob=dropout,
            max_position_embeddings=length,
        ), None
    if config.init_from is not None:
        initial = read_initial_weights(
            config.init_from,
            sources.tokenizer,
            objective=sources.objective,
            max_seq_length=sources.max_seq_length,
            dropout=config.choose_dropout(read_family(config.init_from)),
            extend_positions=config.extend_positions,
        )
        return initial.config, initial
    family = config.choose_family(sources.objective)
    fresh = ARCHITECTURES["albert" if config.share_layers else family].config_class.from_preset(
        config.choose_preset(family),
        vocab_size=sources.tokenizer.vocab_size,
        max_seq_length=sources.max_seq_length,
        dropout=config.choose_dropout(family),
        objective=sources.objective,
    )
    return fresh.fit(sources.tokenizer), None


def _write_run_record(plan: RunPlan, trainer: Trainer) -> None:
    shape = trainer.model.config
    write_json(
        plan.config.output / RUN,
        describe_run(
            plan,
            model={"model_type": shape.model_type, **asdict(shape)},  # see ``read_shape``
            num_parameters=count_parameters(trainer.model)["total"],
            device=describe_device(trainer.group.device),
            num_processes=trainer.group.size,
        ),
    )


def _write_results(
    plan: RunPlan, sources: Sources, trainer: Trainer, weights: Mapping[str, Tensor]
) -> None:
    """Write the exported model, then the manifest."""
    config, state = plan.config, trainer.state
    files = write_export(config.output / EXPORT, weights, trainer.model.config, sources.tokenizer)
    accounts = Accounts()
    accounts.count("parameters", count_parameters(trainer.model)["total"])
    accounts.count("steps", state.step)
    accounts.count("instances", state.instances)
    accounts.count("tokens", state.tokens)
    shards: list[FileRow] = [{**row, "name": f"{EXPORT}/{row['name']}"} for row in files]
    manifest = plan.spec.make_manifest(inputs=plan.inputs, shards=shards, accounts=accounts)
    push_folder(config.output)
    manifest.write(config.output)
