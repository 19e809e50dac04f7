"""Everything that training needs, opened and put together: batches, model and optimizer."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from torch import nn
from torch.optim import Optimizer

from tokkit.pretraining.data.loader import Loader, Sources, open_sources, order_phases
from tokkit.pretraining.data.prefetcher import Prefetcher
from tokkit.pretraining.models.architectures import build_model
from tokkit.pretraining.models.initial_weights import InitialWeights, read_initial_weights
from tokkit.pretraining.models.transformer import ModelConfig, Transformer
from tokkit.pretraining.pretrain_config import DEFAULT_PRESET, PretrainConfig
from tokkit.pretraining.training.device import is_compiled, seed_torch
from tokkit.pretraining.training.distributed import ProcessGroup, compile_model, distribute
from tokkit.pretraining.training.optimizers import build_optimizer


@dataclass(frozen=True)
class TrainingSetup:
    """What a run trains, and with what.

    Attributes:
        group: processes that share the run.
        sources: instance folders.
        loaders: one for each phase; without phases one for all folders.
        prefetcher: prepares this process's batches.
        model: has the names of weights that checkpoints and exports use.
        wrapped_model: ``model`` as all processes train it; it is this one that is called.
        optimizer: optimizer of its weights.
    """

    group: ProcessGroup
    sources: Sources
    loaders: tuple[Loader, ...]
    prefetcher: Prefetcher
    model: Transformer
    wrapped_model: nn.Module
    optimizer: Optimizer


@contextmanager
def set_up(config: PretrainConfig, group: ProcessGroup) -> Iterator[TrainingSetup]:
    """Put a run together in its initial state.

    Raises:
        UsageError: if options contradict each other or the instances.
        TokkitError: if instance folders are damaged or do not match.
    """
    sources = open_sources(config)
    loaders = open_loaders(config, sources, group)
    model = _make_model(config, sources).to(group.device)
    compiled = is_compiled(config.compile, group.device)
    if compiled:
        compile_model(model)
    wrapped_model = distribute(model, group, fsdp=config.fsdp)
    optimizer = build_optimizer(model, config)
    with Prefetcher(
        loaders,
        micro_batch_tokens=config.micro_batch_tokens,
        static=compiled,
        pin=group.device.type == "cuda",
    ) as prefetcher:
        yield TrainingSetup(group, sources, loaders, prefetcher, model, wrapped_model, optimizer)


def open_loaders(
    config: PretrainConfig, sources: Sources, group: ProcessGroup
) -> tuple[Loader, ...]:
    """Return the loader of each phase; without phases one for all folders."""
    parts = [sources]
    if config.phases:
        parts = [sources.folder(number) for number in order_phases(config, sources)]
    return tuple(Loader(part, config, rank=group.rank, world_size=group.size) for part in parts)


def _make_model(config: PretrainConfig, sources: Sources) -> Transformer:
    """Return the model that the options ask for with its initial weights, on the CPU."""
    model_config, initial = choose_model(config, sources)
    seed_torch(config.seed, "weights")
    model = build_model(model_config)
    if initial is not None:
        initial.load_into(model)
    return model


def choose_model(
    config: PretrainConfig, sources: Sources
) -> tuple[ModelConfig, InitialWeights | None]:
    """Return the shape of the model, and the weights of ``init_from`` if it is given."""
    if config.init_from is not None:
        initial = read_initial_weights(
            config.init_from,
            sources.tokenizer,
            objective=sources.objective,
            max_seq_length=sources.max_seq_length,
            dropout=config.dropout,
        )
        return initial.config, initial
    model_config = ModelConfig.from_preset(
        config.preset or DEFAULT_PRESET,
        vocab_size=sources.tokenizer.vocab_size,
        max_seq_length=sources.max_seq_length,
        dropout=config.dropout,
        objective=sources.objective,
        share_layers=config.share_layers,
    )
    return model_config, None
