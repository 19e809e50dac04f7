"""Recipes: the options of all stages in one TOML file.

    output = "quickstart"                 # folder that the stages write into
    examples = ["The [MASK] is empty."]   # the trained model fills in the masks at the end

    [corpus]                              # inputs, or a command whose output is kept
    inputs = ["books/*.txt"]
    documents = "line"

    [train]                               # a table for each stage, with keys as on its command line
    vocab-size = 8192

    [pretrain]
    betas = [0.9, 0.98]                   # or "0.9,0.98"

A recipe without ``[train]`` names a tokenizer under ``[encode]``. ``encode`` and ``build`` run with
their defaults if they have no table; ``train`` and ``pretrain`` do not run without one. Paths are
relative to where ``tokkit run`` is called, as on every command line.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokkit.engine.files import read_whole
from tokkit.engine.mirrors import pull
from tokkit.errors import TokkitError, UsageError, require
from tokkit.inspection.recipe_folder import FOLDERS
from tokkit.options import find_local, uri_of
from tokkit.shards.objectives import MASKED

_MAX_BYTES = 1 << 20

CORPUS_OPTIONS = (
    *("format", "documents", "text-field", "text-column", "quotes", "no-quotes"),
    *("id-field", "errors", "max-document-bytes"),
)

Table = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """A recipe, and the paths that connect its stages.

    Attributes:
        path: the file.
        output: folder that the stages write into.
        command: shell command that makes the corpus; None if the recipe names inputs.
        inputs: inputs of ``train`` and ``encode``.
        tables: options of each stage that the recipe runs, by the stage's name, in order.
        examples: sentences with masks for the trained model, see ``tokkit.tokenizer.masked_text``.
    """

    path: Path
    output: Path
    command: str | None
    inputs: tuple[str, ...]
    tables: Mapping[str, Mapping[str, Any]]
    examples: tuple[str, ...]

    def folder(self, stage: str) -> Path:
        """Return the folder that a stage writes."""
        return self.output / FOLDERS[stage]

    def paths(self, stage: str) -> dict[str, Any]:
        """Return the fields of a stage's config that connect it with the other stages."""
        inputs: dict[str, dict[str, Any]] = {
            "train": {"inputs": self.inputs},
            "encode": {"inputs": self.inputs, "tokenizer": self.folder("train")},
            "build": {"tokens": self.folder("encode")},
            "pretrain": {"instances": (self.folder("build"),)},
        }
        return {**inputs[stage], "output": self.folder(stage)}


def read_recipe(path: Path, cache: Path | None = None) -> Recipe:
    """Read a recipe.

    Args:
        path: the file.
        cache: folder for copies of what is on stores.

    Raises:
        TokkitError: if the file cannot be read or is not TOML.
        UsageError: naming an unknown key, or a value of the wrong type.
    """
    path = find_local(path, cache)
    pull(path)
    try:
        data = tomllib.loads(read_whole(path, _MAX_BYTES).decode())
    except (ValueError, RecursionError) as error:
        raise TokkitError(f"{path}: not valid TOML: {error}") from error
    tables: dict[str, Table] = {stage: data.pop(stage) for stage in FOLDERS if stage in data}
    for stage, table in tables.items():
        require(isinstance(table, dict), f"{path}: {stage} must be a table, written [{stage}]")
    output, examples = data.pop("output", path.stem), data.pop("examples", [])
    require(isinstance(output, str), f"{path}: output must be a string")
    if data:
        raise UsageError(
            f"{path}: unknown key {min(data)!r}; a recipe has output, examples, "
            f"{', '.join(f'[{stage}]' for stage in FOLDERS)}"
        )
    corpus, encode = tables.get("corpus", {}), tables.get("encode", {})
    reading = {key: corpus.pop(key) for key in CORPUS_OPTIONS if key in corpus}
    folder = find_local(Path(output), cache)
    command, inputs = _read_corpus(corpus, path, folder)
    require(
        ("train" in tables) != ("tokenizer" in encode),
        f"{path}: needs either a [train] table or a tokenizer under [encode]",
    )
    require(
        "train" not in tables or "-" not in inputs,
        f"{path}: two stages cannot read standard input (-)",
    )
    stages: dict[str, Table] = {} if command is None else {"corpus": {}}
    if "train" in tables:
        stages["train"] = {**reading, **tables["train"]}
    stages |= {"encode": {**reading, **encode}, "build": tables.get("build", {})}
    if "pretrain" in tables:
        stages["pretrain"] = tables["pretrain"]
    _check_examples(examples, path, stages)
    return Recipe(path, folder, command, inputs, stages, tuple(examples))


def _read_corpus(corpus: Table, path: Path, output: Path) -> tuple[str | None, tuple[str, ...]]:
    """Return the command, if there is one, and the inputs."""
    command, inputs = corpus.pop("command", None), corpus.pop("inputs", None)
    name = corpus.pop("file", None)
    if corpus:
        raise UsageError(
            f"{path}, [corpus]: unknown key {min(corpus)!r}; known keys are inputs, or command and "
            f"file, and {', '.join(CORPUS_OPTIONS)}"
        )
    require(
        (command is None) != (inputs is None), f"{path}, [corpus]: needs either inputs or a command"
    )
    if command is None:
        is_list = isinstance(inputs, list) and all(isinstance(name, str) for name in inputs)
        require(is_list, f"{path}, [corpus]: inputs must be a list of strings")
        require(name is None, f"{path}, [corpus]: file has no effect without a command")
        return None, tuple(inputs)
    name = "corpus.txt" if name is None else name
    require(isinstance(command, str), f"{path}, [corpus]: command must be a string")
    require(
        isinstance(name, str) and Path(name).name == name,
        f"{path}, [corpus]: file must be a name without folders",
    )
    return command, (uri_of(output / FOLDERS["corpus"] / name),)


def _check_examples(examples: Any, path: Path, stages: Mapping[str, Table]) -> None:
    is_list = isinstance(examples, list) and all(isinstance(text, str) for text in examples)
    require(is_list, f"{path}: examples must be a list of sentences with [MASK]")
    objective = stages["build"].get("objective", "nsp")
    require(
        not examples or objective in MASKED,
        f"{path}: a model of objective {objective} fills no masks; leave out examples, or choose "
        f"one of {', '.join(MASKED)}",
    )
    require(
        not examples or "pretrain" in stages,
        f"{path}: examples have no effect without a [pretrain] table; leave them out",
    )
