"""The instance folders of a run, and those of each of its phases."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from tokkit.engine.mirrors import pull
from tokkit.errors import TokkitError, UsageError
from tokkit.masking.mask_config import MaskConfig
from tokkit.masking.masks import MaskOptions
from tokkit.pretraining.data.instance_reader import most_predictions
from tokkit.pretraining.data.loader_config import (
    DataConfig,
    LoaderConfig,
    Phase,
    order_by_length,
    require_objective,
)
from tokkit.pretraining.pretrain_config import PretrainConfig
from tokkit.shards.objectives import MASKED, OBJECTIVES
from tokkit.shards.reader import ShardFolder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Sources:
    """The instance folders of a run.

    Attributes:
        folders: instance folders.
        tokenizer: tokenizer of all folders.
        masks: how each folder's training instances are masked; None if masks are static, or there
            are none.
        held_out_masks: same for held-out instances, of which 15% are masked.
    """

    folders: tuple[ShardFolder, ...]
    tokenizer: Tokenizer
    masks: tuple[MaskOptions | None, ...]
    held_out_masks: tuple[MaskOptions | None, ...]

    @property
    def max_seq_length(self) -> int:
        """Maximum length of an instance in any folder."""
        return max(folder.header.max_seq_length for folder in self.folders)

    @property
    def objective(self) -> str:
        """The objective of the instances."""
        return str(self.folders[0].manifest.options["objective"])

    @property
    def is_causal(self) -> bool:
        """Whether each token is predicted from those before it, rather than masked ones."""
        return OBJECTIVES[self.objective].is_causal

    @property
    def pad_id(self) -> int:
        """The id of ``[PAD]``; 0 if there is none, when any id will do."""
        return self.tokenizer.special_ids.get("pad", 0)

    @property
    def max_predictions(self) -> int:
        """Maximum number of predictions in an instance of any folder."""
        if self.is_causal:
            return self.max_seq_length
        return max(
            masks.max_predictions if masks else most_predictions(folder)
            for folder, masks in zip(self.folders, self.masks, strict=True)
        )

    @property
    def mean_tokens(self) -> tuple[float, ...]:
        """Mean number of tokens in a training instance of each folder, from its manifest."""
        means = []
        for folder in self.folders:
            rows = [row for row in folder.manifest.shards if row["name"].startswith("train-")]
            tokens = sum(row.get("tokens", 0) for row in rows)
            means.append(tokens / max(1, sum(row.get("rows", 0) for row in rows)))
        return tuple(means)

    def select(self, numbers: Sequence[int], config: DataConfig) -> "Sources":
        """Return some of the folders, masked according to the options of a phase."""
        return _mask_folders(config, [self.folders[number] for number in numbers], self.tokenizer)


def open_sources(config: DataConfig) -> Sources:
    """Open the folders of instances.

    Raises:
        UsageError: if an option of masking has no effect.
        TokkitError: if a folder is unfinished or damaged, its tokenizer differs from that of its
            shards or of the first folder, or its objective differs or cannot be trained.
    """
    for path in config.folders:
        pull(path)
    folders = [ShardFolder.open(path, "instances") for path in config.folders]
    first = folders[0]
    tokenizer = load_tokenizer(first.tokenizer_path)
    first.require_tokenizer(tokenizer)
    for folder in folders:
        require_objective(folder.manifest.options, str(folder.path))
        if folder.header.tokenizer_fingerprint != tokenizer.fingerprint:
            raise TokkitError(
                f"{folder.path}: was made with another tokenizer than {first.path}; "
                f"encode both corpora with the same one"
            )
        folder.require_tokenizer(tokenizer)
        objective, other = (x.manifest.options["objective"] for x in (folder, first))
        if objective != other:
            raise TokkitError(
                f"{folder.path}: was built with --objective {objective}, but {first.path} with "
                f"{other}; build one of them again"
            )
    if first.manifest.options["objective"] in MASKED:
        tokenizer.require_special("pad", "cls", "sep", "mask")
    elif OBJECTIVES[first.manifest.options["objective"]].targets == "target_ids":
        tokenizer.require_special("pad")  # with which the decoder begins
    return _mask_folders(config, folders, tokenizer)


def _mask_folders(
    config: DataConfig, folders: Sequence[ShardFolder], tokenizer: Tokenizer
) -> Sources:
    masks = (_mask_options(config, folder, tokenizer) for folder in folders)
    training, held_out = zip(*masks, strict=True)
    return Sources(tuple(folders), tokenizer, training, held_out)


def _mask_options(
    config: DataConfig, folder: ShardFolder, tokenizer: Tokenizer
) -> tuple[MaskOptions | None, MaskOptions | None]:
    """Return how training and held-out instances of a folder are masked."""
    options = folder.manifest.options
    is_masked = options["objective"] in MASKED
    if is_masked and options.get("masking") == "dynamic":
        evaluation = replace(config, masked_lm_prob=MaskConfig.masked_lm_prob)
        configs = (config, evaluation)
        training, held_out = (MaskOptions.make(c, tokenizer, folder.header) for c in configs)
        return training, held_out
    if config.changed_mask_option is not None:
        built, remedy = "--masking static", "leave it out, or build with --masking dynamic"
        if not is_masked:
            built, remedy = f"--objective {options['objective']}", "leave it out"
        raise UsageError(
            f"{folder.path}: was built with {built}, so {config.changed_mask_option} has no "
            f"effect; {remedy}"
        )
    return None, None


def divide_phases(
    config: PretrainConfig, sources: Sources
) -> tuple[tuple[Sources, LoaderConfig], ...]:
    """Return the folders and the loader options of each phase; a run without phases has one.

    A phase that is only a length takes the folder that was built with it.

    Args:
        config: options of the run; its phases are in order, its folders in any order.
        sources: instance folders of the run.

    Raises:
        TokkitError: if a folder was built with a length that no phase has, or with the same length
            as another folder.
    """
    options = {name: getattr(config, name) for name in DataConfig.options}
    chosen: list[dict[str, Any]] = [{}]
    if config.lengths:
        built = [(folder.path, folder.header.max_seq_length) for folder in sources.folders]
        numbers = order_by_length(config.lengths, built)
        chosen = [{"instances": (config.folders[number],)} for number in numbers]
    elif config.phases:
        chosen = [phase.loader_options for phase in config.phases if isinstance(phase, Phase)]
    parts = []
    for changed in chosen:
        own = LoaderConfig(**{**options, **changed})
        numbers = [config.folders.index(folder) for folder in own.instances]
        parts.append((sources.select(numbers, own), own))
    return tuple(parts)
