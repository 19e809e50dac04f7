"""The instance folders of a run: opened, and found to match each other."""

from dataclasses import dataclass

from tokkit.errors import TokkitError, UsageError
from tokkit.masking.masks import MaskOptions
from tokkit.pretraining.pretrain_config import (
    LoaderConfig,
    PretrainConfig,
    require_objective,
)
from tokkit.shards.objectives import MASKED, OBJECTIVES
from tokkit.shards.reader import ShardFolder
from tokkit.tokenizer.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Sources:
    """The instance folders of a run.

    Attributes:
        folders: of instances.
        tokenizer: which made the ids of all.
        masks: how each folder's instances are masked; None where masks are static, or there are
            none.
    """

    folders: tuple[ShardFolder, ...]
    tokenizer: Tokenizer
    masks: tuple[MaskOptions | None, ...]

    @property
    def max_seq_length(self) -> int:
        """The longest instance of any folder."""
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
        """The id of ``[PAD]``; 0 where there is none and any would do."""
        return self.tokenizer.special_ids.get("pad", 0)

    @property
    def max_predictions(self) -> int:
        """Most predictions in one instance of any folder."""
        if self.is_causal:
            return self.max_seq_length
        return max(
            masks.max_predictions if masks else folder.manifest.options["max_predictions_per_seq"]
            for folder, masks in zip(self.folders, self.masks, strict=True)
        )

    def folder(self, number: int) -> "Sources":
        """One folder alone, as a phase takes it."""
        return Sources((self.folders[number],), self.tokenizer, (self.masks[number],))


def open_sources(config: LoaderConfig) -> Sources:
    """Open the folders of instances.

    Raises:
        UsageError: an option of masking is given where nothing is masked.
        TokkitError: a folder is unfinished or damaged, its tokenizer differs from that of its
            shards or of the first folder, or its objective differs or is not one that can be
            trained.
    """
    folders = tuple(ShardFolder.open(path, "instances") for path in config.instances)
    first = folders[0]
    tokenizer = load_tokenizer(first.tokenizer_path)
    if tokenizer.fingerprint != first.header.tokenizer_fingerprint:
        raise TokkitError(
            f"{first.tokenizer_path}: is not the tokenizer that made the shards next to it; "
            f"build the folder again"
        )
    for folder in folders:
        require_objective(folder.manifest.options, str(folder.path))
        if folder.header.tokenizer_fingerprint != tokenizer.fingerprint:
            raise TokkitError(
                f"{folder.path}: was made with another tokenizer than {first.path}; "
                f"encode both corpora with the same one"
            )
        objective, other = (x.manifest.options["objective"] for x in (folder, first))
        if objective != other:
            raise TokkitError(
                f"{folder.path}: was built with --objective {objective}, but {first.path} with "
                f"{other}; build one of them again"
            )
    if first.manifest.options["objective"] in MASKED:
        tokenizer.require_special("pad", "cls", "sep", "mask")
    return Sources(
        folders=folders,
        tokenizer=tokenizer,
        masks=tuple(_mask_options(config, folder, tokenizer) for folder in folders),
    )


def _mask_options(
    config: LoaderConfig, folder: ShardFolder, tokenizer: Tokenizer
) -> MaskOptions | None:
    options = folder.manifest.options
    is_masked = options["objective"] in MASKED
    if is_masked and options["masking"] == "dynamic":
        return MaskOptions.make(config, tokenizer, folder.header)
    if config.changed_mask_option is not None:
        built, remedy = "--masking static", "leave it out, or build with --masking dynamic"
        if not is_masked:
            built, remedy = f"--objective {options['objective']}", "leave it out"
        raise UsageError(
            f"{folder.path}: was built with {built}, so {config.changed_mask_option} has no "
            f"effect; {remedy}"
        )
    return None


def order_phases(config: PretrainConfig, sources: Sources) -> tuple[int, ...]:
    """Find the folder of each phase: the one that was built with its length.

    Args:
        config: its ``phases`` are in the order of the run, its folders in any order.
        sources: of the config.

    Returns:
        Numbers of folders, one for each phase.

    Raises:
        TokkitError: a folder was built with a length that no phase has, or with the same length as
            another folder.
    """
    lengths = [length for length, _ in config.phases]
    found: dict[int, int] = {}
    for number, folder in enumerate(sources.folders):
        length = folder.header.max_seq_length
        if length not in lengths:
            raise TokkitError(
                f"{folder.path}: was built with --max-seq-length {length}, but --phases has "
                f"{' and '.join(map(str, lengths))}; build it again, or change --phases"
            )
        if length in found:
            raise TokkitError(
                f"{folder.path}: was built with --max-seq-length {length}, as was "
                f"{sources.folders[found[length]].path}; each phase takes one folder"
            )
        found[length] = number
    return tuple(found[length] for length in lengths)
