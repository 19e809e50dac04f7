"""The instance folders of a run: opened, and found to go together."""

from dataclasses import dataclass

from tokkit.errors import TokkitError
from tokkit.instances.masks import MaskOptions
from tokkit.pretraining.config import LoaderConfig, require_objective
from tokkit.shards.reader import ShardFolder
from tokkit.vocab.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True)
class Sources:
    """What the instances come from.

    Attributes:
        folders: of instances.
        tokenizer: that made the ids of all.
        masks: how each folder's instances are masked; None where masks are static.
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
        """What the instances were built for."""
        return str(self.folders[0].manifest.options["objective"])


def open_sources(config: LoaderConfig) -> Sources:
    """Open the folders of instances.

    Raises:
        TokkitError: where one is unfinished or damaged, its tokenizer is another than that of its
            shards or of the first folder, its objective is another or not one of masks, or an
            option of masking is given for static masks.
    """
    folders = tuple(ShardFolder.open(path, "instances") for path in config.instances)
    first = folders[0]
    tokenizer = load_tokenizer(first.tokenizer_path)
    tokenizer.require_special("pad", "cls", "sep", "mask")
    if tokenizer.fingerprint != first.header.tokenizer_fingerprint:
        raise TokkitError(
            f"{first.tokenizer_path}: is not the tokenizer that made the shards beside it; "
            f"build the folder again"
        )
    for folder in folders:
        require_objective(folder.manifest.options, str(folder.path))
        if folder.header.tokenizer_fingerprint != tokenizer.fingerprint:
            raise TokkitError(
                f"{folder.path}: was made with another tokenizer than {first.path}; "
                f"encode both corpora with one"
            )
        objective, other = (x.manifest.options["objective"] for x in (folder, first))
        if objective != other:
            raise TokkitError(
                f"{folder.path}: was built with --objective {objective}, but {first.path} with "
                f"{other}; build one of them again"
            )
    return Sources(
        folders=folders,
        tokenizer=tokenizer,
        masks=tuple(_choose_masks(config, folder, tokenizer) for folder in folders),
    )


def _choose_masks(
    config: LoaderConfig, folder: ShardFolder, tokenizer: Tokenizer
) -> MaskOptions | None:
    if folder.manifest.options["masking"] == "dynamic":
        return MaskOptions.make(config, config.seed, tokenizer, folder.header)
    if config.changed_mask_option is not None:
        raise TokkitError(
            f"{folder.path}: was built with --masking static, so {config.changed_mask_option} has "
            f"no effect; leave it out, or build with --masking dynamic"
        )
    return None
