"""What a run is, as told from its options and manifests, and what may be in its folder.

Whether there is anything to do is told from these alone, before torch is imported. What a run was
begun with stands in its journal, so that it is not taken up with other options.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tokkit.engine.folder import clear_folder, refuse_inputs, remove_leftovers
from tokkit.engine.journal import Journal
from tokkit.engine.manifest import MANIFEST, Manifest
from tokkit.engine.stage import Outline, describe_difference
from tokkit.errors import TokkitError, os_errors_about
from tokkit.pretraining.config import DEFAULT_PRESET, PretrainConfig, require_objective
from tokkit.pretraining.huggingface import fingerprint_initial

KIND = "run"
EXPORT = "export"

# What the weights do not depend on, or only in their last bits and by what dropout draws; all else
# is part of the key.
FREE_OPTIONS = frozenset(
    {
        "instances",  # wherever they lie: their content is part of the key
        "init_from",  # likewise
        "output",
        "micro_batch_tokens",
        "checkpoint_every",
        "keep_checkpoints",
        "eval_every",
        "tensorboard",
        "device",
        "compile",
        "nproc_per_node",
        "fsdp",
        "threads",
        "overwrite",
        "progress",
    }
)


@dataclass(frozen=True)
class Plan:
    """A run as told from its options and the instances' manifest.

    Attributes:
        config: the options.
        sources: the manifests of the instances.
        initial: fingerprint of the model that the run starts from; None where weights are drawn.
    """

    config: PretrainConfig
    sources: tuple[Manifest, ...]
    initial: str | None

    @classmethod
    def of(cls, config: PretrainConfig) -> "Plan":
        """Look at what the options name.

        Raises:
            UsageError: where the run folder is what is read.
            TokkitError: where a folder is unfinished, or no model here learns from it.
        """
        models = [] if config.init_from is None else [config.init_from]
        refuse_inputs(config.output, [*config.instances, *models])
        sources = tuple(Manifest.read(folder, "instances") for folder in config.instances)
        for folder, source in zip(config.instances, sources, strict=True):
            require_objective(source.options, str(folder))
        initial = None if config.init_from is None else fingerprint_initial(config.init_from)
        return cls(config, sources, initial)

    @property
    def inputs(self) -> list[dict[str, Any]]:
        """The instances' shards, as the run's manifest names them."""
        return [
            {name: row[name] for name in ("name", "bytes", "sha256")}
            for source in self.sources
            for row in source.shards
        ]

    @property
    def outline(self) -> Outline:
        """What the weights depend on."""
        config = self.config
        options = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(config).items()
            if name not in FREE_OPTIONS | {"seed"}
        }
        # A default that is spelled out makes no other run.
        options["phases"] = [list(phase) for phase in config.phases]
        if config.init_from is None:
            options["preset"] = config.preset or DEFAULT_PRESET
        options["init_from"] = self.initial
        if config.max_time is None:
            options["max_steps"] = config.num_steps
        return Outline(
            kind=KIND,
            output=self.config.output,
            options=options,
            tokenizer_fingerprint=self.sources[0].tokenizer_fingerprint or "",
            seed=self.config.seed,
            inputs=self.inputs,
        )


def prepare_folder(plan: Plan) -> None:
    """Make the run folder ready, begun with this plan: by the process that holds its lock.

    Raises:
        TokkitError: where another run, or something else, is there.
    """
    if plan.config.overwrite:
        clear_folder(plan.config.output)
    _take_up(plan)


def _take_up(plan: Plan) -> None:
    """Begin a run, or make sure that the one in the folder was begun with the same options."""
    output, outline = plan.config.output, plan.outline
    journal = Journal.read(output)
    past: Mapping[str, Any] | None = journal.stage
    if (output / MANIFEST).is_file():
        past = asdict(Manifest.read(output))
    if past is None:
        journal.begin(outline.statement)
        return
    if (difference := describe_difference(past, outline.statement)) is not None:
        raise TokkitError(
            f"{output}: holds another run ({difference}); "
            f"choose another folder, or pass --overwrite to make it anew"
        )
    # A finished run gets here when a file of its export is gone.
    with os_errors_about(output):
        (output / MANIFEST).unlink(missing_ok=True)
    remove_leftovers(output)
