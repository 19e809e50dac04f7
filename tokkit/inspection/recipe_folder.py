"""The folder that the stages of a recipe write into.

Each stage has a folder of its own there. ``tokkit run`` adds ``recipe.json``:

    {"format_version": 1, "recipe": "corpora/quickstart.toml", "examples": ["The [MASK] is empty."],
     "seconds": {"encode": 0.3, "build": 0.2}}

so that the report can be made again from the folder alone. A stage keeps the seconds of the last
time when it was not up to date.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path

from tokkit.engine.json_files import write_json
from tokkit.engine.manifest import read_record

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
