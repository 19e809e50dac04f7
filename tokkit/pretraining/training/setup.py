"""All parts of a run put together: instances, model and optimizer, ready to take steps."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tokkit.pretraining.data.batches import Batch
from tokkit.pretraining.data.instance_sources import Sources, open_sources, order_phases
from tokkit.pretraining.data.loader import Loader
from tokkit.pretraining.data.prefetcher import Prefetcher
from tokkit.pretraining.models.bert import ModelConfig
from tokkit.pretraining.models.build_model import Model, build_model
from tokkit.pretraining.models.initial_weights import Initial, read_initial
from tokkit.pretraining.pretrain_config import DEFAULT_PRESET, PretrainConfig
from tokkit.pretraining.training.device import is_compiled, seed_torch
from tokkit.pretraining.training.distributed import ProcessGroup, compile_model, distribute
from tokkit.pretraining.training.optimizers import build_optimizer
from tokkit.pretraining.training.step import Figures, Stepper


@dataclass(frozen=True)
class Setup:
    """What a run works with.

    Attributes:
        sources: the instance folders.
        loaders: one for each phase; without phases one of all folders.
        feed: of this process's batches.
        model: whose names checkpoints and exports have.
        stepper: trains it.
    """

    sources: Sources
    loaders: tuple[Loader, ...]
    feed: Prefetcher
    model: Model
    stepper: Stepper

    def take_step(
        self, step: int, rate: float, *, phase: int = 0, number: int = 0
    ) -> tuple[tuple[Batch, ...], list[float], Figures]:
        """Take one update.

        Args:
            step: its number in the run, of which its dropout is a function.
            rate: of learning.
            phase: whose batch it takes, and
            number: which of them.

        Returns:
            This process's micro-batches, on the CPU, which hold for this step and the next; the
            predicted tokens, labelled pairs and tokens of the whole step; and what it found.
        """
        group = self.stepper.group
        batches = self.feed.next_batches(phase, number)
        counts = group.sum(
            [
                sum(batch.num_predicted for batch in batches),
                sum(batch.num_pairs for batch in batches),
                sum(batch.num_tokens for batch in batches),
            ]
        )
        on_device = [batch.to(group.device) for batch in batches]
        self.feed.mark_copied()
        return batches, counts, self.stepper.take(step, on_device, counts[:2], rate)


@contextmanager
def set_up(config: PretrainConfig, group: ProcessGroup) -> Iterator[Setup]:
    """Put a run together as it begins.

    Args:
        config: of the run.
        group: the processes that share it.

    Raises:
        UsageError: where options do not go together.
        TokkitError: where folders are damaged or do not go together.
    """
    sources = open_sources(config)
    loaders = open_loaders(config, sources, group)
    model = make_model(config, sources).to(group.device)
    compiled = is_compiled(config.compile, group.device)
    if compiled:
        compile_model(model)
    trained = distribute(model, group, fsdp=config.fsdp)
    stepper = Stepper(config, trained, build_optimizer(model, config), group)
    feed = Prefetcher(
        loaders,
        sources.pad_id,
        micro_batch_tokens=config.micro_batch_tokens,
        static=compiled,
        causal=sources.is_causal,
        pin=group.device.type == "cuda",
    )
    with feed:
        yield Setup(sources, loaders, feed, model, stepper)


def open_loaders(
    config: PretrainConfig, sources: Sources, group: ProcessGroup
) -> tuple[Loader, ...]:
    """The loader of each phase; without phases one of all folders."""
    parts = [sources]
    if config.phases:
        parts = [sources.folder(number) for number in order_phases(config, sources)]
    return tuple(Loader(part, config, rank=group.rank, world_size=group.size) for part in parts)


def make_model(config: PretrainConfig, sources: Sources) -> Model:
    """The model that the options ask for, with its first weights, on the CPU."""
    shape, initial = choose_model(config, sources)
    seed_torch(config.seed, "weights")
    model = build_model(shape)
    if initial is not None:
        initial.load_into(model)
    return model


def choose_model(config: PretrainConfig, sources: Sources) -> tuple[ModelConfig, Initial | None]:
    """The shape of the model that the options ask for, and its weights, if they are not drawn."""
    if config.init_from is not None:
        initial = read_initial(
            config.init_from,
            sources.tokenizer,
            objective=sources.objective,
            max_seq_length=sources.max_seq_length,
            dropout=config.dropout,
        )
        return initial.config, initial
    shape = ModelConfig.from_preset(
        config.preset or DEFAULT_PRESET,
        vocab_size=sources.tokenizer.vocab_size,
        max_seq_length=sources.max_seq_length,
        dropout=config.dropout,
        objective=sources.objective,
        share_layers=config.share_layers,
    )
    return shape, None
