"""What kind of folder a folder is, finished or not, and the folders of a recipe.

Each stage of a recipe has a folder of its own in the recipe's. ``tokkit run`` adds ``recipe.json``:

    {"format_version": 1, "recipe": "corpora/quickstart.toml", "examples": ["The [MASK] is empty."],
     "seconds": {"encode": 0.3, "build": 0.2}}

so that the report can be made again from the folder alone. A stage keeps the seconds of the last
time when it was not up to date.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tokkit.engine.json_files import write_json
from tokkit.engine.manifest import KINDS, MANIFEST, TRAINING, Manifest, read_record
from tokkit.errors import TokkitError, refuse_loop

# The folders of the stages, in order.
FOLDERS = {
    "corpus": "corpus",
    "train": "tokenizer",
    "encode": "tokens",
    "build": "instances",
    "pretrain": "run",
}
RECIPE = "recipe.json"
FORMAT_VERSION = 1


def find_kind(path: Path) -> str | None:
    """Return what a folder holds, finished or not; None if nothing of ours."""
    if (path / MANIFEST).is_file():
        return Manifest.read(path).kind
    if (path / "tokenizer.json").is_file() or (path / TRAINING).is_file():
        return "tokenizer"
    if _has_run(path):
        return "run"
    from tokkit.engine.receipts import read_statement  # not for ``tokkit --help``

    stage = read_statement(path)
    return None if stage is None else stage["kind"]


def require_kind(path: Path, manifest: Manifest) -> None:
    """Refuse a folder whose content is not known, or is not of the kind that its manifest says.

    Raises:
        TokkitError: what could be checked is not known.
    """
    if manifest.kind not in KINDS:
        raise TokkitError(
            f"{path / MANIFEST}: its kind is {manifest.kind}, not one of {', '.join(KINDS)}; "
            f"recreate the folder, or install the release that wrote it"
        )
    is_other = {
        "run": not _has_run(path),
        "corpus": manifest.tokenizer_fingerprint is not None,
    }
    if is_other.get(manifest.kind, False):
        raise TokkitError(
            f"{path / MANIFEST}: says that the folder holds a {manifest.kind}, but its files are "
            f"of another kind; recreate the folder"
        )


def find_run_state(folder: Path) -> str:
    """Return the state of a run: ``finished``, ``training``, ``stopped``, or ``not started``."""
    if (folder / MANIFEST).is_file():
        return "finished"
    from tokkit.engine.folder import is_being_written

    if is_being_written(folder):
        return "training"
    return "stopped" if _has_run(folder) else "not started"


def _has_run(folder: Path) -> bool:
    from tokkit.pretraining.training.run_record import RUN

    return (folder / RUN).is_file()


def find_stages(path: Path) -> Mapping[str, Path]:
    """Return the folders of a recipe's stages, by stage; nothing if the path is one folder itself.

    Raises:
        TokkitError: if the path is missing or no folder.
    """
    if not path.is_dir():
        refuse_loop(path)
        what = (
            "is a file; name the folder that a stage wrote" if path.exists() else "no such folder"
        )
        raise TokkitError(f"{path}: {what}")
    if find_kind(path) is not None:
        return {}
    stages = {stage: path / name for stage, name in FOLDERS.items()}
    known = {stage: folder for stage, folder in stages.items() if folder.is_dir()}
    return {stage: folder for stage, folder in known.items() if find_kind(folder) is not None}


@dataclass(frozen=True, kw_only=True)
class RecipeRecord:
    """The content of ``recipe.json``; see the module."""

    recipe: str
    examples: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def write(self, folder: Path) -> None:
        """Write the record atomically."""
        write_json(folder / RECIPE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> "RecipeRecord | None":
        """Return the record of a folder; None without one.

        Raises:
            TokkitError: it is damaged.
        """
        path = folder / RECIPE
        return read_record(path, cls, FORMAT_VERSION) if path.is_file() else None
