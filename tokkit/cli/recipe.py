"""Recipes: the options of all stages in one TOML file.

    output = "quickstart"                 # folder that the stages write into
    examples = ["The [MASK] is empty."]   # the trained model fills in the masks at the end

    [corpus]                              # inputs, or a command whose output is kept
    inputs = ["books/*.txt"]
    documents = "line"

    [train]                               # a table a stage, keys as on its command line
    vocab-size = 8192

A recipe without ``[train]`` names a tokenizer under ``[encode]``. A stage whose table is missing
runs with its defaults, but for ``[train]`` then, and for ``[pretrain]``, which is left out.
Paths are as seen from where ``tokkit run`` is called, as on every command line.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokkit.errors import TokkitError, UsageError, wrap_os_errors
from tokkit.shards.objectives import MASKED

STAGES = ("corpus", "train", "encode", "build", "pretrain")
CORPUS_OPTIONS = ("format", "documents", "text-field", "id-field", "errors")


@dataclass(frozen=True)
class Recipe:
    """A recipe as read, with the paths that connect its stages.

    Attributes:
        path: the file.
        output: folder that the stages write into.
        command: makes the corpus; None where the recipe names inputs.
        inputs: of ``train`` and ``encode``.
        tables: options of each stage that the recipe runs, by the stage's name.
        examples: sentences with masks for the trained model, see ``tokkit.tokenizer.masked_text``.
    """

    path: Path
    output: Path
    command: str | None
    inputs: tuple[str, ...]
    tables: Mapping[str, Mapping[str, Any]]
    examples: tuple[str, ...]

    @property
    def stages(self) -> tuple[str, ...]:
        """Names of the stages that the recipe runs, in order."""
        return tuple(stage for stage in STAGES if stage in self.tables)

    def folder(self, stage: str) -> Path:
        """Where a stage writes."""
        names = {
            "corpus": "corpus",
            "train": "tokenizer",
            "encode": "tokens",
            "build": "instances",
            "pretrain": "run",
        }
        return self.output / names[stage]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        TokkitError: where it cannot be read or is not TOML.
        UsageError: naming a key that recipes do not have, or a value of the wrong kind.
    """
    with wrap_os_errors(path):
        data = path.read_bytes()
    try:
        form = tomllib.loads(data.decode())
    except ValueError as error:
        raise TokkitError(f"{path}: not valid TOML: {error}") from error
    unknown = sorted(set(form) - {"output", "examples", *STAGES})
    if unknown:
        raise UsageError(
            f"{path}: unknown key {unknown[0]!r}; a recipe takes output, examples, "
            f"{', '.join(f'[{stage}]' for stage in STAGES)}"
        )
    tables = {stage: _table(form, stage, path) for stage in STAGES if stage in form}
    corpus = dict(tables.get("corpus", {}))
    command, inputs = _corpus(corpus, path, output := Path(form.get("output", path.stem)))
    reading = {key: corpus.pop(key) for key in CORPUS_OPTIONS if key in corpus}
    if corpus:
        raise UsageError(
            f"{path}, [corpus]: unknown key {min(corpus)!r}; "
            f"it takes inputs, or command and file, and {', '.join(CORPUS_OPTIONS)}"
        )
    runs: dict[str, dict[str, Any]] = {"corpus": {}} if command is not None else {}
    if "train" in tables:
        if "tokenizer" in tables.get("encode", {}):
            raise UsageError(
                f"{path}: give a [train] table or a tokenizer under [encode], not both"
            )
        if "-" in inputs:
            raise UsageError(f"{path}: standard input (-) cannot be read by two stages")
        runs["train"] = {**reading, **tables["train"]}
    elif "tokenizer" not in tables.get("encode", {}):
        raise UsageError(f"{path}: give a [train] table, or a tokenizer under [encode]")
    runs["encode"] = {**reading, **tables.get("encode", {})}
    runs["build"] = dict(tables.get("build", {}))
    if "pretrain" in tables:
        runs["pretrain"] = dict(tables["pretrain"])
    examples = _examples(form, path, str(runs["build"].get("objective", "nsp")))
    return Recipe(path, output, command, inputs, runs, examples)


def _table(form: Mapping[str, Any], name: str, path: Path) -> Mapping[str, Any]:
    table = form[name]
    if not isinstance(table, dict):
        raise UsageError(f"{path}: {name} must be a table, written [{name}]")
    return table


def _corpus(corpus: dict[str, Any], path: Path, output: Path) -> tuple[str | None, tuple[str, ...]]:
    """Take the command or the inputs out of the corpus table."""
    command, name = corpus.pop("command", None), corpus.pop("file", "corpus.txt")
    inputs = corpus.pop("inputs", None)
    if (command is None) == (inputs is None):
        raise UsageError(f"{path}, [corpus]: give either inputs or a command")
    if command is not None:
        if not isinstance(command, str) or not isinstance(name, str) or Path(name).name != name:
            raise UsageError(f"{path}, [corpus]: command is a string, file a name without folders")
        return command, (str(output / "corpus" / name),)
    if not isinstance(inputs, list) or not all(isinstance(name, str) for name in inputs):
        raise UsageError(f"{path}, [corpus]: inputs is a list of strings")
    return None, tuple(inputs)


def _examples(form: Mapping[str, Any], path: Path, objective: str) -> tuple[str, ...]:
    examples = form.get("examples", [])
    if not isinstance(examples, list) or not all(isinstance(example, str) for example in examples):
        raise UsageError(f"{path}: examples must be a list of sentences with [MASK]")
    if examples and objective not in MASKED:
        raise UsageError(
            f"{path}: a model of objective {objective} fills no masks; leave out examples, or "
            f"choose one of {', '.join(MASKED)}"
        )
    return tuple(examples)
